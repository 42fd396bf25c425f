//! Metric values: exact, or as the buckets of a chart.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use expman_storage::pyramid::Totals;
use expman_storage::{Filter, RunEntry};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Params, names, ranks};
use crate::chart::{BUCKETS_MAX, Charts};
use crate::error::{Result, ServeError};
use crate::follow::{Found, read_rows};
use crate::router::AppState;
use crate::series::{Metrics, bucketed, exact};
use crate::watch::{Watch, cursor_at};

/// Points of one exact answer; more are to be had as buckets, or from the files.
const POINTS_MAX: usize = 2_000_000;
/// Buckets a series may be asked for.
const BUCKETS_ASKED: std::ops::RangeInclusive<usize> = 1..=100_000;

/// Which points.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MetricParams {
    since_step: Option<i64>,
    /// Ranks, separated by commas.
    rank: Option<String>,
    /// Metrics, separated by commas; a comma in a name is written `\,`.
    keys: Option<String>,
    max_points: Option<usize>,
}

impl MetricParams {
    fn filter(&self) -> Result<Filter> {
        let bad = |what: String| ServeError::BadRequest { what };
        if let Some(max) = self.max_points.filter(|max| !BUCKETS_ASKED.contains(max)) {
            return Err(bad(format!(
                "max_points is {max}, and must be from 1 to {}",
                BUCKETS_ASKED.end()
            )));
        }
        Ok(Filter {
            keys: self
                .keys
                .as_deref()
                .map(|list| names(list).into_iter().collect()),
            ranks: self.rank.as_deref().map(ranks).transpose()?,
            since_step: self.since_step,
            ..Filter::default()
        })
    }
}

/// `GET /api/runs/{key}/metrics?since_step=&rank=&keys=&max_points=`
#[utoipa::path(
    get,
    path = "/runs/{key}/metrics",
    tag = "metrics",
    params(("key" = String, Path, description = "The run's key, from the list of runs"), MetricParams),
    responses((status = 200, description = "Exact points, or buckets with `max_points`", body = Object))
)]
pub async fn metrics(
    State(state): State<AppState>,
    Path(key): Path<String>,
    Params(params): Params<MetricParams>,
) -> Result<Response> {
    let filter = params.filter()?;
    let body = match params.max_points {
        // A run that is followed has its charts at hand, and its cursor fits them exactly.
        Some(max) if state.config.live && max <= BUCKETS_MAX / 2 && filter.since_step.is_none() => {
            let watch = state.hub.watch(&key).await?;
            state
                .reads
                .run("the charts", move || {
                    json(&from_charts(&watch, &filter, max))
                })
                .await?
        }
        max => {
            let run = state.index.run(&key).await?;
            let what = run.dir.root().display().to_string();
            state
                .reads
                .run(what, move || json(&from_files(&run, &filter, max)?))
                .await?
        }
    };
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// Made where blocking is allowed: an answer may have millions of numbers.
fn json(metrics: &Metrics) -> Result<Vec<u8>> {
    serde_json::to_vec(metrics).map_err(|e| ServeError::Unreadable {
        what: e.to_string(),
    })
}

fn from_charts(watch: &Watch, filter: &Filter, max: usize) -> Metrics {
    let wanted = |key: &str, rank: u32| {
        filter.keys.as_ref().is_none_or(|keys| keys.contains(key))
            && filter
                .ranks
                .as_ref()
                .is_none_or(|ranks| ranks.contains(&rank))
    };
    watch.charts(|charts, cursor| {
        let (bucket, series) = bucketed(charts, max, wanted);
        Metrics {
            cursor: cursor.to_string(),
            bucket: Some(bucket),
            series,
            problems: Vec::new(),
        }
    })
}

/// Reads the files: what is asked for is not what a chart of the whole run shows.
fn from_files(run: &RunEntry, filter: &Filter, max: Option<usize>) -> Result<Metrics> {
    // The logs' ends first: what comes meanwhile is then streamed, and not skipped.
    let mut cursor = cursor_at(run, 0);
    let Found {
        rows,
        total,
        problems,
    } = read_rows(run, filter)?;
    cursor.rows = total;
    let cursor = cursor.to_string();
    let Some(max) = max else {
        if rows.len() > POINTS_MAX {
            let what = format!(
                "{} points, more than {POINTS_MAX}: ask with max_points, keys, rank or since_step",
                rows.len()
            );
            return Err(ServeError::BadRequest { what });
        }
        return Ok(Metrics {
            cursor,
            bucket: None,
            series: exact([(&rows, 0..rows.len())]),
            problems,
        });
    };
    let mut charts = Charts::with_buckets(max.saturating_mul(2));
    charts.extend(&rows);
    let (bucket, series) = bucketed(&charts, max, |_, _| true);
    Ok(Metrics {
        cursor,
        bucket: Some(bucket),
        series,
        problems,
    })
}

/// One metric.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyInfo {
    key: String,
    ranks: Vec<u32>,
    points: u64,
    last_step: Option<i64>,
    /// `number`, `text` or `both`.
    kind: &'static str,
    /// Its lowest time, microseconds since 1970 UTC.
    first: Option<i64>,
}

impl KeyInfo {
    fn new(key: &str, ranks: Vec<u32>, totals: &Totals) -> Self {
        Self {
            key: key.to_owned(),
            ranks,
            points: totals.points,
            last_step: totals.last_step,
            kind: match (totals.has_numbers(), totals.texts > 0) {
                (true, true) => "both",
                (false, true) => "text",
                _ => "number",
            },
            first: totals.first_us,
        }
    }
}

/// `GET /api/runs/{key}/keys`
#[utoipa::path(
    get,
    path = "/runs/{key}/keys",
    tag = "metrics",
    params(("key" = String, Path, description = "The run's key, from the list of runs")),
    responses((status = 200, description = "Its metrics", body = Vec<KeyInfo>))
)]
pub async fn keys(
    State(state): State<AppState>,
    Path(key): Path<String>,
) -> Result<Json<Vec<KeyInfo>>> {
    let watch = state.hub.watch(&key).await?;
    let keys = watch.charts(|charts, _| {
        let info = charts.metrics().map(|(key, ranks)| {
            let mut totals = Totals::default();
            for series in ranks.values() {
                totals.merge(&series.totals);
            }
            KeyInfo::new(key, ranks.keys().copied().collect(), &totals)
        });
        info.collect()
    });
    Ok(Json(keys))
}
