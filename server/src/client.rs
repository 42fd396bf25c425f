//! One reader of a stream of server-sent events: what is new in its runs, merged, resumable.
//!
//! Every event's id says where the reader stands behind it, so whatever cuts the connection, the next one goes on
//! without a gap and without anything twice. Who is too far behind is told to fetch anew.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::Event;
use expman_model::time::now_us;
use serde::Serialize;
use serde_json::{Value as Json, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch as signal};
use tokio::time::{Instant, interval, sleep_until};
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{StreamExt, StreamMap};

use crate::card::Column;
use crate::cursor::Cursor;
use crate::frames::{Frame, Keys};
use crate::index::Index;
use crate::routes::logs::LogFile;
use crate::routes::runs::RunChanges;
use crate::watch::Watch;
use crate::watched::Batch;
use crate::wire::{self, Line};

/// A client gets news at most this often: that of several runs together. A run is looked at more rarely.
const FRAME_EVERY: Duration = Duration::from_millis(50);
/// A client hears of a run's state and of the list at least this often, news or not: silence means that something is
/// wrong.
const BEAT_EVERY: Duration = Duration::from_secs(5);
/// The list of runs is looked at this often.
const LIST_EVERY: Duration = Duration::from_secs(1);
/// A browser that lost the connection waits this long.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes of text of one event.
const FRAME_BYTES: usize = 1 << 17;

/// What a stream tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Points of metrics.
    Metrics,
    /// Lines of both logs.
    Logs,
    /// Records of runs.
    State,
    /// The list of runs.
    Runs,
}

/// A run that a client follows.
#[derive(Debug)]
pub struct Followed {
    /// Its key.
    pub key: String,
    /// Keeps it followed.
    pub watch: Watch,
    /// Where the client stands.
    pub at: Cursor,
    /// The version of its record that was told.
    told: u64,
}

impl Followed {
    /// A run that is followed from a cursor on: from now on without one, as if out of reach with one that is none.
    pub fn new(key: String, watch: Watch, from: Option<&str>) -> Self {
        let at = match from.map(str::parse::<Cursor>) {
            None => watch.cursor(),
            Some(Ok(cursor)) => cursor,
            Some(Err(_)) => Cursor {
                epoch: 0,
                rows: u64::MAX,
                run_log: u64::MAX,
                console: u64::MAX,
            },
        };
        Self {
            key,
            watch,
            at,
            told: 0,
        }
    }
}

/// The list of runs, as far as a client knows it.
#[derive(Debug)]
pub struct Listed {
    /// Where the list comes from.
    pub index: Arc<Index>,
    /// The version that the client has.
    pub version: String,
    /// What it shows of each run.
    pub columns: Vec<Column>,
}

/// See the module; it ends with the connection, whose dropped receiver it sees.
pub struct Client {
    /// The runs.
    pub followed: Vec<Followed>,
    /// Whether events say which run they are of, and ids where the client stands in each.
    pub many: bool,
    /// The list of runs, when it is asked for.
    pub listed: Option<Listed>,
    /// What is told of each run.
    pub topics: HashSet<Topic>,
    /// Only these metrics.
    pub keys: Keys,
    /// The connection.
    pub to: mpsc::Sender<Result<Event, Infallible>>,
    /// The server's end.
    pub stopping: signal::Receiver<bool>,
}

/// The client is gone.
struct Gone;

impl Client {
    /// Tells until the client or the server is gone; keeps its place among all streams that long.
    pub async fn run(mut self, _place: OwnedSemaphorePermit) {
        let mut looks = StreamMap::new();
        for (n, run) in self.followed.iter().enumerate() {
            looks.insert(n, WatchStream::new(run.watch.subscribe()));
        }
        let mut beat = interval(BEAT_EVERY);
        let mut list = interval(LIST_EVERY);
        // Goes out at once, so that a browser knows that it is connected, news or not.
        let hello = Event::default().retry(RETRY).comment("");
        if self.to.send(Ok(hello)).await.is_err() {
            return;
        }
        loop {
            let started = Instant::now();
            let mut beats = false;
            tokio::select! {
                biased;
                () = crate::told_to_stop(&mut self.stopping) => return,
                () = self.to.closed() => return,
                _ = beat.tick() => beats = true,
                _ = list.tick(), if self.listed.is_some() => {
                    if self.list(false).await.is_err() {
                        return;
                    }
                    continue;
                }
                Some(_) = looks.next() => {}
            }
            if beats && self.list(true).await.is_err() {
                return;
            }
            for n in 0..self.followed.len() {
                let sent = match self.state(n, beats).await {
                    Ok(()) => self.news(n).await,
                    gone => gone,
                };
                if sent.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = sleep_until(started + FRAME_EVERY) => {}
                () = self.to.closed() => return,
                () = crate::told_to_stop(&mut self.stopping) => return,
            }
        }
    }

