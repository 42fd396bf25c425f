//! Runs: the list, and one run's record, parameters and figures.

use axum::Json;
use axum::extract::{Path, State};
use expman_model::Param;
use expman_storage::text::{self, LogKind};
use serde::Deserialize;
use serde_json::{Value as Json_, json};

use super::Params;
use crate::error::Result;
use crate::router::AppState;
use crate::stamps::Stamps;
use crate::wire::{self, RunSummary};

/// Which runs.
#[derive(Debug, Deserialize)]
pub struct ListParams {
    experiment: Option<String>,
}

/// `GET /api/runs?experiment=`, the newest first
pub async fn list(
    State(state): State<AppState>,
    Params(params): Params<ListParams>,
) -> Result<Json<Vec<RunSummary>>> {
    let runs = state.index.runs().await?;
    let wanted = |name: &str| params.experiment.as_deref().is_none_or(|e| e == name);
    let mut found: Vec<_> = runs.iter().filter(|run| wanted(&run.experiment)).collect();
    found.sort_by(|a, b| b.meta.started_at.cmp(&a.meta.started_at));
    Ok(Json(found.into_iter().map(RunSummary::from).collect()))
}

/// `GET /api/runs/{key}`
pub async fn detail(State(state): State<AppState>, Path(key): Path<String>) -> Result<Json<Json_>> {
    let run = state.index.run(&key).await?;
    let dir = run.dir.clone();
    let what = dir.root().display().to_string();
    let stamps = state.reads.run(what, move || Ok(Stamps::of(&dir))).await?;
    Ok(Json(wire::detail(&run, &stamps, true)))
}

/// `GET /api/runs/{key}/config`
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
