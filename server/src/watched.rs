//! One run that is followed: its latest rows and lines, and its charts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use expman_storage::RunEntry;
use expman_storage::text::{self, LogKind};
use tokio::sync::watch as signal;

use crate::chart::Charts;
use crate::cursor::Cursor;
use crate::follow::{LogNews, News};
use crate::frames::{FRAME_ROWS, Frame, Frames, Keys};
use crate::ring::{LineRing, OutOfReach, RowRing};
use crate::stamps::Stamps;
use crate::wire::Line;

/// One run that is followed.
#[derive(Debug)]
pub struct Watched {
    state: Mutex<State>,
    /// Counts the looks that brought something; 0 until the first one.
    looks: signal::Sender<u64>,
    readers: AtomicUsize,
    frames: Frames,
}

#[derive(Debug)]
struct State {
    epoch: u32,
    /// Counts how often the rows began anew.
    generation: u64,
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

/// Lines that are new for a reader; everything empty when nothing is.
#[derive(Debug, Default)]
pub struct Batch {
    /// Lines of `run.log`, and the byte behind them.
    pub run_log: (Vec<Arc<Line>>, u64),
    /// Lines of `console.log`, and the byte behind them.
    pub console: (Vec<Arc<Line>>, u64),
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
    /// A run of which nothing was read yet.
    pub fn new(run: RunEntry) -> Self {
        Self {
            state: Mutex::new(State {
                epoch: epoch(&run),
                generation: 0,
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
            frames: Frames::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more reader.
    pub fn hold(&self) {
        self.readers.fetch_add(1, Ordering::AcqRel);
    }

    /// One reader less.
    pub fn let_go(&self) {
        if self.readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.lock().unread_since = Instant::now();
        }
    }

    /// For how long there was no reader; none while there is one.
    pub fn idle(&self) -> Option<Duration> {
        let unread = self.readers.load(Ordering::Acquire) == 0;
        unread.then(|| self.lock().unread_since.elapsed())
    }

    /// Why its rows could never be read.
    pub fn unread(&self) -> Option<String> {
        let state = self.lock();
        state.failure.clone().filter(|_| !state.is_read)
    }

    /// Its folder, in words.
    pub fn place(&self) -> String {
        self.lock().run.dir.root().display().to_string()
    }

    /// Whether somebody may be writing it.
    pub fn is_live(&self) -> bool {
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

    /// Looks at all charts, with the cursor that they reach to, and a number that changes when they begin anew.
    pub fn charts<T>(&self, look: impl FnOnce(&Charts, Cursor, u64) -> T) -> T {
        let state = self.lock();
        look(&state.charts, state.cursor(), state.generation)
    }

    /// The lines behind a cursor, in bounded pieces.
    ///
    /// # Errors
    /// When the cursor is of another run, or too far behind.
    pub fn lines(&self, at: Cursor, bytes_max: usize) -> Result<Batch, OutOfReach> {
        let state = self.lock();
        state.own(at)?;
        Ok(Batch {
            run_log: state.run_log.since(at.run_log, bytes_max)?,
            console: state.console.since(at.console, bytes_max)?,
        })
    }

    /// The points behind a cursor, some of them, encoded once for all who stand there; none when there are none.
    ///
    /// # Errors
    /// As [`Watched::lines`].
    pub fn frame(&self, at: Cursor, keys: &Keys) -> Result<Option<Arc<Frame>>, OutOfReach> {
        let generation = {
            let state = self.lock();
            state.own(at)?;
            if at.rows == state.rows.end() {
                return Ok(None);
            }
            state.generation
        };
        let rows = || {
            let state = self.lock();
            if state.generation != generation {
                return Err(OutOfReach);
            }
            state.rows.since(at.rows, FRAME_ROWS)
        };
        self.frames.get(generation, at.rows, keys, rows).map(Some)
    }

    /// Takes in what a look brought, and wakes the readers; returns whether there were rows or lines.
    pub fn take(&self, news: News) -> bool {
        let mut state = self.lock();
        let before = (state.cursor(), state.run_version);
        state.take(news);
        let after = (state.cursor(), state.run_version);
        drop(state);
        let (changed, grew) = (before != after, before.0 != after.0);
        self.looks.send_if_modified(|looks| {
            let tell = changed || *looks == 0;
            *looks += u64::from(tell);
            tell
        });
        grew
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

    /// Whether a cursor is of this run.
    fn own(&self, at: Cursor) -> Result<(), OutOfReach> {
        if at.epoch == self.epoch {
            Ok(())
        } else {
            Err(OutOfReach)
        }
    }

    fn take(&mut self, news: News) {
        if let Some((run, stamps)) = news.detail {
            self.epoch = epoch(&run);
            (self.run, self.stamps) = (run, stamps);
            self.run_version += 1;
        }
        if let Some(news) = news.rows {
            if let Some(charts) = news.fresh {
                // What was there before is sorted, not in order of arrival: it can only be had as a whole.
                self.charts = *charts;
                self.rows.restart(news.end);
                self.generation += 1;
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