    /// Sends what changed in the list of runs; at each beat also that nothing did.
    async fn list(&mut self, beats: bool) -> Result<(), Gone> {
        let Some(listed) = &mut self.listed else {
            return Ok(());
        };
        let listing = match listed.index.listing().await {
            Ok(listing) => listing,
            Err(e) => {
                tracing::warn!("the list of runs: {e}");
                return Ok(());
            }
        };
        let version = listing.version();
        if !beats && version == listed.version {
            return Ok(());
        }
        let frame = RunChanges::of(&listing, &listed.version, &listed.columns, None);
        listed.version = version;
        self.send("runs", &frame).await
    }

    /// Sends a run's state when it changed, and at each beat.
    async fn state(&mut self, n: usize, beats: bool) -> Result<(), Gone> {
        let followed = &mut self.followed[n];
        let (run, stamps, version) = followed.watch.run();
        if !self.topics.contains(&Topic::State) || !beats && followed.told == version {
            return Ok(());
        }
        followed.told = version;
        let mut detail = wire::detail(&run, &stamps, false);
        self.name(n, &mut detail);
        self.send("state", &detail).await
    }

    /// Sends everything behind a run's cursor and moves it; or tells to fetch anew, which ends the stream.
    async fn news(&mut self, n: usize) -> Result<(), Gone> {
        loop {
            let Followed { watch, at, .. } = &self.followed[n];
            let before = *at;
            let found = watch.frame(before, &self.keys);
            let found = found.and_then(|frame| Ok((frame, watch.lines(before, FRAME_BYTES)?)));
            let Ok((frame, lines)) = found else {
                return self.reset(n).await;
            };
            self.batch(n, frame, lines).await?;
            if self.followed[n].at == before {
                return Ok(());
            }
        }
    }

    async fn reset(&mut self, n: usize) -> Result<(), Gone> {
        let now = self.followed[n].watch.cursor();
        self.followed[n].at = now;
        let mut data = json!({ "cursor": now.to_string(), "now_us": now_us() });
        self.name(n, &mut data);
        let event = Event::default().retry(RETRY).json_data(&data);
        let event = event.map_err(|_no_json| Gone)?;
        self.pass("reset", event).await?;
        Err(Gone)
    }

    async fn batch(
        &mut self,
        n: usize,
        frame: Option<Arc<Frame>>,
        batch: Batch,
    ) -> Result<(), Gone> {
        if let Some(frame) = frame {
            self.followed[n].at.rows = frame.end;
            if !frame.is_empty() && self.topics.contains(&Topic::Metrics) {
                let head = if self.many {
                    // A key is hexadecimal digits.
                    format!("\"run\":\"{}\",", self.followed[n].key)
                } else {
                    String::new()
                };
                let data = frame.data(&head, self.followed[n].at);
                self.pass("metrics", Event::default().data(data)).await?;
            }
        }
        self.followed[n].at.run_log = batch.run_log.1;
        self.lines(n, LogFile::Run, &batch.run_log).await?;
        self.followed[n].at.console = batch.console.1;
        self.lines(n, LogFile::Console, &batch.console).await
    }

    async fn lines(
        &self,
        n: usize,
        file: LogFile,
        (lines, cursor): &(Vec<Arc<Line>>, u64),
    ) -> Result<(), Gone> {
        if lines.is_empty() || !self.topics.contains(&Topic::Logs) {
            return Ok(());
        }
        let lines: Vec<&Line> = lines.iter().map(AsRef::as_ref).collect();
        let mut frame = json!({ "file": file, "cursor": cursor, "lines": lines });
        self.name(n, &mut frame);
        self.send("logs", &frame).await
    }

    /// Says which run something is of, where that is not plain.
    fn name(&self, n: usize, data: &mut Json) {
        if self.many {
            data["run"] = json!(self.followed[n].key);
        }
    }

    /// Where the client stands, for whoever comes back with it; digits, letters, and `-:;` only.
    fn id(&self) -> String {
        let mut id = String::new();
        for run in &self.followed {
            if !self.many {
                return run.at.to_string();
            }
            // Writing to a string does not fail.
            _ = write!(id, "{}:{};", run.key, run.at);
        }
        if let Some(listed) = &self.listed {
            _ = write!(id, "runs:{}", listed.version);
        }
        id
    }

    async fn send(&self, name: &'static str, data: &impl Serialize) -> Result<(), Gone> {
        // JSON has no line breaks and names are constants: nothing here can break a frame.
        let event = Event::default().json_data(data).map_err(|_no_json| Gone)?;
        self.pass(name, event).await
    }

    async fn pass(&self, name: &'static str, event: Event) -> Result<(), Gone> {
        let event = event.event(name).id(self.id());
        tokio::select! {
            sent = self.to.send(Ok(event)) => sent.map_err(|_closed| Gone),
            () = tokio::time::sleep(crate::WRITE_TIMEOUT * 2) => Err(Gone),
        }
    }
}
