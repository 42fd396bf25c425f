//! The whole route table, and what the routes share.

use std::sync::Arc;

use axum::Router;
use axum::response::Redirect;
use axum::routing::{get, patch};
use expman_model::time::{now_us, rfc3339_us};
use tokio::sync::{Semaphore, watch};

use crate::blocking::Reads;
use crate::error::ServeError;
use crate::index::Index;
use crate::security::{Guard, guard};
use crate::watch::Hub;
use crate::{ServeConfig, assets, routes};

/// Event streams open at once.
pub const STREAMS_MAX: usize = 256;

/// What every route can reach.
#[derive(Debug, Clone)]
pub struct AppState {
    /// As the server was started.
    pub config: Arc<ServeConfig>,
    /// RFC 3339 UTC.
    pub started_at: String,
    /// Finds runs by key.
    pub index: Arc<Index>,
    /// Runs that are being followed, each once for all its readers.
    pub hub: Arc<Hub>,
    /// Bounds what reads files at once.
    pub reads: Reads,
    /// A permit for each open event stream.
    pub streams: Arc<Semaphore>,
    /// Becomes true when the server stops.
    pub stopping: watch::Receiver<bool>,
}

impl AppState {
    /// The state of a server that has not been asked anything yet.
    pub fn new(config: ServeConfig, stopping: watch::Receiver<bool>) -> Self {
        let reads = Reads::default();
        let index = Arc::new(Index::new(config.base_dir.clone(), reads.clone()));
        Self {
            config: Arc::new(config),
            started_at: rfc3339_us(now_us()),
            hub: Arc::new(Hub::new(
                Arc::clone(&index),
                reads.clone(),
                stopping.clone(),
            )),
            index,
            reads,
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            stopping,
        }
    }
}

/// Every route there is.
pub fn router(state: AppState, hosts: Guard) -> Router {
    let api = Router::new()
        .route("/health", get(routes::health::health))
        .route("/experiments", get(routes::experiments::list))
        .route("/experiments/{name}", patch(routes::edit::experiment))
        .route("/runs", get(routes::runs::list))
        .route("/columns", get(routes::runs::column_names))
        .route(
            "/runs/{key}",
            get(routes::runs::detail).patch(routes::edit::run),
        )
        .route("/runs/{key}/crash", get(routes::crash::crash))
        .route("/runs/{key}/config", get(routes::runs::config))
        .route("/runs/{key}/stats", get(routes::runs::stats))
        .route("/runs/{key}/events", get(routes::events::list))
        .route("/runs/{key}/keys", get(routes::metrics::keys))
        .route("/runs/{key}/metrics", get(routes::metrics::metrics))
        .route("/runs/{key}/series", get(routes::series::series))
        .route("/runs/{key}/logs", get(routes::logs::logs))
        .route("/runs/{key}/artifacts", get(routes::artifacts::list))
        .route(
            "/runs/{key}/artifacts/{artifact}/content",
            get(routes::artifacts::content),
        )
        .route("/runs/{key}/stream", get(routes::stream::stream))
        .fallback(routes::unknown)
        .with_state(state);
    Router::new()
        .nest("/api", api)
        .fallback(assets::page)
        .layer(axum::middleware::from_fn_with_state(Arc::new(hosts), guard))
}

/// The path that everything is served below, with a slash in front and none behind; empty for the root.
///
/// # Errors
/// When it has anything in it that a path of ours does not have.
pub fn prefix(base_path: &str) -> Result<String, ServeError> {
    let trimmed = base_path.trim_matches('/');
    let good = trimmed
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-._~/".contains(&b));
    let parts_are_names = trimmed.is_empty()
        || trimmed
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..");
    if !good || !parts_are_names {
        return Err(ServeError::NoPath {
            what: base_path.to_owned(),
        });
    }
    Ok(if trimmed.is_empty() {
        String::new()
    } else {
        format!("/{trimmed}")
    })
}

/// Serves the same below a prefix as at the root: some proxies take their prefix off, others do not.
pub fn below(prefix: &str, app: Router) -> Router {
    if prefix.is_empty() {
        return app;
    }
    let slashed = format!("{prefix}/");
    // The page's addresses are relative: they need the slash.
    let there = slashed.clone();
    Router::new()
        .route(prefix, get(async move || Redirect::permanent(&there)))
        .nest_service(&slashed, app.clone())
        .fallback_service(app)
}
