//! How a run failed.

use axum::Json;
use axum::extract::{Path, State};
use expman_storage::crash::Crash;
use serde::Deserialize;
use serde_json::Value as Json_;
use utoipa::IntoParams;

use super::Params;
use crate::error::Result;
use crate::router::AppState;

/// Last lines of each process, when the number is not said, and at most.
const LINES: (usize, usize) = (20, 1_000);

/// How much of it.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CrashParams {
    /// So many of the last lines of each process that ended badly.
    lines: Option<usize>,
}

/// `GET /api/runs/{key}/crash?lines=`: as `expman inspect --crash --json`
#[utoipa::path(
    get,
    path = "/runs/{key}/crash",
    tag = "run",
    params(("key" = String, Path, description = "The run's key, from the list of runs"), CrashParams),
    responses((status = 200, description = "As `expman inspect --crash --json`", body = Object))
)]
pub async fn crash(
    State(state): State<AppState>,
    Path(key): Path<String>,
    Params(params): Params<CrashParams>,
) -> Result<Json<Json_>> {
    let run = state.index.run(&key).await?;
    let lines = params.lines.unwrap_or(LINES.0).min(LINES.1);
    let what = run.dir.root().display().to_string();
    let found = state
        .reads
        .run(what, move || Ok(Crash::of(&run, lines).to_json(&run)));
    Ok(Json(found.await?))
}
