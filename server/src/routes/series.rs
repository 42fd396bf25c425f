//! Series for charts, and their exact rows for other programs.

use std::io::{BufWriter, Write};
use std::ops::RangeInclusive;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use expman_storage::export::stream::{self as export_stream, Encoding};
use expman_storage::pyramid::EVERYWHERE;
use expman_storage::{Filter, RunEntry};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::{Params, names, ranks};
use crate::drawn::{COLUMNS, Drawn};
use crate::error::{Result, ServeError};
use crate::question::{Answer, Question};
use crate::router::{AppState, EXPORTS_MAX};

/// Types of exact rows.
const CSV: &str = "text/csv";
/// See [`CSV`].
const ARROW: &str = "application/vnd.apache.arrow.stream";
/// Pieces of an answer that wait for its client …
const PIECES: usize = 4;
/// … and their bytes.
const PIECE_BYTES: usize = 1 << 16;
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
        Ok(Question {
            keys: Some(keys.into_iter().collect()),
            ranks: self.rank.as_deref().map(ranks).transpose()?,
            range: from..=to,
            max,
        })
    }

    /// Whether all ranks of a metric become one series.
    fn merges(&self) -> Result<bool> {
        match self.merge.as_deref() {
            None => Ok(false),
            Some("ranks") => Ok(true),
            Some(other) => Err(ServeError::BadRequest {
                what: format!("merge is {other:?}, and can only be ranks"),
            }),
        }
    }
}

/// `GET /api/runs/{key}/series?keys=&rank=&from_step=&to_step=&max_points=&merge=ranks`
#[utoipa::path(
    get,
    path = "/runs/{key}/series",
    tag = "metrics",
    params(("key" = String, Path, description = "The run's key, from the list of runs"), SeriesParams),
    responses((status = 200, description = "Series on one grid of steps; by `Accept` as JSON, as columns of little-endian f64 behind a JSON header, or the exact rows as CSV or as an Arrow stream", content((Object = "application/json"), (Vec<u8> = "application/vnd.expman.columns"), (String = "text/csv"), (Vec<u8> = "application/vnd.apache.arrow.stream"))))
)]
pub async fn series(
    State(state): State<AppState>,
    Path(key): Path<String>,
    headers: HeaderMap,
    Params(params): Params<SeriesParams>,
) -> Result<Response> {
    let question = params.question()?;
    let encoding = [(CSV, Encoding::Csv), (ARROW, Encoding::Arrow)];
    if let Some((kind, encoding)) = encoding.into_iter().find(|(k, _)| accepts(&headers, k)) {
        if params.max_points.is_some() || params.merge.is_some() {
            let what = format!("{kind} has exact rows: leave out max_points and merge");
            return Err(ServeError::BadRequest { what });
        }
        let run = state.index.run(&key).await?;
        let filter = Filter {
            keys: question.keys,
            ranks: question.ranks,
            since_step: params.from_step,
            until_step: params.to_step,
        };
        let permit = Arc::clone(&state.exports).try_acquire_owned();
        let permit = permit.map_err(|_full| ServeError::Busy {
            what: "exports of rows",
            max: EXPORTS_MAX,
        })?;
        return Ok(exact_rows(run, filter, encoding, kind, permit));
    }
    let (max, merge) = (question.max, params.merges()?);
    let in_columns = accepts(&headers, COLUMNS);
    let encode = move |answer: Answer| {
        let drawn = Drawn::of(answer, max, merge);
        let bytes = if in_columns {
            drawn.columns()
        } else {
            drawn.json()
        };
        bytes.map_err(ServeError::from)
    };
    let body = if state.config.live && question.range == EVERYWHERE {
        let watch = state.hub.watch(&key).await?;
        let work = move || encode(question.followed(&watch)?);
        state.reads.run("the charts", work).await?
    } else {
        let run = state.index.run(&key).await?;
        let what = run.dir.root().display().to_string();
        let work = move || encode(question.read(&run, state.hub.made())?);
        state.reads.clone().run(what, work).await?
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

/// Streams rows as they are read; a client that is slow keeps its own reading waiting, and nothing more in memory.
fn exact_rows(
    run: RunEntry,
    filter: Filter,
    encoding: Encoding,
    kind: &'static str,
    permit: OwnedSemaphorePermit,
) -> Response {
    let (to, from) = mpsc::channel(PIECES);
    let pieces = Pieces { to: to.clone() };
    // Not among the reads that are counted: it lasts as long as its client likes.
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let out = BufWriter::with_capacity(PIECE_BYTES, pieces);
        let done = export_stream::rows(&run, &filter, encoding, out);
        if let Err(e) = done {
            tracing::debug!("rows of {}: {e}", run.dir.root().display());
            // Ends the answer in a way that nobody takes for its end.
            drop(to.blocking_send(Err(std::io::Error::other(e.to_string()))));
        }
    });
    let body = Body::from_stream(ReceiverStream::new(from));
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::VARY, "accept"),
        (header::CONTENT_DISPOSITION, "attachment"),
    ];
    (headers, body).into_response()
}

/// Hands bytes over to an answer.
struct Pieces {
    to: mpsc::Sender<std::io::Result<Bytes>>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        let sent = self.to.blocking_send(Ok(piece));
        sent.map_err(|_gone| std::io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
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
