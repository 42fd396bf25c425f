//! The folders above the runs.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::Result;
use crate::router::AppState;

/// One experiment.
#[derive(Debug, Serialize, ToSchema)]
pub struct Experiment {
    name: String,
    display_name: Option<String>,
    description: Option<String>,
    tags: Vec<String>,
    runs: usize,
    problem: Option<String>,
}

/// `GET /api/experiments`
#[utoipa::path(
    get,
    path = "/experiments",
    tag = "runs",
    responses((status = 200, description = "Every experiment", body = Vec<Experiment>))
)]
pub async fn list(State(state): State<AppState>) -> Result<Json<Vec<Experiment>>> {
    let found = state.index.experiments().await?;
    let experiments = found.into_iter().map(|e| Experiment {
        name: e.name,
        display_name: e.meta.display_name,
        description: e.meta.description,
        tags: e.meta.tags,
        runs: e.runs,
        problem: e.problem,
    });
    Ok(Json(experiments.collect()))
}
