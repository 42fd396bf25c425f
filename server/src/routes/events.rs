//! What happened to a run.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value as Json_, json};
use utoipa::IntoParams;

use super::Params;
use crate::error::Result;
use crate::router::AppState;

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventParams {
    /// Only those behind the event with this id.
    after: Option<String>,
}

/// `GET /api/runs/{key}/events?after=`
#[utoipa::path(
    get,
    path = "/runs/{key}/events",
    tag = "run",
    params(("key" = String, Path, description = "The run's key, from the list of runs"), EventParams),
    responses((status = 200, description = "What happened to it, and lines of the file that are no events", body = Object))
)]
pub async fn list(
    State(state): State<AppState>,
    Path(key): Path<String>,
    Params(params): Params<EventParams>,
) -> Result<Json<Json_>> {
    let run = state.index.run(&key).await?;
    let path = run.dir.events();
    let what = path.display().to_string();
    let (mut events, malformed) = state
        .reads
        .run(what, move || Ok(expman_storage::events::read(&path)?))
        .await?;
    let cursor = events.last().map(|e| e["id"].clone());
    if let Some(after) = params.after {
        // An id that is not there gives everything: better twice than not at all.
        if let Some(at) = events.iter().position(|e| e["id"] == after.as_str()) {
            events.drain(..=at);
        }
    }
    let malformed: Vec<_> = malformed
        .into_iter()
        .map(|m| json!({ "line": m.line, "what": m.what }))
        .collect();
    Ok(Json(
        json!({ "cursor": cursor, "events": events, "malformed": malformed }),
    ))
}
