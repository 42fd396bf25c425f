//! Following a run that grows: metric rows from its commit log, text from its log files.

mod merged;

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;

pub use self::merged::{Choice, LogLines};
use crate::durable;
use crate::error::{At, Result};
use crate::layout::RunDir;
use crate::reader::{Filter, drain, snapshot};
use crate::rows::Rows;
use crate::text::{LogKind, LogLine, parse};
use crate::wal::WalReader;

/// Bytes of a text file read at once.
const TEXT_CHUNK: usize = 4 << 20;

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
                self.note(&rows);
                self.kept = rows;
                self.log = None;
                Err(e)
            }
        }
    }

    fn poll_into(&mut self, rows: &mut Rows) -> Result<()> {
        let everything = Filter::default();
        while let Some(log) = &mut self.log {
            self.end += drain(log, &everything, rows, &mut Vec::new(), u64::MAX)?;
            let at = log.path().to_owned();
            let next = self.dir.wals()?.into_iter().find(|w| w.path > at);
            match next {
                Some(next) if next.lo == self.end => match WalReader::open(&next.path) {
                    Ok(reader) => {
                        // What the old log got between the drain above and the new log's birth.
                        self.end += drain(log, &everything, rows, &mut Vec::new(), u64::MAX)?;
                        self.log = (self.end == next.lo).then_some(reader);
                    }
                    Err(e) if e.is_not_found() => self.log = None,
                    Err(e) => return Err(e),
                },
                // The old log was given up, and what it has behind that row stands in the new one, too.
                Some(next) if next.lo < self.end => self.log = None,
                _ if at.exists() => {
                    self.note(rows);
                    return Ok(());
                }
                _ => self.log = None,
            }
        }
        self.note(rows);
        if self.end > 0
            && self.dir.wals()?.is_empty()
            && crate::segment::read_hi(&self.dir.metrics()).is_ok_and(|hi| hi == self.end)
        {
            return Ok(());
        }
        let fresh = snapshot(&self.dir, &everything)?;
        let new: Vec<_> = fresh
            .rows
            .iter()
            .filter(|r| {
                self.seen
                    .get(&(r.rank, r.attempt))
                    .is_none_or(|&seq| r.seq > seq)
            })
            .collect();
        for row in &new {
            rows.push_row(row);
        }
        self.end = fresh.total;
        self.log = fresh.log;
        self.note(rows);
        Ok(())
    }

    fn note(&mut self, rows: &Rows) {
        for row in rows.iter() {
            let seq = self.seen.entry((row.rank, row.attempt)).or_default();
            *seq = row.seq.max(*seq);
        }
    }
}

/// Follows one of the text files.
#[derive(Debug)]
pub struct TextTail {
    path: PathBuf,
    kind: LogKind,
    file: Option<File>,
    offset: u64,
}

impl TextTail {
    /// A tail that begins at a byte offset where a record starts.
    #[must_use]
    pub fn new(dir: &RunDir, kind: LogKind, offset: u64) -> Self {
        let path = match kind {
            LogKind::Run => dir.run_log(),
            LogKind::Console => dir.console_log(),
        };
        Self {
            path,
            kind,
            file: None,
            offset,
        }
    }

    /// A tail that begins at most `bytes` before the end of the file, at the start of a record.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub fn near_end(dir: &RunDir, kind: LogKind, bytes: u64) -> Result<Self> {
        let mut tail = Self::new(dir, kind, 0);
        let Ok(file) = durable::open_read(&tail.path) else {
            return Ok(tail);
        };
        let length = file.metadata().at("stat", &tail.path)?.len();
        if length <= bytes {
            return Ok(tail);
        }
        let from = length - bytes;
        let chunk = durable::read_at(
            &file,
            &tail.path,
            from,
            usize::try_from(bytes).unwrap_or(usize::MAX),
        )?;
        let start = chunk
            .windows(2)
            .position(|w| w == b"\n[")
            .map_or(chunk.len(), |n| n + 1);
        tail.offset = from + start as u64;
        Ok(tail)
    }

    /// Where the next record begins.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The records that are new since the last call, a bounded number; call again while it returns some.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub fn poll(&mut self) -> Result<Vec<LogLine>> {
        self.poll_where(|_| true)
    }

    /// [`TextTail::poll`], where bytes that are not `wanted` are passed over without being taken apart.
    ///
    /// # Errors
    /// As [`TextTail::poll`].
    pub fn poll_where(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<LogLine>> {
        if self.file.is_none() {
            match durable::open_read(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(e) if e.is_not_found() => return Ok(Vec::new()),
                Err(e) => return Err(e),
            }
        }
        let Some(file) = &self.file else {
            return Ok(Vec::new());
        };
        let bytes = durable::read_at(file, &self.path, self.offset, TEXT_CHUNK)?;
        if !wanted(&bytes) {
            // Up to the last record that begins here: whether it is whole is seen when more is read.
            let last = bytes.windows(2).rposition(|w| w == b"\n[").map(|n| n + 1);
            if let Some(last) = last {
                self.offset += last as u64;
                return Ok(Vec::new());
            }
        }
        let (lines, used) = parse(self.kind, &bytes, self.offset, false);
        self.offset += used as u64;
        Ok(lines)
    }
}
