//! Following runs: each by one task, whatever the number of its readers.
//!
//! Owns the latest rows, lines and charts of every run that somebody looks at.
//! Readers hold a position and are woken; none of them ever touches a file.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use expman_storage::RunEntry;
use expman_storage::text::{self, LogKind};
use tokio::sync::watch as signal;

use crate::blocking::Reads;
use crate::chart::Charts;
use crate::cursor::Cursor;
use crate::error::{Result, ServeError};
use crate::follow::{Follower, LogNews, News};
use crate::index::Index;
use crate::ring::{LineRing, OutOfReach, Piece, RowRing};
use crate::stamps::Stamps;
use crate::wire::Line;

/// Runs followed at once.
const RUNS_MAX: usize = 64;
/// A run that is being written is looked at this often.
const LIVE_EVERY: Duration = Duration::from_millis(100);
/// One that is not, this often: it may be resumed.
const STILL_EVERY: Duration = Duration::from_secs(1);
/// A run without readers is followed for this much longer.
const LINGER: Duration = Duration::from_secs(30);

/// Every run that is followed.
#[derive(Debug)]
pub struct Hub {
    index: Arc<Index>,
    reads: Reads,
    stopping: signal::Receiver<bool>,
    runs: Mutex<HashMap<String, Arc<Watched>>>,
}

/// One run that is followed.
#[derive(Debug)]
pub struct Watched {
    state: Mutex<State>,
    /// Counts the looks that brought something; 0 until the first one.
    looks: signal::Sender<u64>,
    readers: AtomicUsize,
}

#[derive(Debug)]
struct State {
    epoch: u32,
    run: RunEntry,
    stamps: Stamps,
    /// Counts the changes of `run` and `stamps`.
    run_version: u64,
    rows: RowRing,
    run_log: LineRing,
    console: LineRing,
    charts: Charts,
    /// Whether the rows could be read at all.
    is_read: bool,
    failure: Option<String>,
    unread_since: Instant,
}

/// What is new for a reader; everything empty when nothing is.
#[derive(Debug, Default)]
pub struct Batch {
    /// Rows, and the position behind them.
    pub rows: (Vec<Piece>, u64),
    /// Lines of `run.log`, and the byte behind them.
    pub run_log: (Vec<Arc<Line>>, u64),
    /// Lines of `console.log`, and the byte behind them.
    pub console: (Vec<Arc<Line>>, u64),
}

/// A reader's hold on a run: as long as it is there the run is followed.
#[derive(Debug)]
pub struct Watch(Arc<Watched>);

impl Deref for Watch {
    type Target = Watched;

    fn deref(&self) -> &Watched {
        &self.0
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.0.readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.lock().unread_since = Instant::now();
        }
    }
}

impl Hub {
    /// A hub that follows nothing yet.
    pub fn new(index: Arc<Index>, reads: Reads, stopping: signal::Receiver<bool>) -> Self {
        Self {
            index,
            reads,
            stopping,
            runs: Mutex::default(),
        }
    }

    /// Follows a run, or joins those who do, and waits until its files were read once.
    ///
    /// # Errors
    /// When there is no such run, its files can't be read, or too many runs are followed.
    pub async fn watch(self: &Arc<Self>, key: &str) -> Result<Watch> {
        let known = self.lock().get(key).map(hold);
        let watch = match known {
            Some(watch) => watch,
            None => self.start(self.index.run(key).await?)?,
        };
        let mut looks = watch.looks.subscribe();
        // The sender is in the watched run that we hold, so it is not dropped.
        if looks.wait_for(|looks| *looks > 0).await.is_err() {
            return Err(ServeError::NotFound { what: "this run" });
        }
        let failure = {
            let state = watch.lock();
            state.failure.clone().filter(|_| !state.is_read)
        };
        match failure {
            Some(what) => Err(ServeError::Damaged { what }),
            None => Ok(watch),
        }
    }

    fn start(self: &Arc<Self>, run: RunEntry) -> Result<Watch> {
        let mut runs = self.lock();
        if let Some(known) = runs.get(&run.key) {
            return Ok(hold(known));
        }
        if runs.len() >= RUNS_MAX {
            let unread = runs
                .iter()
                .filter(|(_, w)| w.readers.load(Ordering::Acquire) == 0);
            let oldest = unread
                .min_by_key(|(_, w)| w.lock().unread_since)
                .map(|(key, _)| key.clone());
            let oldest = oldest.ok_or(ServeError::Busy {
                what: "runs are followed",
                max: RUNS_MAX,
            })?;
            runs.remove(&oldest);
        }
        let follower = Follower::new(&run);
        let key = run.key.clone();
        let watched = Arc::new(Watched {
            state: Mutex::new(State {
                epoch: epoch(&run),
                run,
                stamps: Stamps::default(),
                run_version: 1,
                rows: RowRing::default(),
                run_log: LineRing::default(),
                console: LineRing::default(),
                charts: Charts::default(),
                is_read: false,
                failure: None,
                unread_since: Instant::now(),
            }),
            looks: signal::Sender::new(0),
            readers: AtomicUsize::new(0),
        });
        let watch = hold(&watched);
        runs.insert(key.clone(), Arc::clone(&watched));
        tokio::spawn(Arc::clone(self).follow(key, watched, follower));
        Ok(watch)
    }

