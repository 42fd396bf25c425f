//! Whether the server is there, and what it serves.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::router::AppState;

/// See the module.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    status: &'static str,
    version: &'static str,
    live: bool,
    read_only: bool,
    /// When this server started, RFC 3339 UTC: another time is another server.
    started_at: String,
    base_dir: String,
}

/// `GET /api/health`
#[utoipa::path(
    get,
    path = "/health",
    tag = "server",
    responses((status = 200, description = "It is there", body = Health))
)]
pub async fn health(State(state): State<AppState>) -> Json<Health> {
    Json(Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        live: state.config.live,
        read_only: state.config.read_only,
        started_at: state.started_at.clone(),
        base_dir: state.config.base_dir.display().to_string(),
    })
}
