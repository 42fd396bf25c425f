//! Both text files of a run as one sequence of lines, by time.

use std::collections::VecDeque;

use super::TextTail;
use crate::error::Result;
use crate::layout::RunDir;
use crate::text::{LineRef, LogKind, LogLine};

/// Which lines are wanted.
pub trait Choice {
    /// Whether these bytes of a file can hold a line that is wanted; a quick look before they are taken apart.
    fn may_match(&self, _bytes: &[u8]) -> bool {
        true
    }

    /// Whether a line is wanted.
    fn wants(&self, line: &LineRef<'_>) -> bool;
}

/// See the module; lines of one file keep the order in which they arrived.
#[derive(Debug)]
pub struct LogLines {
    sources: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    tail: TextTail,
    lines: VecDeque<LogLine>,
    /// It had nothing new when it was looked at last.
    dry: bool,
}

impl LogLines {
    /// These files, from their beginning.
    pub fn new(dir: &RunDir, kinds: impl IntoIterator<Item = LogKind>) -> Self {
        kinds
            .into_iter()
            .map(|kind| TextTail::new(dir, kind, 0))
            .collect()
    }

    /// The next line that is wanted; none when there is nothing new. It may be called again when there may be more.
    ///
    /// # Errors
    /// When a file is there and can't be read.
    pub fn next(&mut self, choice: &impl Choice) -> Result<Option<LogLine>> {
        // A file that had nothing new is looked at again when another one has been read to its end.
        if self.sources.iter().any(|s| s.lines.is_empty() && !s.dry) {
            for source in &mut self.sources {
                source.fill(choice)?;
                source.dry = source.lines.is_empty();
            }
        }
        let first = self
            .sources
            .iter_mut()
            .filter(|s| !s.lines.is_empty())
            .min_by_key(|s| s.lines.front().map(|line| line.timestamp_us));
        let line = first.and_then(|s| s.lines.pop_front());
        if line.is_none() {
            self.sources.iter_mut().for_each(|s| s.dry = false);
        }
        Ok(line)
    }
}

impl FromIterator<TextTail> for LogLines {
    fn from_iter<T: IntoIterator<Item = TextTail>>(tails: T) -> Self {
        let sources = tails.into_iter().map(|tail| Source {
            tail,
            lines: VecDeque::new(),
            dry: false,
        });
        Self {
            sources: sources.collect(),
        }
    }
}

impl Source {
    /// Reads on until there is a line that is wanted, or nothing new.
    fn fill(&mut self, choice: &impl Choice) -> Result<()> {
        while self.lines.is_empty() {
            let before = self.tail.offset();
            let lines = &mut self.lines;
            self.tail.poll_each(
                |bytes| choice.may_match(bytes),
                |line| {
                    if choice.wants(line) {
                        lines.push_back(line.to_line());
                    }
                },
            )?;
            if self.tail.offset() == before {
                break;
            }
        }
        Ok(())
    }
}
