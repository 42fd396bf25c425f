//! Finding lines in a run's texts: the last ones, those around a moment, those behind or in front of a byte.
//!
//! An answer is bounded in lines and in the bytes that were looked through for it; where more may be had, it says
//! from which byte to go on.

use std::collections::VecDeque;

use expman_storage::select::Select;
use expman_storage::tail::Choice;
use expman_storage::text::{LogKind, LogLine};
use expman_storage::{RunDir, TextTail};

use crate::error::Result;
use crate::wire::Line;

/// Bytes that are searched backwards for the last lines: first, in steps of four times as many.
const BACK_FIRST: u64 = 256 << 10;
/// Bytes that one answer looks through: half a second and more.
pub const SEARCHED_MAX: u64 = 512 << 20;
/// A moment is looked for until it is known to within so many bytes.
const MOMENT_BYTES: u64 = 64 << 10;

/// Some lines.
#[derive(Debug, Default)]
pub struct Found {
    /// Byte of the first record that was looked at: what is in front of it was not.
    pub first: u64,
    /// Byte behind the last one.
    pub end: u64,
    /// The lines, in the order of the text.
    pub lines: Vec<Line>,
    /// Bytes that were looked through.
    pub searched: u64,
    /// Whether there may be more in front of `first`.
    pub more: bool,
}

/// One of the texts of a run, and what is wanted of it.
#[derive(Debug, Clone)]
pub struct Search {
    /// The run.
    pub dir: RunDir,
    /// The text.
    pub kind: LogKind,
    /// Which lines.
    pub select: Select,
    /// How many at most.
    pub max: usize,
}

impl Search {
    /// The first lines from a byte on, which is the end of an earlier answer.
    ///
    /// # Errors
    /// When the text can't be read.
    pub fn behind(&self, from: u64) -> Result<Found> {
        let mut found = Found {
            first: from,
            end: from,
            ..Found::default()
        };
        let mut tail = TextTail::new(&self.dir, self.kind, from);
        while found.lines.len() < self.max && found.searched < SEARCHED_MAX {
            let mut full = None;
            self.read(&mut tail, |line| {
                if found.lines.len() < self.max {
                    found.lines.push(Line::from(line));
                } else {
                    full.get_or_insert(line.offset);
                }
            })?;
            let end = full.unwrap_or(tail.offset());
            found.searched += end.saturating_sub(found.end);
            if end <= found.end {
                break;
            }
            found.end = end;
        }
        found.more = from > 0;
        Ok(found)
    }

    /// The last lines in front of a byte, or of the whole text.
    ///
    /// # Errors
    /// When the text can't be read.
    pub fn before(&self, upto: Option<u64>) -> Result<Found> {
        let mut back = BACK_FIRST;
        loop {
            let end = match upto {
                Some(upto) => upto,
                None => TextTail::new(&self.dir, self.kind, 0).length()?,
            };
            let mut tail = TextTail::near(&self.dir, self.kind, end.saturating_sub(back))?;
            let first = tail.offset();
            let mut last = VecDeque::new();
            loop {
                let before = tail.offset();
                self.read(&mut tail, |line| {
                    if upto.is_none_or(|upto| line.offset < upto) {
                        last.push_back(line);
                        if last.len() > self.max {
                            last.pop_front();
                        }
                    }
                })?;
                if tail.offset() == before || upto.is_some_and(|upto| tail.offset() >= upto) {
                    break;
                }
            }
            let is_whole = first == 0;
            if last.len() >= self.max || is_whole || back >= SEARCHED_MAX {
                let is_full = last.len() >= self.max;
                return Ok(Found {
                    first: last.front().filter(|_| is_full).map_or(first, |l| l.offset),
                    end: upto.unwrap_or(tail.offset()),
                    more: !is_whole || is_full,
                    searched: back.min(end),
                    lines: last.into_iter().map(Line::from).collect(),
                });
            }
            back *= 4;
        }
    }

    /// Lines around a moment, in microseconds since 1970 UTC: half in front of it, half behind.
    ///
    /// # Errors
    /// When the text can't be read.
    pub fn around(&self, at_us: i64) -> Result<Found> {
        let half = Self {
            max: (self.max / 2).max(1),
            ..self.clone()
        };
        let moment = self.moment(at_us)?;
        let mut found = half.before(Some(moment))?;
        let behind = half.behind(moment)?;
        found.lines.extend(behind.lines);
        found.end = behind.end;
        found.searched += behind.searched;
        Ok(found)
    }

    /// The byte of the first record that is not older than a moment; the text is in the order of its arrival, which
    /// is that of time but for the moment that a batch is under way.
    fn moment(&self, at_us: i64) -> Result<u64> {
        let (mut low, mut high) = (0, TextTail::new(&self.dir, self.kind, 0).length()?);
        while high - low > MOMENT_BYTES {
            let middle = low + (high - low) / 2;
            let tail = TextTail::near(&self.dir, self.kind, middle)?;
            let lines = tail.by(64 << 10).poll()?;
            match lines.iter().find(|line| line.timestamp_us != 0) {
                Some(line) if line.timestamp_us < at_us && line.offset > low => low = line.offset,
                _ => high = middle,
            }
        }
        let mut tail = TextTail::new(&self.dir, self.kind, low).by(256 << 10);
        let mut last = low;
        loop {
            let lines = tail.poll()?;
            if lines.is_empty() {
                return Ok(tail.offset());
            }
            for line in lines {
                if line.timestamp_us >= at_us {
                    return Ok(line.offset);
                }
                last = line.offset;
            }
            if last > high + MOMENT_BYTES {
                return Ok(last);
            }
        }
    }

    fn read(&self, tail: &mut TextTail, mut each: impl FnMut(LogLine)) -> Result<()> {
        Ok(tail.poll_each(
            |bytes| self.select.may_match(bytes),
            |line| {
                if self.select.wants(line) {
                    each(line.to_line());
                }
            },
        )?)
    }
}
