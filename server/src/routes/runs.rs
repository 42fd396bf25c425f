//! Runs: the list, and one run's record, parameters and figures.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use expman_model::Param;
use expman_storage::text::{self, LogKind};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json_, json};
use utoipa::{IntoParams, ToSchema};

use super::Params;
use crate::card::{Card, Column, NoColumn};
use crate::error::{Result, ServeError};
use crate::index::{Changes, Listing};
use crate::router::AppState;
use crate::stamps::Stamps;
use crate::wire::{self, RunSummary};

/// Names of each kind that are told.
const NAMES_MAX: usize = 2_000;
/// Columns of one answer.
const COLUMNS_MAX: usize = 64;

/// Which runs, and what of them.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Only those of this experiment.
    experiment: Option<String>,
    /// The version of an earlier answer: only what changed since. Empty for everything, with a version.
    since: Option<String>,
    /// `metric:NAME`, `min:NAME`, `max:NAME`, `scalar:NAME`, `param:NAME`, separated by commas; a comma in a name is
    /// written `\,`.
    columns: Option<String>,
}

/// What changed in the list of runs.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunChanges {
    /// What to give back as `since`.
    version: String,
    /// Whether these are all runs: the client has to forget those that it has.
    full: bool,
    /// How many runs there are.
    total: usize,
    /// Lines of the list, each with its `columns`.
    #[schema(value_type = Vec<Object>)]
    changed: Vec<Json_>,
    /// Keys of runs that went away.
    removed: Vec<String>,
}

impl RunChanges {
    /// What is new since a version, of one experiment or of all.
    pub fn of(
        listing: &Listing,
        since: &str,
        columns: &[Column],
        experiment: Option<&str>,
    ) -> Self {
        let Changes {
            full,
            mut cards,
            removed,
        } = listing.since(since);
        choose(&mut cards, experiment);
        Self {
            version: listing.version(),
            full,
            total: listing.cards.len(),
            changed: cards.iter().map(|card| card.line(columns)).collect(),
            removed,
        }
    }
}

/// Those of one experiment or of all, the newest first.
fn choose(cards: &mut Vec<Arc<Card>>, experiment: Option<&str>) {
    cards.retain(|card| experiment.is_none_or(|e| e == card.summary.experiment()));
    cards.sort_by(|a, b| b.summary.started_at().cmp(&a.summary.started_at()));
}

/// The list of runs: all of it, or what changed.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes what `list` writes")]
pub enum RunList {
    /// Without `since` and `columns`.
    All(Vec<RunSummary>),
    /// With one of them.
    Changes(RunChanges),
}

/// `GET /api/runs?experiment=&since=&columns=`, the newest first
#[utoipa::path(
    get,
    path = "/runs",
    tag = "runs",
    params(ListParams),
    responses((status = 200, description = "The newest first; with `since` or `columns` an object of what changed: version, full, total, changed, removed", body = RunList))
)]
pub async fn list(
    State(state): State<AppState>,
    Params(params): Params<ListParams>,
) -> Result<Response> {
    let columns = columns(params.columns.as_deref())?;
    let listing = state.index.listing().await?;
    let is_plain = params.since.is_none() && columns.is_empty();
    // Where blocking is allowed: parameters are read from files, and ten thousand lines take a while.
    let body = state.reads.run("the list of runs", move || {
        let experiment = params.experiment.as_deref();
        if !is_plain {
            let since = params.since.as_deref().unwrap_or_default();
            let changes = RunChanges::of(&listing, since, &columns, experiment);
            return Ok(serde_json::to_vec(&changes)?);
        }
        let mut cards = listing.cards.clone();
        choose(&mut cards, experiment);
        let lines: Vec<_> = cards.iter().map(|card| &card.summary).collect();
        Ok(serde_json::to_vec(&lines)?)
    });
    let body = body.await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// The columns in a list of them.
pub fn columns(list: Option<&str>) -> Result<Vec<Column>> {
    let bad = |what: String| ServeError::BadRequest { what };
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return Ok(Vec::new());
    };
    let names = super::names(list);
    if names.len() > COLUMNS_MAX {
        return Err(bad(format!("more than {COLUMNS_MAX} columns")));
    }
    let column = |name: &String| name.parse().map_err(|e: NoColumn| bad(e.to_string()));
    names.iter().map(column).collect()
}

