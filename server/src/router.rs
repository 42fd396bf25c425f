//! The whole route table, and what the routes share.

use std::sync::Arc;

use axum::Router;
use axum::response::Redirect;
use axum::routing::get;
use expman_model::time::{now_us, rfc3339_us};
use tokio::sync::{Semaphore, watch};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::blocking::Reads;
use crate::error::ServeError;
use crate::index::Index;
use crate::security::{Guard, guard};
use crate::sparks::Sparks;
use crate::watch::Hub;
use crate::{ServeConfig, assets, openapi, routes};

/// Event streams open at once.
pub const STREAMS_MAX: usize = 256;

/// Exports of rows at once; each holds a thread.
pub const EXPORTS_MAX: usize = 32;

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
    /// Lines of the table of runs.
    pub sparks: Sparks,
    /// A permit for each open event stream.
    pub streams: Arc<Semaphore>,
    /// A permit for each export of rows, which lasts as long as its client likes.
    pub exports: Arc<Semaphore>,
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
            sparks: Sparks::default(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            exports: Arc::new(Semaphore::new(EXPORTS_MAX)),
            stopping,
        }
    }
}

/// Every route there is.
pub fn router(state: AppState, hosts: Guard) -> Router {
    let (api, description) = described();
    let text = openapi::text(&description);
    let api = api
        .route(
            "/openapi.json",
            get(move || async { openapi::answer(text) }),
        )
        .fallback(routes::unknown)
        .with_state(state);
    Router::new()
        .nest("/api", api)
        .fallback(assets::page)
        .layer(axum::middleware::from_fn_with_state(Arc::new(hosts), guard))
}

/// Every route of the API, with its description.
pub fn described() -> (Router<AppState>, OpenApi) {
    let (api, mut description) = OpenApiRouter::with_openapi(openapi::head())
        .routes(routes!(routes::health::health))
        .routes(routes!(routes::experiments::list))
        .routes(routes!(routes::edit::experiment))
        .routes(routes!(routes::runs::list))
        .routes(routes!(routes::runs::column_names))
        .routes(routes!(routes::runs::detail, routes::edit::run))
        .routes(routes!(routes::runs::config))
        .routes(routes!(routes::runs::stats))
        .routes(routes!(routes::crash::crash))
        .routes(routes!(routes::events::list))
        .routes(routes!(routes::metrics::keys))
        .routes(routes!(routes::metrics::metrics))
        .routes(routes!(routes::series::series))
        .routes(routes!(routes::sparklines::sparklines))
        .routes(routes!(routes::logs::logs))
        .routes(routes!(routes::artifacts::list))
        .routes(routes!(routes::artifacts::content))
        .routes(routes!(routes::artifacts::inline))
        .routes(routes!(routes::artifacts::preview))
        .routes(routes!(routes::stream::of_run))
        .routes(routes!(routes::stream::of_tab))
        .split_for_parts();
    openapi::add_refusals(&mut description);
    (api, description)
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
