//! Series for charts, and their exact rows for other programs.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use expman_storage::pyramid::{EVERYWHERE, Series};
use expman_storage::{Filter, RunEntry};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Params, names, ranks};
use crate::chart::Charts;
use crate::drawn::{COLUMNS, Drawn, Found};
use crate::error::{Result, ServeError};
use crate::follow::read_rows;
use crate::router::AppState;
use crate::watch::cursor_at;

/// Metrics of one answer.
const KEYS_MAX: usize = 200;
/// Buckets a series may be asked for.
const BUCKETS_ASKED: RangeInclusive<usize> = 1..=4096;
/// Buckets of a series that nobody said a number for.
const BUCKETS: usize = 1024;

/// Which series, and how fine.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SeriesParams {
    /// Metrics, separated by commas; a comma in a name is written `\,`.
    keys: Option<String>,
    /// Ranks, separated by commas.
    rank: Option<String>,
    from_step: Option<i64>,
    to_step: Option<i64>,
    max_points: Option<usize>,
    merge: Option<String>,
}

/// What was asked, checked.
#[derive(Debug)]
struct Question {
    keys: HashSet<String>,
    ranks: Option<HashSet<u32>>,
    range: RangeInclusive<i64>,
    max: usize,
    merge: bool,
}

impl SeriesParams {
    fn question(&self) -> Result<Question> {
        let bad = |what: String| Err(ServeError::BadRequest { what });
        let Some(keys) = self.keys.as_deref().map(names) else {
            return bad("keys is missing: which metrics?".to_owned());
        };
        if keys.len() > KEYS_MAX {
            return bad(format!(
                "{} keys, and at most {KEYS_MAX} are answered at once",
                keys.len()
            ));
        }
        let max = self.max_points.unwrap_or(BUCKETS);
        if !BUCKETS_ASKED.contains(&max) {
            let most = BUCKETS_ASKED.end();
            return bad(format!("max_points is {max}, and must be from 1 to {most}"));
        }
        let from = self.from_step.unwrap_or(*EVERYWHERE.start());
        let to = self.to_step.unwrap_or(*EVERYWHERE.end());
        if from > to {
            return bad(format!("from_step {from} lies behind to_step {to}"));
        }
        let merge = match self.merge.as_deref() {
            None => false,
            Some("ranks") => true,
            Some(other) => return bad(format!("merge is {other:?}, and can only be ranks")),
        };
        Ok(Question {
            keys: keys.into_iter().collect(),
            ranks: self.rank.as_deref().map(ranks).transpose()?,
            range: from..=to,
            max,
            merge,
        })
    }
}

impl Question {
    fn wants(&self, key: &str, rank: u32) -> bool {
        self.keys.contains(key)
            && self
                .ranks
                .as_ref()
                .is_none_or(|ranks| ranks.contains(&rank))
    }

    fn draw(&self, charts: &Charts) -> Drawn {
        let found = charts
            .iter()
            .filter(|(key, rank, _)| self.wants(key, *rank));
        let found = found.map(|(key, rank, series)| Found { key, rank, series });
        Drawn::new(&found.collect::<Vec<_>>(), self.max, self.merge)
    }

    /// Reads the rows of the files.
    fn read(&self, run: &RunEntry) -> Result<Drawn> {
        let mut cursor = cursor_at(run, 0);
        let filter = Filter {
            keys: Some(self.keys.clone()),
            ranks: self.ranks.clone(),
            ..Filter::default()
        };
        let read = read_rows(run, &filter)?;
        cursor.rows = read.total;
        let mut found: BTreeMap<(&str, u32), Series> = BTreeMap::new();
        let rows: Vec<_> = read.rows.iter().collect();
        for row in &rows {
            let series = found.entry((row.key, row.rank)).or_default();
            series.push_within(row, &self.range, 2 * self.max);
        }
        let found = found
            .iter()
            .map(|(&(key, rank), series)| Found { key, rank, series });
        let drawn = Drawn::new(&found.collect::<Vec<_>>(), self.max, self.merge);
        Ok(drawn.told(cursor, read.problems))
    }
}

/// `GET /api/runs/{key}/series?keys=&rank=&from_step=&to_step=&max_points=&merge=ranks`
#[utoipa::path(
    get,
    path = "/runs/{key}/series",
    tag = "metrics",
    params(("key" = String, Path, description = "The run's key, from the list of runs"), SeriesParams),
    responses((status = 200, description = "Series on one grid of steps; by `Accept` as JSON, or as columns of little-endian f64 behind a JSON header", content((Object = "application/json"), (Vec<u8> = "application/vnd.expman.columns"))))
)]
pub async fn series(
    State(state): State<AppState>,
    Path(key): Path<String>,
    headers: HeaderMap,
    Params(params): Params<SeriesParams>,
) -> Result<Response> {
    let question = params.question()?;
    let in_columns = accepts(&headers, COLUMNS);
    let encode = move |drawn: Drawn| {
        let bytes = if in_columns {
            drawn.columns()
        } else {
            drawn.json()
        };
        bytes.map_err(|e| ServeError::Unreadable {
            what: e.to_string(),
        })
    };
    let body = if state.config.live && question.range == EVERYWHERE {
        let watch = state.hub.watch(&key).await?;
        let work = move || {
            let drawn =
                watch.charts(|charts, cursor| question.draw(charts).told(cursor, Vec::new()));
            encode(drawn)
        };
        state.reads.run("the charts", work).await?
    } else {
        let run = state.index.run(&key).await?;
        let what = run.dir.root().display().to_string();
        state
            .reads
            .run(what, move || encode(question.read(&run)?))
            .await?
    };
    let kind = if in_columns {
        COLUMNS
    } else {
        "application/json"
    };
    Ok((
        [(header::CONTENT_TYPE, kind), (header::VARY, "accept")],
        body,
    )
        .into_response())
}

/// Whether a client asked for this type by name.
fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let asked = headers.get_all(header::ACCEPT).iter();
    let mut asked = asked
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','));
    asked.any(|one| {
        one.split(';')
            .next()
            .is_some_and(|name| name.trim() == kind)
    })
}
