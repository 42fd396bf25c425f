//! Reading what is new in a run's files; the blocking half of following it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use expman_storage::catalog::open_run;
use expman_storage::pyramid::{Behind, MadeSums, open};
use expman_storage::stamp::FileStamp;
use expman_storage::text::{self, LogKind};
use expman_storage::{
    Filter, Rows, RunDir, RunEntry, RunKind, StorageError, Tail, TextTail, legacy, lock, snapshot,
};

use crate::chart::Charts;
use crate::error::Result;
use crate::stamps::Stamps;
use crate::wire::Line;

/// Bytes of each log that are there from the start, for readers that come back.
const LOG_START_BYTES: u64 = 1 << 20;
/// The run's record is looked at this often.
const DETAIL_EVERY: Duration = Duration::from_millis(500);

/// How often a run is opened anew when its files move meanwhile.
const ATTEMPTS: u32 = 4;

/// What a look at the files brought.
#[derive(Debug, Default)]
pub struct News {
    /// Metric rows; none when they can't be read.
    pub rows: Option<RowNews>,
    /// Lines of `run.log`; none when it can't be read.
    pub run_log: Option<LogNews>,
    /// Lines of `console.log`; none when it can't be read.
    pub console: Option<LogNews>,
    /// The run's record and the stamps beside it, when one of them changed.
    pub detail: Option<(RunEntry, Stamps)>,
    /// What could not be read; it is tried again with the next look.
    pub failure: Option<String>,
}

/// News of the metrics.
#[derive(Debug, Default)]
pub struct RowNews {
    /// New rows.
    pub rows: Rows,
    /// Rows that the run has now.
    pub end: u64,
    /// What was read before does not count any more: this is all there is.
    pub fresh: Option<Box<Charts>>,
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
    run: RunEntry,
    made: Arc<MadeSums>,
    rows: Rowing,
    end: u64,
    run_log: LogFollower,
    console: LogFollower,
    looked: Option<(Instant, Stamp)>,
}

/// Where metric rows come from.
#[derive(Debug)]
enum Rowing {
    /// Nothing was read yet.
    Unread,
    /// Behind what was read.
    Tail(Box<Tail>),
    /// A run of another tool, which is read once.
    Read,
}

/// What tells whether a run's record changed, without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    file: Option<FileStamp>,
    owned: bool,
    beside: Stamps,
}

impl Follower {
    /// A follower that has read nothing yet; sums of rows that have none beside them are shared in `made`.
    pub fn new(run: &RunEntry, made: Arc<MadeSums>) -> Self {
        Self {
            made,
            rows: Rowing::Unread,
            end: 0,
            run_log: LogFollower::new(&run.dir, LogKind::Run),
            console: LogFollower::new(&run.dir, LogKind::Console),
            looked: None,
            run: run.clone(),
        }
    }

    /// Everything that is new since the last look; a file that can't be read hides nothing of the others.
    pub fn look(&mut self) -> News {
        let mut news = News::default();
        // The record first: the rows then are never behind what it says.
        match self.detail() {
            Ok(detail) => news.detail = detail,
            Err(e) => news.failure = Some(e.to_string()),
        }
        if let Some(now) = news
            .detail
            .as_ref()
            .map(|(now, _)| now)
            .filter(|now| now.meta.id != self.run.meta.id)
        {
            // Another run took the folder.
            *self = Self {
                looked: self.looked.take(),
                ..Self::new(now, Arc::clone(&self.made))
            };
        }
        match self.rows() {
            Ok((rows, problem)) => {
                news.rows = Some(rows);
                news.failure = problem.or(news.failure);
            }
            Err(e) => {
                // The tail may have lost what it had read so far: the next one starts at the first row.
                *self = Self {
                    looked: self.looked.take(),
                    ..Self::new(&self.run, Arc::clone(&self.made))
                };
                news.failure = Some(e.to_string());
            }
        }
        let mut log = |log: &mut LogFollower| match log.look() {
            Ok(found) => Some(found),
            Err(e) => {
                news.failure = Some(e.to_string());
                None
            }
        };
        let (run_log, console) = (log(&mut self.run_log), log(&mut self.console));
        News {
            run_log,
            console,
            ..news
        }
    }

    fn rows(&mut self) -> Result<(RowNews, Option<String>)> {
        let mut news = RowNews {
            end: self.end,
            ..RowNews::default()
        };
        let mut problem = None;
        match &mut self.rows {
            Rowing::Tail(tail) => {
                news.rows = tail.poll()?;
                news.end = tail.end();
            }
            Rowing::Unread => {
                let (charts, behind) = self.open()?;
                let mut problems = charts.view().problems.iter().chain(&behind.problems);
                problem = problems.next().cloned();
                news.fresh = Some(Box::new(charts));
                news.end = behind.end;
                self.rows = behind
                    .tail
                    .map_or(Rowing::Read, |tail| Rowing::Tail(Box::new(tail)));
            }
            Rowing::Read => {}
        }
        self.end = news.end;
        Ok((news, problem))
    }

    /// The sums of what is sealed, and what stands behind it.
    fn open(&self) -> Result<(Charts, Behind)> {
        let mut attempt = 1;
        loop {
            let opened = open(&self.run, &self.made)?;
            let mut charts = Charts::new(Arc::clone(&opened.view));
            match opened.behind(|rows| charts.extend(rows)) {
                // Its files have moved between two looks at them.
                Err(StorageError::MissingRows { .. }) if attempt < ATTEMPTS => attempt += 1,
                behind => return Ok((charts, behind?)),
            }
        }
    }

    fn detail(&mut self) -> Result<Option<(RunEntry, Stamps)>> {
        if self
            .looked
            .as_ref()
            .is_some_and(|(at, _)| at.elapsed() < DETAIL_EVERY)
        {
            return Ok(None);
        }
        let stamp = Stamp {
            file: FileStamp::of(&self.run.dir.meta()),
            owned: lock::is_owned(&self.run.dir),
            beside: Stamps::of(&self.run.dir),
        };
        let changed = self.looked.as_ref().is_none_or(|(_, old)| *old != stamp);
        let entry = if changed {
            Some((open_run(self.run.dir.root())?, stamp.beside.clone()))
        } else {
            None
        };
        self.looked = Some((Instant::now(), stamp));
        Ok(entry)
    }
}

/// The wanted rows of a run.
#[derive(Debug)]
pub struct Found {
    /// The rows.
    pub rows: Rows,
    /// How many rows the run has, wanted or not.
    pub total: u64,
    /// What was found damaged and left out.
    pub problems: Vec<String>,
}

/// Reads the rows of a run as they stand now, whoever wrote it.
///
/// # Errors
/// When a file can't be read or is damaged.
pub fn read_rows(run: &RunEntry, filter: &Filter) -> Result<Found> {
    if run.kind == RunKind::Mesh {
        let found = snapshot(&run.dir, filter)?;
        return Ok(Found {
            rows: found.rows,
            total: found.total,
            problems: found.problems,
        });
    }
    let found = legacy::read_rows(run, filter)?;
    Ok(Found {
        total: found.rows.len() as u64,
        rows: found.rows,
        problems: found.problems,
    })
}

#[derive(Debug)]
struct LogFollower {
    dir: RunDir,
    kind: LogKind,
    tail: Option<TextTail>,
}

impl LogFollower {
    fn new(dir: &RunDir, kind: LogKind) -> Self {
        Self {
            dir: dir.clone(),
            kind,
            tail: None,
        }
    }

    fn look(&mut self) -> Result<LogNews> {
        let length = text::length(&self.dir, self.kind)?;
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