/// `GET /api/columns`: what the columns of the list may show, over all runs
#[utoipa::path(
    get,
    path = "/columns",
    tag = "runs",
    responses((status = 200, description = "Names over all runs", body = Object))
)]
pub async fn column_names(State(state): State<AppState>) -> Result<Json<Json_>> {
    let listing = state.index.listing().await?;
    let names = state.reads.run("the names in all runs", move || {
        let (mut metrics, mut scalars) = (BTreeSet::new(), BTreeSet::new());
        let mut params = BTreeSet::new();
        for card in &listing.cards {
            metrics.extend(card.metrics().map(str::to_owned));
            scalars.extend(card.summary.scalars().map(str::to_owned));
            params.extend(card.params().keys().cloned());
        }
        let more = [&metrics, &scalars, &params]
            .iter()
            .any(|names| names.len() > NAMES_MAX);
        let some = |names: BTreeSet<String>| names.into_iter().take(NAMES_MAX).collect::<Vec<_>>();
        Ok(json!({
            "metrics": some(metrics),
            "scalars": some(scalars),
            "params": some(params),
            "more": more,
        }))
    });
    Ok(Json(names.await?))
}

/// `GET /api/runs/{key}`
#[utoipa::path(
    get,
    path = "/runs/{key}",
    tag = "run",
    params(("key" = String, Path, description = "The run's key, from the list of runs")),
    responses((status = 200, description = "Its record", body = Object))
)]
pub async fn detail(State(state): State<AppState>, Path(key): Path<String>) -> Result<Json<Json_>> {
    let run = state.index.run(&key).await?;
    let dir = run.dir.clone();
    let what = dir.root().display().to_string();
    let stamps = state.reads.run(what, move || Ok(Stamps::of(&dir))).await?;
    Ok(Json(wire::detail(&run, &stamps, true)))
}

/// `GET /api/runs/{key}/config`
#[utoipa::path(
    get,
    path = "/runs/{key}/config",
    tag = "run",
    params(("key" = String, Path, description = "The run's key, from the list of runs")),
    responses((status = 200, description = "Its parameters", body = Object))
)]
pub async fn config(State(state): State<AppState>, Path(key): Path<String>) -> Result<Json<Json_>> {
    let run = state.index.run(&key).await?;
    let path = run.dir.config();
    let what = path.display().to_string();
    let tree = state
        .reads
        .run(what, move || {
            Ok(expman_storage::yaml::read::<Param>(&path)?)
        })
        .await?;
    Ok(Json(tree.as_ref().map_or_else(|| json!({}), wire::param)))
}

/// `GET /api/runs/{key}/stats`
#[utoipa::path(
    get,
    path = "/runs/{key}/stats",
    tag = "run",
    params(("key" = String, Path, description = "The run's key, from the list of runs")),
    responses((status = 200, description = "Its counts, and bytes on disk", body = Object))
)]
pub async fn stats(State(state): State<AppState>, Path(key): Path<String>) -> Result<Json<Json_>> {
    let run = state.index.run(&key).await?;
    let size = |path: std::path::PathBuf| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let dir = run.dir.clone();
    let bytes = state.reads.run(dir.root().display().to_string(), move || {
        let hidden = |paths: Vec<std::path::PathBuf>| paths.into_iter().map(size).sum::<u64>();
        Ok(json!({
            "metrics": size(dir.metrics()),
            "segments": hidden(dir.segments()?.into_iter().map(|s| s.path).collect()),
            "logs": hidden(dir.wals()?.into_iter().map(|w| w.path).collect()),
            "run_log": text::stored_bytes(&dir, LogKind::Run)?,
            "console_log": text::stored_bytes(&dir, LogKind::Console)?,
            "events": size(dir.events()),
        }))
    });
    let bytes = bytes.await?;
    let meta = &run.meta;
    Ok(Json(json!({
        "rows": meta.rows,
        "dropped": meta.dropped,
        "metrics": meta.metrics.len(),
        "ranks": meta.ranks.len(),
        "processes": meta.ranks.values().map(Vec::len).sum::<usize>(),
        "duration_secs": meta.duration_secs,
        "owner_epoch": meta.owner_epoch,
        "bytes": bytes,
    })))
}
