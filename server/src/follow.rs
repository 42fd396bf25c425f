//! Reading what is new in a run's files; the blocking half of following it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use expman_storage::catalog::open_run;
use expman_storage::text::LogKind;
use expman_storage::{Rows, RunDir, RunEntry, RunKind, Tail, TextTail, lock};

use crate::error::{Result, ServeError};
use crate::wire::Line;

/// Bytes of each log that are there from the start, for readers that come back.
const LOG_START_BYTES: u64 = 1 << 20;
/// The run's record is looked at this often.
const DETAIL_EVERY: Duration = Duration::from_millis(500);

/// What a look at the files brought.
#[derive(Debug, Default)]
pub struct News {
    /// New metric rows, and how many the run has now.
    pub rows: Rows,
    /// Rows of the run.
    pub end: u64,
    /// By log: new lines, or a new beginning.
    pub run_log: LogNews,
    /// See `run_log`.
    pub console: LogNews,
    /// The run's record, when it changed.
    pub detail: Option<RunEntry>,
}

/// News of one log.
#[derive(Debug, Default)]
pub struct LogNews {
    /// The file is shorter than what was read of it: its new owner cut it. Go on from this byte.
    pub restart: Option<u64>,
    /// New lines.
    pub lines: Vec<Line>,
    /// Byte behind them.
    pub end: u64,
}

/// Reads one run's files as they grow.
#[derive(Debug)]
pub struct Follower {
    dir: RunDir,
    rows: Rowing,
    run_log: LogFollower,
    console: LogFollower,
    looked: Option<(Instant, Stamp)>,
}

/// Where metric rows come from.
#[derive(Debug)]
enum Rowing {
    Tail(Box<Tail>),
    /// A run of another tool, which does not grow: its rows are read once.
    Once(bool),
}

/// What tells whether a run's record changed, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: Option<(u64, u64, i64, i64)>,
    owned: bool,
}

impl Follower {
    /// A follower that has read nothing yet.
    pub fn new(run: &RunEntry) -> Self {
        let rows = match run.kind {
            RunKind::Mesh => Rowing::Tail(Box::new(Tail::new(run.dir.clone()))),
            RunKind::ExpmanRs => Rowing::Once(false),
        };
        Self {
            rows,
            run_log: LogFollower::new(&run.dir, LogKind::Run),
            console: LogFollower::new(&run.dir, LogKind::Console),
            looked: None,
            dir: run.dir.clone(),
        }
    }

    /// Everything that is new since the last look.
    ///
    /// # Errors
    /// When a file can't be read; what was not read comes with the next look.
    pub fn look(&mut self) -> Result<News> {
        // The record first: the rows then are never behind what it counts.
        let detail = self.detail()?;
        let mut news = News {
            detail,
            ..News::default()
        };
        match &mut self.rows {
            Rowing::Tail(tail) => {
                news.rows = tail.poll()?;
                news.end = tail.end();
            }
            Rowing::Once(read) => {
                if !*read {
                    news.rows = read_rows(&self.dir, &expman_storage::Filter::default())?.0;
                    *read = true;
                }
                news.end = news.rows.len() as u64;
            }
        }
        news.run_log = self.run_log.look()?;
        news.console = self.console.look()?;
        Ok(news)
    }

    fn detail(&mut self) -> Result<Option<RunEntry>> {
        if self
            .looked
            .is_some_and(|(at, _)| at.elapsed() < DETAIL_EVERY)
        {
            return Ok(None);
        }
        let stamp = Stamp {
            file: std::fs::metadata(self.dir.meta())
                .ok()
                .map(|m: Metadata| (m.ino(), m.len(), m.mtime(), m.mtime_nsec())),
            owned: lock::is_owned(&self.dir),
        };
        let changed = self.looked.is_none_or(|(_, old)| old != stamp);
        let entry = if changed {
            Some(open_run(self.dir.root())?)
        } else {
            None
        };
        self.looked = Some((Instant::now(), stamp));
        Ok(entry)
    }
}

/// The wanted rows of a run and how many it has.
///
/// # Errors
/// When a file can't be read or is damaged.
pub fn read_rows(dir: &RunDir, filter: &expman_storage::Filter) -> Result<(Rows, u64)> {
    let found = expman_storage::snapshot(dir, filter)?;
    Ok((found.rows, found.total))
}

#[derive(Debug)]
struct LogFollower {
    dir: RunDir,
    kind: LogKind,
    path: PathBuf,
    tail: Option<TextTail>,
}

impl LogFollower {
    fn new(dir: &RunDir, kind: LogKind) -> Self {
        let path = match kind {
            LogKind::Run => dir.run_log(),
            LogKind::Console => dir.console_log(),
        };
        Self {
            dir: dir.clone(),
            kind,
            path,
            tail: None,
        }
    }

    fn look(&mut self) -> Result<LogNews> {
        let length = match std::fs::metadata(&self.path) {
            Ok(meta) => meta.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(source) => {
                let path = self.path.clone();
                return Err(ServeError::Storage(expman_storage::StorageError::Io {
                    action: "stat",
                    path,
                    source,
                }));
            }
        };
        let mut news = LogNews::default();
        if self.tail.as_ref().is_none_or(|tail| tail.offset() > length) {
            let tail = TextTail::near_end(&self.dir, self.kind, LOG_START_BYTES)?;
            news.restart = Some(tail.offset());
            self.tail = Some(tail);
        }
        if let Some(tail) = &mut self.tail {
            news.lines = tail.poll()?.into_iter().map(Line::from).collect();
            news.end = tail.offset();
        }
        Ok(news)
    }
}
