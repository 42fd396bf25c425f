//! What people write about runs and experiments.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use expman_storage::RunKind;
use expman_storage::edits::{Edit, edit_experiment, edit_run};
use serde_json::{Value as Json_, json};
use utoipa::ToSchema;

use crate::error::{Problem, Result, ServeError};
use crate::router::AppState;
use crate::wire::RunSummary;

/// [`Edit`] in the words of the API's description.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it stands for what is read as `Edit`")]
pub struct EditBody {
    /// A name for people.
    #[schema(max_length = 200)]
    display_name: Option<String>,
    /// A text of at most 64 KiB.
    description: Option<String>,
    /// All tags.
    #[schema(max_items = 100)]
    tags: Option<Vec<String>>,
}

/// `PATCH /api/runs/{key}` with any of `display_name`, `description`, `tags`; null clears. Answers the run's line.
#[utoipa::path(
    patch,
    path = "/runs/{key}",
    tag = "runs",
    request_body(content = EditBody, description = "What is to change; null clears"),
    params(("key" = String, Path, description = "The run's key, from the list of runs"), ("x-expman" = String, Header, description = "Any value: a page of another site can not send it")),
    responses((status = 200, description = "Its line in the list of runs", body = RunSummary), (status = 409, description = "The run was written by another tool", body = Problem))
)]
pub async fn run(
    State(state): State<AppState>,
    Path(key): Path<String>,
    body: Result<Json<Json_>, JsonRejection>,
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
    let card = listing.card(&key);
    card.map(|card| Json(card.line(&[])))
        .ok_or(ServeError::NotFound { what: "this run" })
}

/// `PATCH /api/experiments/{name}`, the same for an experiment. Answers its record.
#[utoipa::path(
    patch,
    path = "/experiments/{name}",
    tag = "runs",
    request_body(content = EditBody, description = "What is to change; null clears"),
    params(("name" = String, Path, description = "The experiment's folder"), ("x-expman" = String, Header, description = "Any value: a page of another site can not send it")),
    responses((status = 200, description = "Its record", body = Object))
)]
pub async fn experiment(
    State(state): State<AppState>,
    Path(name): Path<String>,
    body: Result<Json<Json_>, JsonRejection>,
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

fn checked(state: &AppState, body: Result<Json<Json_>, JsonRejection>) -> Result<Edit> {
    if state.config.read_only {
        return Err(ServeError::ReadOnly);
    }
    let bad = |what: String| ServeError::BadRequest { what };
    let Json(body) = body.map_err(|e| bad(e.body_text()))?;
    // A list would be read as the fields in their order.
    if !body.is_object() {
        return Err(bad("the body is no JSON object".to_owned()));
    }
    // Read once more by what names the field that is wrong.
    let text = body.to_string();
    let Json(edit) = Json::<Edit>::from_bytes(text.as_bytes()).map_err(|e| bad(e.body_text()))?;
    edit.check().map_err(bad)?;
    Ok(edit)
}