    /// Looks at the files until nobody needs them.
    async fn follow(self: Arc<Self>, key: String, watched: Arc<Watched>, follower: Follower) {
        let mut stopping = self.stopping.clone();
        let mut follower = Some(follower);
        while let Some(mut now) = follower.take() {
            let what = watched.lock().run.dir.root().display().to_string();
            let into = Arc::clone(&watched);
            let look = self.reads.run(what, move || {
                into.take(now.look());
                Ok(now)
            });
            match look.await {
                Ok(back) => follower = Some(back),
                // The decoder panicked, and the follower went with it: this run stays as it is.
                Err(e) => {
                    let failure = Some(e.to_string());
                    watched.take(News {
                        failure,
                        ..News::default()
                    });
                }
            }
            let every = if watched.is_live() {
                LIVE_EVERY
            } else {
                STILL_EVERY
            };
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = crate::told_to_stop(&mut stopping) => return,
            }
            if self.forget(&key, &watched) {
                return;
            }
        }
        // Kept for a while so that a broken file is not read again at once by each who asks.
        while !self.forget(&key, &watched) {
            tokio::select! {
                () = tokio::time::sleep(STILL_EVERY) => {}
                () = crate::told_to_stop(&mut stopping) => return,
            }
        }
    }

    /// Lets go of a run that nobody has read for a while, or that made room for another.
    fn forget(&self, key: &str, watched: &Arc<Watched>) -> bool {
        let mut runs = self.lock();
        if !runs.get(key).is_some_and(|now| Arc::ptr_eq(now, watched)) {
            return watched.readers.load(Ordering::Acquire) == 0;
        }
        let unread = watched.readers.load(Ordering::Acquire) == 0;
        let done = unread && watched.lock().unread_since.elapsed() > LINGER;
        if done {
            runs.remove(key);
        }
        done
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Watched>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hold(watched: &Arc<Watched>) -> Watch {
    watched.readers.fetch_add(1, Ordering::AcqRel);
    Watch(Arc::clone(watched))
}

/// A number that another run in the same folder does not have.
fn epoch(run: &RunEntry) -> u32 {
    let identity = match run.meta.id {
        Some(id) => id.to_string(),
        None => format!("{:?}", run.meta.started_at),
    };
    let hash = blake3::hash(identity.as_bytes());
    let [a, b, c, d, ..] = *hash.as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The cursor behind `rows` rows and the present ends of both logs, for answers read without following.
pub fn cursor_at(run: &RunEntry, rows: u64) -> Cursor {
    let length = |kind| text::length(&run.dir, kind).unwrap_or(0);
    Cursor {
        epoch: epoch(run),
        rows,
        run_log: length(LogKind::Run),
        console: length(LogKind::Console),
    }
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_live(&self) -> bool {
        self.lock().run.is_live()
    }

    /// Wakes when there is something new; the value counts.
    pub fn subscribe(&self) -> signal::Receiver<u64> {
        self.looks.subscribe()
    }

    /// The position behind all that was read so far.
    pub fn cursor(&self) -> Cursor {
        self.lock().cursor()
    }

    /// The run's record, the stamps beside it, and the count of their changes.
    pub fn run(&self) -> (RunEntry, Stamps, u64) {
        let state = self.lock();
        let mut run = state.run.clone();
        // The record is saved once a second; the rows are known better here.
        run.meta.rows = run.meta.rows.max(state.rows.end());
        run.problem = state.failure.clone().or(run.problem);
        (run, state.stamps.clone(), state.run_version)
    }

    /// Looks at all charts, with the cursor that they reach to.
    pub fn charts<T>(&self, look: impl FnOnce(&Charts, Cursor) -> T) -> T {
        let state = self.lock();
        look(&state.charts, state.cursor())
    }

    /// What came behind a cursor, in bounded pieces.
    ///
    /// # Errors
    /// When the cursor is of another run, or too far behind.
    pub fn since(
        &self,
        at: Cursor,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Batch, OutOfReach> {
        let state = self.lock();
        if at.epoch != state.epoch {
            return Err(OutOfReach);
        }
        Ok(Batch {
            rows: state.rows.since(at.rows, rows_max)?,
            run_log: state.run_log.since(at.run_log, bytes_max)?,
            console: state.console.since(at.console, bytes_max)?,
        })
    }

    fn take(&self, news: News) {
        let mut state = self.lock();
        let before = (state.cursor(), state.run_version);
        state.take(news);
        let changed = before != (state.cursor(), state.run_version);
        drop(state);
        self.looks.send_if_modified(|looks| {
            let tell = changed || *looks == 0;
            *looks += u64::from(tell);
            tell
        });
    }
}

impl State {
    fn cursor(&self) -> Cursor {
        Cursor {
            epoch: self.epoch,
            rows: self.rows.end(),
            run_log: self.run_log.end(),
            console: self.console.end(),
        }
    }

    fn take(&mut self, news: News) {
        if let Some((run, stamps)) = news.detail {
            self.epoch = epoch(&run);
            (self.run, self.stamps) = (run, stamps);
            self.run_version += 1;
        }
        if let Some(news) = news.rows {
            if news.fresh {
                // What was there before is sorted, not in order of arrival: it can only be had as a whole.
                self.charts = Charts::default();
                self.charts.extend(&news.rows);
                self.rows.restart(news.end);
            } else {
                self.charts.extend(&news.rows);
                self.rows.push(news.rows, news.end);
            }
            self.is_read = true;
        }
        take_lines(&mut self.run_log, news.run_log);
        take_lines(&mut self.console, news.console);
        if self.failure != news.failure {
            if let Some(what) = &news.failure {
                tracing::warn!(run = %self.run.dir.root().display(), error = %what, "run is not read whole");
            }
            self.failure = news.failure;
            self.run_version += 1;
        }
    }
}

fn take_lines(ring: &mut LineRing, news: Option<LogNews>) {
    let Some(news) = news else { return };
    if let Some(at) = news.restart {
        ring.restart(at);
    }
    ring.push(news.lines, news.end);
}
