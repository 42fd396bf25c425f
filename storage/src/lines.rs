//! Whole lines of the records of a text file: a long line comes in pieces.

use std::collections::{BTreeMap, BTreeSet};

use expman_model::{Level, Stream};

use crate::error::Result;
use crate::layout::RunDir;
use crate::tail::TextTail;
use crate::text::{LogKind, LogLine};

/// Bytes of an unfinished line that are waited with.
const UNFINISHED_BYTES_MAX: usize = 1 << 20;

/// Puts the pieces of lines together, by rank and stream.
#[derive(Debug, Default)]
pub struct Lines {
    unfinished: BTreeMap<(u32, bool), LogLine>,
}

impl Lines {
    /// Takes in a record; returns the line that it ends. A line that is too long to be waited with comes in parts.
    pub fn push(&mut self, record: LogLine) -> Option<LogLine> {
        let key = (record.rank, record.stream == Some(Stream::Err));
        if record.stream.is_none() {
            return Some(record); // a message is whole
        }
        match self.unfinished.get_mut(&key) {
            None if record.ends_line => Some(record),
            None => {
                self.unfinished.insert(key, record);
                None
            }
            Some(first) => {
                first.text.extend_from_slice(&record.text);
                let is_whole = record.ends_line || first.text.len() >= UNFINISHED_BYTES_MAX;
                is_whole.then(|| self.unfinished.remove(&key)).flatten()
            }
        }
    }

    /// The lines that never ended.
    pub fn end(&mut self) -> impl Iterator<Item = LogLine> + use<> {
        std::mem::take(&mut self.unfinished).into_values()
    }
}

/// How many lines are told of a rank that fell silent, or died.
const LAST_LINES: usize = 5;
/// Most bytes of the end of each file that are looked through for them …
const LAST_BYTES: u64 = 1 << 20;
/// … and characters that are told of each.
const LINE_CHARS_MAX: usize = 500;

/// What each of these ranks said last, oldest first: a few lines of its output and messages, if the ends of the files
/// have any.
///
/// # Errors
/// When a file can't be read.
pub fn last_of(dir: &RunDir, ranks: &BTreeSet<u32>) -> Result<BTreeMap<u32, Vec<String>>> {
    let mut found: BTreeMap<u32, Vec<LogLine>> = BTreeMap::new();
    let mut keep = |line: LogLine| found.entry(line.rank).or_default().push(line);
    for kind in [LogKind::Run, LogKind::Console] {
        let mut tail = TextTail::near_end(dir, kind, LAST_BYTES)?;
        let mut lines = Lines::default();
        loop {
            let records = tail.poll()?;
            if records.is_empty() {
                break;
            }
            let wanted = records.into_iter().filter(|r| ranks.contains(&r.rank));
            wanted
                .filter_map(|record| lines.push(record))
                .for_each(&mut keep);
        }
        lines.end().for_each(&mut keep);
    }
    Ok(found
        .into_iter()
        .map(|(rank, lines)| (rank, last_few(lines)))
        .collect())
}

fn last_few(mut lines: Vec<LogLine>) -> Vec<String> {
    lines.sort_by_key(|line| line.timestamp_us);
    let few = lines.len().saturating_sub(LAST_LINES);
    lines[few..]
        .iter()
        .map(|line| {
            let text = String::from_utf8_lossy(last_state(&line.text));
            text.chars().take(LINE_CHARS_MAX).collect()
        })
        .collect()
}

/// Messages are told from output by this bit of their kind.
const MESSAGE: u16 = 0x100;

/// Tells output, errors and levels of messages apart, as [`expman_model::fold::Line::kind`].
#[must_use]
pub fn kind(line: &LogLine) -> u16 {
    match (line.level, line.stream) {
        (Some(level), _) => MESSAGE | u16::from(level.0),
        (None, Some(Stream::Err)) => 1,
        (None, _) => 0,
    }
}

/// The level of a kind; none of output.
#[must_use]
pub const fn level(kind: u16) -> Option<Level> {
    if kind & MESSAGE == 0 {
        return None;
    }
    Some(Level(kind.to_le_bytes()[0]))
}

/// What a terminal would show of a line that was written over again and again: its last state.
#[must_use]
pub fn last_state(text: &[u8]) -> &[u8] {
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    text.rsplit(|&b| b == b'\r')
        .find(|state| !state.is_empty())
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{parse, put_console};

    #[test]
    fn a_progress_bar_is_shown_in_its_last_state() {
        assert_eq!(last_state(b"10%\r50%\r100%\r"), b"100%");
        assert_eq!(last_state(b"plain"), b"plain");
        assert_eq!(last_state(b"\r"), b"");
    }

    #[test]
    fn pieces_of_lines_of_several_ranks_and_streams_are_put_together() {
        let mut file = Vec::new();
        for (seq, (rank, stream, ends, text)) in (1..).zip([
            (0, Stream::Out, false, "a"),
            (1, Stream::Out, true, "whole"),
            (0, Stream::Err, false, "x"),
            (0, Stream::Out, true, "b"),
            (0, Stream::Err, true, "y"),
            (1, Stream::Err, false, "never ended"),
        ]) {
            put_console(&mut file, 0, rank, seq, stream, ends, text.as_bytes());
        }
        let mut lines = Lines::default();
        let (records, _) = parse(LogKind::Console, &file, 0, true);
        let mut whole: Vec<_> = records.into_iter().filter_map(|r| lines.push(r)).collect();
        whole.extend(lines.end());
        let texts: Vec<_> = whole.iter().map(|l| l.text.as_slice()).collect();
        assert_eq!(texts, [b"whole".as_slice(), b"ab", b"xy", b"never ended"]);
    }
}
