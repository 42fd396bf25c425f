//! `run.log` and `console.log`: plain text with a prefix that reads back exactly.
//!
//! A record starts with `[`; its further lines start with a tab.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use expman_model::record::{Level, Stream};
use expman_model::time::{parse_rfc3339, rfc3339_ms, rfc3339_us};
use memchr::memchr;

use crate::durable;
use crate::error::{At, Result};

/// What stands in front of a message.
#[derive(Debug, Clone, Copy)]
pub struct MessageHead<'a> {
    /// Microseconds since 1970 UTC.
    pub timestamp_us: i64,
    /// The rank.
    pub rank: u32,
    /// The record's sequence number.
    pub seq: u64,
    /// Severity.
    pub level: Level,
    /// The logger's name; may be empty.
    pub logger: &'a str,
    /// The source file; may be empty.
    pub file: &'a str,
    /// The line in it.
    pub line: u32,
}

/// Appends a message: `[2026-01-01T00:00:00.000Z] [INFO] [rank 0 17.123 logger train.py:12] text`.
///
/// Behind the sequence number stand the microseconds within the millisecond. Without a logger there is a `-` in its
/// place, or nothing when there is no file either; blanks and brackets within names are written as `%20`.
pub fn put_message(out: &mut Vec<u8>, head: &MessageHead<'_>, text: &str) {
    let MessageHead {
        timestamp_us,
        rank,
        seq,
        level,
        logger,
        file,
        line,
    } = *head;
    let micros = timestamp_us.rem_euclid(1000);
    let time = rfc3339_ms(timestamp_us - micros);
    let level = level.name();
    out.extend_from_slice(format!("[{time}] [{level}] [rank {rank} {seq}.{micros:03}").as_bytes());
    if !logger.is_empty() || !file.is_empty() {
        out.push(b' ');
        match logger {
            "" => out.push(b'-'),
            "-" => out.extend_from_slice(b"%2D"),
            name => put_name(out, name),
        }
    }
    if !file.is_empty() {
        out.push(b' ');
        put_name(out, file);
        out.extend_from_slice(format!(":{line}").as_bytes());
    }
    out.extend_from_slice(b"] ");
    put_lines(out, text.as_bytes());
}

/// Writes a name without anything that would end it.
fn put_name(out: &mut Vec<u8>, name: &str) {
    for &byte in name.as_bytes() {
        if byte <= b' ' || byte == b'%' || byte == b']' || byte == 0x7f {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            out.push(byte);
        }
    }
}

