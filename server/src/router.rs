//! The whole route table, and what the routes share.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use tokio::sync::{Semaphore, watch};

use crate::blocking::Reads;
use crate::index::Index;
use crate::security::{Guard, guard};
use crate::sparks::Sparks;
use crate::watch::Hub;
use crate::{ServeConfig, assets, routes};

/// Event streams open at once.
pub const STREAMS_MAX: usize = 256;

/// Exports of rows at once; each holds a thread.
pub const EXPORTS_MAX: usize = 32;

/// What every route can reach.
#[derive(Debug, Clone)]
pub struct AppState {
    /// As the server was started.
    pub config: Arc<ServeConfig>,
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
    let api = Router::new()
        .route("/health", get(routes::health::health))
        .route("/experiments", get(routes::experiments::list))
        .route("/runs", get(routes::runs::list))
        .route("/runs/{key}", get(routes::runs::detail))
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
        .route("/sparklines", get(routes::sparklines::sparklines))
        .route("/runs/{key}/stream", get(routes::stream::stream))
        .fallback(routes::unknown)
        .with_state(state);
    Router::new()
        .nest("/api", api)
        .fallback(assets::page)
        .layer(axum::middleware::from_fn_with_state(Arc::new(hosts), guard))
}
