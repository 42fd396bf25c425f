//! Metric values: exact, or as the buckets of a chart.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use expman_storage::pyramid::{EVERYWHERE, Totals};
use expman_storage::{Filter, RunEntry};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Params, names, ranks};
use crate::error::{Result, ServeError};
use crate::follow::{Found, read_rows};
use crate::question::{Answer, Question};
use crate::router::AppState;
use crate::series::{Metrics, bucketed, exact};
use crate::watch::cursor_at;

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
        Some(max) if state.config.live && filter.since_step.is_none() => {
            let watch = state.hub.watch(&key).await?;
            let question = question(filter, max);
            state
                .reads
                .run("the charts", move || {
                    json(&buckets(question.followed(&watch)?, max))
                })
                .await?
        }
        Some(max) => {
            let run = state.index.run(&key).await?;
            let what = run.dir.root().display().to_string();
            let question = question(filter, max);
            state
                .reads
                .run(what, move || {
                    json(&buckets(question.read(&run, state.hub.made())?, max))
                })
                .await?
        }
        None => {
            let run = state.index.run(&key).await?;
            let what = run.dir.root().display().to_string();
            state
                .reads
                .run(what, move || json(&from_files(&run, &filter)?))
                .await?
        }
    };
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn question(filter: Filter, max: usize) -> Question {
    let from = filter.since_step.unwrap_or(*EVERYWHERE.start());
    Question {
        keys: filter.keys,
        ranks: filter.ranks,
        range: from..=*EVERYWHERE.end(),
        max,
    }
}

fn buckets(answer: Answer, max: usize) -> Metrics {
    let (bucket, series) = bucketed(&answer.found, max);
    Metrics {
        cursor: answer.cursor.to_string(),
        bucket: Some(bucket),
        series,
        problems: answer.problems,
    }
}

/// Made where blocking is allowed: an answer may have millions of numbers.
fn json(metrics: &Metrics) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(metrics)?)
}

/// Every point, exact.
fn from_files(run: &RunEntry, filter: &Filter) -> Result<Metrics> {
    // The logs' ends first: what comes meanwhile is then streamed, and not skipped.
    let mut cursor = cursor_at(run, 0);
    let Found {
        rows,
        total,
        problems,
    } = read_rows(run, filter)?;
    cursor.rows = total;
    if rows.len() > POINTS_MAX {
        let what = format!(
            "{} points, more than {POINTS_MAX}: ask with max_points, keys, rank or since_step",
            rows.len()
        );
        return Err(ServeError::BadRequest { what });
    }
    Ok(Metrics {
        cursor: cursor.to_string(),
        bucket: None,
        series: exact([(&rows, 0..rows.len())]),
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
    let all = watch.charts(|charts, _, _| charts.totals());
    let keys = all.iter().map(|(key, ranks)| {
        let mut totals = Totals::default();
        for own in ranks.values() {
            totals.merge(own);
        }
        KeyInfo::new(key, ranks.keys().copied().collect(), &totals)
    });
    Ok(Json(keys.collect()))
}