/// Reads [`put_name`] back.
fn take_name(name: &str) -> String {
    if !name.contains('%') {
        return name.to_owned();
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let escaped = behind
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        if let Some(escaped) = escaped {
            bytes.push(escaped);
            rest = &behind[2..];
        } else {
            bytes.push(byte);
            rest = behind;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Appends captured output: `[2026-01-01T00:00:00.000000Z] [rank 0 out 17] text`; a `+` behind the number says that the line goes on.
pub fn put_console(
    out: &mut Vec<u8>,
    timestamp_us: i64,
    rank: u32,
    seq: u64,
    stream: Stream,
    ends_line: bool,
    bytes: &[u8],
) {
    let stream = if stream == Stream::Out { "out" } else { "err" };
    let more = if ends_line { "" } else { "+" };
    out.push(b'[');
    put_stamp(out, timestamp_us);
    // Into a vector nothing can fail.
    let _written = write!(out, "] [rank {rank} {stream} {seq}{more}] ");
    put_lines(out, bytes);
}

/// [`rfc3339_us`], with the part that neighbours have in common worked out once.
fn put_stamp(out: &mut Vec<u8>, timestamp_us: i64) {
    thread_local! {
        static LAST: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    let (second, micros) = (
        timestamp_us.div_euclid(1_000_000),
        timestamp_us.rem_euclid(1_000_000),
    );
    LAST.with_borrow_mut(|(known, front)| {
        if *known != second {
            *known = second;
            *front = rfc3339_us(timestamp_us);
            front.truncate(front.len().saturating_sub("000000Z".len()));
        }
        out.extend_from_slice(front.as_bytes());
    });
    let mut digits = *b"000000Z";
    let mut rest = micros;
    for digit in digits[..6].iter_mut().rev() {
        *digit = b'0' + (rest % 10).to_le_bytes()[0];
        rest /= 10;
    }
    out.extend_from_slice(&digits);
}

fn put_lines(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some(n) = memchr(b'\n', rest) {
        out.extend_from_slice(&rest[..n]);
        out.extend_from_slice(b"\n\t");
        rest = &rest[n + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'\n');
}

/// Which text file a line stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    /// `run.log`.
    Run,
    /// `console.log`.
    Console,
}

/// One record of a text file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Microseconds since 1970 UTC.
    pub timestamp_us: i64,
    /// The rank.
    pub rank: u32,
    /// Severity; none for captured output.
    pub level: Option<Level>,
    /// The stream; none for messages.
    pub stream: Option<Stream>,
    /// The logger's name; empty when there was none.
    pub logger: String,
    /// The source file of a message; empty when that is not known.
    pub file: String,
    /// The line in it; 0 when that is not known.
    pub line: u32,
    /// The record's sequence number.
    pub seq: u64,
    /// Whether the line ends here.
    pub ends_line: bool,
    /// The text, raw.
    pub text: Vec<u8>,
    /// Where the record begins in the file.
    pub offset: u64,
}

/// Reads the records in `bytes`, which begin at `base` in the file.
///
/// Returns them with the number of bytes used: a torn last record is left for the next call unless `ended`.
/// Lines that are no record (another program wrote to the file) come as level-less records of rank 0.
#[must_use]
pub fn parse(kind: LogKind, bytes: &[u8], base: u64, ended: bool) -> (Vec<LogLine>, usize) {
    let mut lines: Vec<LogLine> = Vec::new();
    let mut at = 0;
    while let Some(n) = bytes[at..].iter().position(|&b| b == b'\n') {
        let line = &bytes[at..at + n];
        if let (Some(rest), Some(last)) = (line.strip_prefix(b"\t"), lines.last_mut()) {
            last.text.push(b'\n');
            last.text.extend_from_slice(rest);
        } else {
            let offset = base + at as u64;
            lines.push(parse_line(kind, line, offset).unwrap_or_else(|| foreign(line, offset)));
        }
        at += n + 1;
    }
    let tail_continues = bytes.get(at) == Some(&b'\t');
    if tail_continues
        && !ended
        && let Some(last) = lines.pop()
    {
        at = usize::try_from(last.offset - base).unwrap_or(at);
    }
    (lines, at)
}

fn foreign(line: &[u8], offset: u64) -> LogLine {
    LogLine {
        timestamp_us: 0,
        rank: 0,
        level: None,
        stream: None,
        logger: String::new(),
        file: String::new(),
        line: 0,
        seq: 0,
        ends_line: true,
        text: line.to_vec(),
        offset,
    }
}

fn parse_line(kind: LogKind, line: &[u8], offset: u64) -> Option<LogLine> {
    let (time, rest) = bracket(line)?;
    let timestamp_us = parse_rfc3339(time)?;
    let empty = LogLine {
        timestamp_us,
        ..foreign(b"", offset)
    };
    match kind {
        LogKind::Run => {
            let (level, rest) = bracket(rest)?;
            let (who, text) = bracket(rest)?;
            let mut parts = who.strip_prefix("rank ")?.split(' ');
            let rank = parts.next()?.parse().ok()?;
            let (seq, micros) = parts.next()?.split_once('.')?;
            let logger = parts.next().unwrap_or("-");
            let place = parts.next().and_then(|place| place.rsplit_once(':'));
            let (file, line) = place.unwrap_or(("", "0"));
            Some(LogLine {
                timestamp_us: timestamp_us + micros.parse::<i64>().ok()?,
                rank,
                level: Some(Level::parse(level)?),
                logger: take_name(if logger == "-" { "" } else { logger }),
                file: take_name(file),
                line: line.parse().ok()?,
                seq: seq.parse().ok()?,
                text: text.to_vec(),
                ..empty
            })
        }
        LogKind::Console => {
            let (who, text) = bracket(rest)?;
            let mut parts = who.strip_prefix("rank ")?.split(' ');
            let rank = parts.next()?.parse().ok()?;
            let stream = match parts.next()? {
                "out" => Stream::Out,
                "err" => Stream::Err,
                _ => return None,
            };
            let seq = parts.next()?;
            let ends_line = !seq.ends_with('+');
            Some(LogLine {
                rank,
                stream: Some(stream),
                seq: seq.trim_end_matches('+').parse().ok()?,
                ends_line,
                text: text.to_vec(),
                ..empty
            })
        }
    }
}

/// Splits `[inside] rest`.
fn bracket(line: &[u8]) -> Option<(&str, &[u8])> {
    let line = line.strip_prefix(b"[")?;
    let end = line.iter().position(|&b| b == b']')?;
    let rest = line.get(end + 1..)?;
    Some((
        std::str::from_utf8(&line[..end]).ok()?,
        rest.strip_prefix(b" ").unwrap_or(rest),
    ))
}

/// Most bytes that an owner writes once more for the one before.
const REWRITTEN_BYTES_MAX: u64 = 64 << 20;

/// One of the two text files, written at a known end so that a failed write can be repeated.
///
/// What is not durable is also kept in memory: after a failed sync nobody knows what of it reached the disk,
/// so it is written once more, through a new descriptor.
#[derive(Debug)]
pub(crate) struct TextFile {
    path: std::path::PathBuf,
    file: File,
    /// Bytes that are durable.
    durable: u64,
    /// What stands behind them …
    tail: Vec<u8>,
    /// … and how much of it is in the file.
    put: usize,
    /// The descriptor has failed.
    failed: bool,
}

impl TextFile {
    /// Opens the file, cuts it to the length that the commit log vouches for, and makes that much durable.
    ///
    /// What stands behind `sure` an owner wrote that died, perhaps after a sync had failed: it is written once more.
    pub(crate) fn open(path: &Path, sure: u64, committed: u64) -> Result<Self> {
        let file = durable::open_rw(path)?;
        let length = file.metadata().at("stat", path)?.len();
        let end = length.min(committed);
        if length > end {
            file.set_len(end).at("cut", path)?;
        }
        let sure = sure.clamp(end.saturating_sub(REWRITTEN_BYTES_MAX), end);
        let rest = usize::try_from(end - sure).unwrap_or(0);
        let tail = durable::read_at(&file, path, sure, rest)?;
        let mut text = Self {
            path: path.to_owned(),
            file,
            durable: sure,
            tail,
            put: 0,
            failed: false,
        };
        text.write()?;
        text.sync()?;
        Ok(text)
    }

    /// Where new records go: to the end of this.
    pub(crate) const fn pending(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// The length that the file will have when all is written.
    pub(crate) const fn end(&self) -> u64 {
        self.durable + self.tail.len() as u64
    }

    /// Writes what is pending; after an error it may be called again.
    pub(crate) fn write(&mut self) -> Result<()> {
        if self.failed {
            self.file = durable::open_rw(&self.path)?;
            (self.put, self.failed) = (0, false);
        }
        if self.put == self.tail.len() {
            return Ok(());
        }
        let at = self.durable + self.put as u64;
        durable::write_at(&self.file, &self.path, &self.tail[self.put..], at)
            .inspect_err(|e| self.failed = !e.is_full())?;
        self.put = self.tail.len();
        Ok(())
    }

    /// Makes durable what was written.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if self.put == 0 {
            return Ok(());
        }
        durable::sync_data(&self.file, &self.path).inspect_err(|_| self.failed = true)?;
        self.durable += self.put as u64;
        self.tail.drain(..self.put);
        self.put = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_console_record_reads_back(texts in prop::collection::vec(any::<Vec<u8>>(), 1..6), ends_line: bool) {
            let mut out = Vec::new();
            for (seq, text) in (1..).zip(&texts) {
                put_console(&mut out, 1_767_225_600_123_456, 3, seq, Stream::Err, ends_line, text);
            }
            let (lines, used) = parse(LogKind::Console, &out, 100, true);
            prop_assert_eq!(used, out.len());
            prop_assert_eq!(lines.iter().map(|l| &l.text).collect::<Vec<_>>(), texts.iter().collect::<Vec<_>>());
            prop_assert!(lines.iter().all(|l| l.ends_line == ends_line && l.rank == 3 && l.stream == Some(Stream::Err)));
        }

        #[test]
        fn every_message_reads_back(text: String, level: u8, logger: String, file: String, line: u32, seq: u64) {
            let mut out = Vec::new();
            let line = if file.is_empty() { 0 } else { line };
            let head = MessageHead {
                timestamp_us: 1_767_225_600_123_456,
                rank: 5,
                seq,
                level: Level(level),
                logger: &logger,
                file: &file,
                line,
            };
            put_message(&mut out, &head, &text);
            let (lines, _) = parse(LogKind::Run, &out, 0, true);
            prop_assert_eq!(lines.len(), 1);
            prop_assert_eq!(&lines[0].text, text.as_bytes());
            prop_assert_eq!(lines[0].level, Some(Level(level)));
            prop_assert_eq!((&lines[0].logger, &lines[0].file, lines[0].line), (&logger, &file, line));
            prop_assert_eq!((lines[0].seq, lines[0].timestamp_us), (seq, head.timestamp_us));
        }
    }

    #[test]
    fn times_of_neighbours_are_those_of_each() {
        for us in [
            0,
            1,
            999_999,
            1_000_000,
            -1,
            -1_000_000,
            1_767_225_600_123_456,
            1_767_225_600_123_457,
        ] {
            let mut out = Vec::new();
            put_stamp(&mut out, us);
            assert_eq!(String::from_utf8(out).unwrap(), rfc3339_us(us));
        }
    }

    #[test]
    fn a_torn_record_is_left_for_later() {
        let mut out = Vec::new();
        let head = MessageHead {
            timestamp_us: 0,
            rank: 0,
            seq: 1,
            level: Level::INFO,
            logger: "",
            file: "",
            line: 0,
        };
        put_message(&mut out, &head, "one");
        assert_eq!(
            out,
            b"[1970-01-01T00:00:00.000Z] [INFO] [rank 0 1.000] one\n"
        );
        let whole = out.len();
        out.extend_from_slice(b"[1970-01-01T00");
        let (lines, used) = parse(LogKind::Run, &out, 0, false);
        assert_eq!((lines.len(), used), (1, whole));
    }
}
