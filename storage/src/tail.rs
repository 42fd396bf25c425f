//! Following a run that grows: metric rows from its commit log, text from its log files.

mod merged;
mod text;

use std::collections::HashMap;

pub use self::merged::{Choice, LogLines};
pub use self::text::TextTail;
use crate::error::Result;
use crate::layout::RunDir;
use crate::reader::{Filter, drain, snapshot_where};
use crate::rows::Rows;
use crate::wal::WalReader;

/// Follows the metric rows of one run; every row is returned exactly once.
#[derive(Debug)]
pub struct Tail {
    dir: RunDir,
    log: Option<WalReader>,
    end: u64,
    /// Last sequence number returned by (rank, attempt): what a fresh snapshot must not repeat.
    seen: HashMap<(u32, u32), u64>,
    /// Rows of a poll that failed half-way: the next one returns them.
    kept: Rows,
}

impl Tail {
    /// A tail that stands in front of the first row.
    #[must_use]
    pub fn new(dir: RunDir) -> Self {
        Self {
            dir,
            log: None,
            end: 0,
            seen: HashMap::new(),
            kept: Rows::default(),
        }
    }

    /// A tail that stands behind row `end`, in a log if the run has one; `seen` is the last number of each
    /// (rank, attempt) in front of there.
    pub(crate) fn behind(
        dir: RunDir,
        end: u64,
        log: Option<WalReader>,
        seen: HashMap<(u32, u32), u64>,
    ) -> Self {
        Self {
            log,
            end,
            seen,
            ..Self::new(dir)
        }
    }

    /// How many rows the run had at the last poll.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// The rows that are new since the last call.
    ///
    /// The log's descriptor is kept, so rows are read to the end of a log even after it was sealed and unlinked;
    /// only when several logs went by in between is the run read again, and what was seen left out.
    ///
    /// # Errors
    /// When a file can't be read or is damaged.
    pub fn poll(&mut self) -> Result<Rows> {
        let mut rows = std::mem::take(&mut self.kept);
        match self.poll_into(&mut rows) {
            Ok(()) => Ok(rows),
            Err(e) => {
                // The next call reads the run again, and leaves out what is kept here.
                note(&mut self.seen, &rows);
                self.kept = rows;
                self.log = None;
                Err(e)
            }
        }
    }

    fn poll_into(&mut self, rows: &mut Rows) -> Result<()> {
        let mut problems = Vec::new();
        while let Some(log) = &mut self.log {
            let mut add = |new: &Rows| rows.extend(new);
            self.end += drain(log, &mut problems, u64::MAX, &mut add)?;
            let at = log.path().to_owned();
            let next = self.dir.wals()?.into_iter().find(|w| w.path > at);
            match next {
                Some(next) if next.lo == self.end => match WalReader::open(&next.path) {
                    Ok(reader) => {
                        // What the old log got between the drain above and the new log's birth.
                        let mut add = |new: &Rows| rows.extend(new);
                        self.end += drain(log, &mut problems, u64::MAX, &mut add)?;
                        self.log = (self.end == next.lo).then_some(reader);
                    }
                    Err(e) if e.is_not_found() => self.log = None,
                    Err(e) => return Err(e),
                },
                // The old log was given up, and what it has behind that row stands in the new one, too.
                Some(next) if next.lo < self.end => self.log = None,
                _ if at.exists() => {
                    note(&mut self.seen, rows);
                    return Ok(());
                }
                _ => self.log = None,
            }
        }
        note(&mut self.seen, rows);
        if self.end > 0
            && self.dir.wals()?.is_empty()
            && crate::segment::read_hi(&self.dir.metrics()).is_ok_and(|hi| hi == self.end)
        {
            return Ok(());
        }
        let seen = &self.seen;
        let fresh = snapshot_where(&self.dir, &Filter::default(), &|row| {
            seen.get(&(row.rank, row.attempt))
                .is_none_or(|&seq| row.seq > seq)
        })?;
        rows.extend(&fresh.rows);
        self.end = fresh.total;
        self.log = fresh.log;
        note(&mut self.seen, rows);
        Ok(())
    }
}

/// Notes the last number of each (rank, attempt).
pub(crate) fn note(seen: &mut HashMap<(u32, u32), u64>, rows: &Rows) {
    for row in rows.iter() {
        let seq = seen.entry((row.rank, row.attempt)).or_default();
        *seq = row.seq.max(*seq);
    }
}
