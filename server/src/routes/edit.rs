//! What people write about runs and experiments.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use expman_storage::RunKind;
use expman_storage::edits::{Edit, edit_experiment, edit_run};
use serde_json::{Value as Json_, json};

use crate::card::Card;
use crate::error::{Result, ServeError};
use crate::router::AppState;

/// `PATCH /api/runs/{key}` with any of `display_name`, `description`, `tags`; null clears. Answers the run's line.
pub async fn run(
    State(state): State<AppState>,
    Path(key): Path<String>,
    body: Result<Json<Edit>, JsonRejection>,
) -> Result<Json<Json_>> {
    let edit = checked(&state, body)?;
    let run = state.index.run(&key).await?;
    if run.kind != RunKind::Mesh {
        return Err(ServeError::Conflict {
            what: format!("{} was written by another tool", run.dir.root().display()),
        });
    }
    let what = run.dir.root().display().to_string();
    state
        .reads
        .run(what, move || Ok(edit_run(&run.dir, &edit)?))
        .await?;
    state.index.forget().await;
    let listing = state.index.listing().await?;
    let card = listing.cards.iter().find(|card| card.place.key == key);
    let line = |card: &std::sync::Arc<Card>| Json(card.line(&[]));
    card.map(line)
        .ok_or(ServeError::NotFound { what: "this run" })
}

/// `PATCH /api/experiments/{name}`, the same for an experiment. Answers its record.
pub async fn experiment(
    State(state): State<AppState>,
    Path(name): Path<String>,
    body: Result<Json<Edit>, JsonRejection>,
) -> Result<Response> {
    let edit = checked(&state, body)?;
    // Looked up among those that there are, never joined into a path.
    let all = state.index.experiments().await?;
    let known = all.into_iter().find(|e| e.name == name);
    let known = known.ok_or(ServeError::NotFound {
        what: "this experiment",
    })?;
    let folder = state.config.base_dir.join(&known.name);
    let what = folder.display().to_string();
    let meta = state
        .reads
        .run(what, move || Ok(edit_experiment(&folder, &edit)?))
        .await?;
    Ok(Json(json!({ "name": known.name, "meta": meta })).into_response())
}

fn checked(state: &AppState, body: Result<Json<Edit>, JsonRejection>) -> Result<Edit> {
    if state.config.read_only {
        return Err(ServeError::ReadOnly);
    }
    let bad = |what: String| ServeError::BadRequest { what };
    let Json(edit) = body.map_err(|e| bad(e.body_text()))?;
    edit.check().map_err(bad)?;
    Ok(edit)
}
