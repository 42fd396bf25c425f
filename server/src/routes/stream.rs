//! One run's stream of server-sent events: what is new, merged, resumable.
//!
//! Every event's id is the cursor behind it, so whatever cuts the connection, the next one goes on
//! without a gap and without anything twice. Who is too far behind is told to fetch anew.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use expman_model::time::now_us;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch as signal};
use tokio::time::{Instant, interval, sleep_until};
use tokio_stream::wrappers::ReceiverStream;

use super::Params;
use super::logs::LogFile;
use super::metrics::names;
use crate::cursor::Cursor;
use crate::error::{Result, ServeError};
use crate::frames::{Frame, Keys};
use crate::router::{AppState, STREAMS_MAX};
use crate::watch::Watch;
use crate::watched::Batch;
use crate::wire::{self, Line};

/// A client gets news at most this often.
const FRAME_EVERY: Duration = Duration::from_millis(500);
/// A client hears of the run's state at least this often, news or not: silence means that something is wrong.
const BEAT_EVERY: Duration = Duration::from_secs(5);
/// A comment for proxies that cut silent connections.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A browser that lost the connection waits this long.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes of text of one event.
const FRAME_BYTES: usize = 1 << 17;

/// What to stream, and from where.
#[derive(Debug, Deserialize)]
pub struct StreamParams {
    /// `metrics`, `logs` and `state`, separated by commas; all by default.
    topics: Option<String>,
    /// Where to begin: the cursor of an answer, or the id of an event; by default now.
    cursor: Option<String>,
    /// Only the points of these metrics, separated by commas; all by default.
    keys: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Topic {
    Metrics,
    Logs,
    State,
}

fn topics(list: Option<&str>) -> Result<HashSet<Topic>> {
    let topic = |name: &str| match name {
        "metrics" => Ok(Topic::Metrics),
        "logs" => Ok(Topic::Logs),
        "state" => Ok(Topic::State),
        _ => Err(ServeError::BadRequest {
            what: format!("topic {name:?} is not one of metrics, logs, state"),
        }),
    };
    list.unwrap_or("metrics,logs,state")
        .split(',')
        .map(topic)
        .collect()
}

/// `GET /api/runs/{key}/stream?topics=&cursor=`
pub async fn stream(
    State(state): State<AppState>,
    Path(key): Path<String>,
    headers: HeaderMap,
    Params(params): Params<StreamParams>,
) -> Result<Response> {
    if !state.config.live {
        return Err(ServeError::NotLive);
    }
    let topics = topics(params.topics.as_deref())?;
    let permit = Arc::clone(&state.streams).try_acquire_owned();
    let permit = permit.map_err(|_full| ServeError::Busy {
        what: "event streams",
        max: STREAMS_MAX,
    })?;
    let watch = state.hub.watch(&key).await?;
    let asked = match headers.get("last-event-id") {
        Some(id) => Some(id.to_str().unwrap_or("").to_owned()),
        None => params.cursor,
    };
    let (to, from) = mpsc::channel(1);
    let client = Client {
        watch,
        topics,
        keys: params
            .keys
            .as_deref()
            .map(|list| Arc::new(names(list).into_iter().collect())),
        to,
        stopping: state.stopping.clone(),
        _permit: permit,
    };
    tokio::spawn(client.run(asked));
    let events =
        Sse::new(ReceiverStream::new(from)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    let unbuffered = (
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    Ok(([unbuffered], events).into_response())
}

/// One reader of a stream; it ends with the connection, whose dropped receiver it sees.
struct Client {
    watch: Watch,
    topics: HashSet<Topic>,
    keys: Keys,
    to: mpsc::Sender<Result<Event, Infallible>>,
    stopping: signal::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
}

/// The client is gone.
struct Gone;

impl Client {
    async fn run(mut self, asked: Option<String>) {
        let mut at = match asked.as_deref().map(str::parse::<Cursor>) {
            None => self.watch.cursor(),
            Some(Ok(cursor)) => cursor,
            // Not one of ours: as if it were out of reach.
            Some(Err(_)) => Cursor {
                epoch: 0,
                rows: u64::MAX,
                run_log: u64::MAX,
                console: u64::MAX,
            },
        };
        let mut looks = self.watch.subscribe();
        let mut beat = interval(BEAT_EVERY);
        let mut told = 0;
        // Goes out at once, so that a browser knows that it is connected, news or not.
        let hello = Event::default().retry(RETRY).comment("");
        if self.to.send(Ok(hello)).await.is_err() {
            return;
        }
        loop {
            let started = Instant::now();
            let beats = tokio::select! {
                biased;
                () = crate::told_to_stop(&mut self.stopping) => return,
                () = self.to.closed() => return,
                _ = beat.tick() => true,
                changed = looks.changed() => match changed {
                    Ok(()) => false,
                    Err(_) => return,
                },
            };
            looks.mark_unchanged();
            let sent = match self.state(&at, &mut told, beats).await {
                Ok(()) => self.news(&mut at).await,
                gone => gone,
            };
            if sent.is_err() {
                return;
            }
            tokio::select! {
                () = sleep_until(started + FRAME_EVERY) => {}
                () = self.to.closed() => return,
                () = crate::told_to_stop(&mut self.stopping) => return,
            }
        }
    }

    /// Sends the run's state when it changed, and at each beat.
    async fn state(&self, at: &Cursor, told: &mut u64, beats: bool) -> Result<(), Gone> {
        let (run, stamps, version) = self.watch.run();
        if !self.topics.contains(&Topic::State) || !beats && *told == version {
            return Ok(());
        }
        *told = version;
        let event = Event::default().event("state").id(at.to_string());
        self.send(event, &wire::detail(&run, &stamps, false)).await
    }

    /// Sends everything behind the cursor and moves it; or tells to fetch anew, which ends the stream.
    async fn news(&self, at: &mut Cursor) -> Result<(), Gone> {
        loop {
            let found = self.watch.frame(*at, &self.keys);
            let found = found.and_then(|frame| Ok((frame, self.watch.lines(*at, FRAME_BYTES)?)));
            let Ok((frame, lines)) = found else {
                let now = self.watch.cursor();
                let data = json!({ "cursor": now.to_string(), "now_us": now_us() });
                self.send(
                    Event::default()
                        .event("reset")
                        .id(now.to_string())
                        .retry(RETRY),
                    &data,
                )
                .await?;
                return Err(Gone);
            };
            let before = *at;
            self.batch(at, frame, lines).await?;
            if *at == before {
                return Ok(());
            }
        }
    }

    async fn batch(
        &self,
        at: &mut Cursor,
        frame: Option<Arc<Frame>>,
        batch: Batch,
    ) -> Result<(), Gone> {
        if let Some(frame) = frame {
            at.rows = frame.end;
            if !frame.is_empty() && self.topics.contains(&Topic::Metrics) {
                let event = Event::default().event("metrics").id(at.to_string());
                self.pass(event.data(frame.data("", *at))).await?;
            }
        }
        at.run_log = batch.run_log.1;
        self.lines(*at, LogFile::Run, batch.run_log.1, &batch.run_log.0)
            .await?;
        at.console = batch.console.1;
        self.lines(*at, LogFile::Console, batch.console.1, &batch.console.0)
            .await
    }

    async fn lines(
        &self,
        at: Cursor,
        file: LogFile,
        cursor: u64,
        lines: &[Arc<Line>],
    ) -> Result<(), Gone> {
        if lines.is_empty() || !self.topics.contains(&Topic::Logs) {
            return Ok(());
        }
        let lines: Vec<&Line> = lines.iter().map(AsRef::as_ref).collect();
        let frame = json!({ "file": file, "cursor": cursor, "lines": lines });
        self.send(Event::default().event("logs").id(at.to_string()), &frame)
            .await
    }

    async fn send(&self, event: Event, data: &impl Serialize) -> Result<(), Gone> {
        // JSON has no line breaks, names are constants and ids digits: nothing here can break a frame.
        let event = event.json_data(data).map_err(|_no_json| Gone)?;
        self.pass(event).await
    }

    async fn pass(&self, event: Event) -> Result<(), Gone> {
        tokio::select! {
            sent = self.to.send(Ok(event)) => sent.map_err(|_closed| Gone),
            () = tokio::time::sleep(crate::WRITE_TIMEOUT * 2) => Err(Gone),
        }
    }
}
