//! Streams of server-sent events: of one run, or one for all that a tab shows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::runs::columns;
use super::{Params, names};
use crate::client::{Client, Followed, Listed, Topic};
use crate::error::{Result, ServeError};
use crate::frames::Keys;
use crate::router::{AppState, STREAMS_MAX};
use utoipa::IntoParams;

/// Runs of one stream.
const RUNS_MAX: usize = 10;
/// A comment for proxies that cut silent connections.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What to stream, and from where.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StreamParams {
    /// Keys of the runs, separated by commas; not for the stream of one run.
    runs: Option<String>,
    /// `metrics`, `logs`, `state` and `runs`, separated by commas; by default all but `runs`.
    topics: Option<String>,
    /// Where to begin: the cursor of an answer, or the id of an event; by default now. Of several runs
    /// `KEY:CURSOR`, separated by commas or semicolons, and `runs:VERSION` for the list.
    cursor: Option<String>,
    /// Only the points of these metrics, separated by commas; all by default.
    keys: Option<String>,
    /// What the list of runs shows, as in `/api/runs`.
    columns: Option<String>,
}

fn topics(list: Option<&str>) -> Result<HashSet<Topic>> {
    let topic = |name: &str| match name {
        "metrics" => Ok(Topic::Metrics),
        "logs" => Ok(Topic::Logs),
        "state" => Ok(Topic::State),
        "runs" => Ok(Topic::Runs),
        _ => Err(ServeError::BadRequest {
            what: format!("topic {name:?} is not one of metrics, logs, state, runs"),
        }),
    };
    list.unwrap_or("metrics,logs,state")
        .split(',')
        .map(topic)
        .collect()
}

/// `GET /api/runs/{key}/stream?topics=&cursor=&keys=`
#[utoipa::path(
    get,
    path = "/runs/{key}/stream",
    tag = "streams",
    params(("key" = String, Path, description = "The run's key, from the list of runs"), StreamParams),
    responses((status = 200, description = "Events `metrics`, `logs`, `state`, `runs`, `reset`; the id of each is where to go on", content_type = "text/event-stream", body = String))
)]
pub async fn of_run(
    State(state): State<AppState>,
    Path(key): Path<String>,
    headers: HeaderMap,
    Params(params): Params<StreamParams>,
) -> Result<Response> {
    let from = resumed(&headers).or_else(|| params.cursor.clone());
    open(&state, &params, false, &[(key, from)], None).await
}

/// `GET /api/stream?runs=&topics=&cursor=&keys=&columns=`
#[utoipa::path(
    get,
    path = "/stream",
    tag = "streams",
    params(StreamParams),
    responses((status = 200, description = "Events `metrics`, `logs`, `state`, `runs`, `reset`; the id of each is where to go on", content_type = "text/event-stream", body = String))
)]
pub async fn of_tab(
    State(state): State<AppState>,
    headers: HeaderMap,
    Params(params): Params<StreamParams>,
) -> Result<Response> {
    let from = resumed(&headers).or_else(|| params.cursor.clone());
    let places: HashMap<&str, &str> = from
        .iter()
        .flat_map(|text| text.split([',', ';']))
        .filter_map(|piece| piece.split_once(':'))
        .collect();
    let wanted = params.runs.as_deref().unwrap_or_default();
    let mut runs: Vec<(String, Option<String>)> = Vec::new();
    for key in wanted.split(',').filter(|key| !key.is_empty()) {
        if runs.iter().all(|(known, _)| known != key) {
            let place = places.get(key).map(|&place| place.to_owned());
            runs.push((key.to_owned(), place));
        }
    }
    if runs.len() > RUNS_MAX {
        return Err(ServeError::BadRequest {
            what: format!("{} runs, more than {RUNS_MAX} in one stream", runs.len()),
        });
    }
    let version = places.get("runs").map(|&version| version.to_owned());
    open(&state, &params, true, &runs, version).await
}

fn resumed(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("last-event-id")?;
    Some(id.to_str().unwrap_or("").to_owned())
}

async fn open(
    state: &AppState,
    params: &StreamParams,
    many: bool,
    runs: &[(String, Option<String>)],
    version: Option<String>,
) -> Result<Response> {
    if !state.config.live {
        return Err(ServeError::NotLive);
    }
    let topics = topics(params.topics.as_deref())?;
    if !many && topics.contains(&Topic::Runs) {
        return Err(ServeError::BadRequest {
            what: "the list of runs is streamed by /api/stream only".to_owned(),
        });
    }
    let columns = columns(params.columns.as_deref())?;
    let permit = Arc::clone(&state.streams).try_acquire_owned();
    let permit = permit.map_err(|_full| ServeError::Busy {
        what: "event streams",
        max: STREAMS_MAX,
    })?;
    let mut followed = Vec::new();
    for (key, from) in runs {
        let watch = state.hub.watch(key).await?;
        followed.push(Followed::new(key.clone(), watch, from.as_deref()));
    }
    let listed = if many && topics.contains(&Topic::Runs) {
        let index = Arc::clone(&state.index);
        // Without a version the client has fetched nothing: it gets everything.
        let version = version.unwrap_or_default();
        Some(Listed {
            index,
            version,
            columns,
        })
    } else {
        None
    };
    let keys: Keys = params
        .keys
        .as_deref()
        .map(|list| Arc::new(names(list).into_iter().collect()));
    let (to, from) = mpsc::channel(1);
    let client = Client {
        followed,
        many,
        listed,
        topics,
        keys,
        to,
        stopping: state.stopping.clone(),
    };
    tokio::spawn(client.run(permit));
    let events =
        Sse::new(ReceiverStream::new(from)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    let unbuffered = (
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    Ok(([unbuffered], events).into_response())
}
