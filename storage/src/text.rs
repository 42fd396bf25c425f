//! `run.log` and `console.log`: plain text with a prefix that reads back exactly.
//!
//! A record starts with `[`; its further lines start with a tab.
//! A file that has grown large is rolled: it gets the name of a piece, `run-<from>-<to>.log`, and is packed as
//! `.log.zst` later. Places in the text are counted over all pieces, so they stay what they are.

mod file;
mod line;
mod packed;
mod packer;
mod pieces;
mod reader;

use expman_model::record::{Level, Stream};
use expman_model::time::put_stamp;
use memchr::memchr;

pub(crate) use self::file::TextFile;
pub use self::line::LineRef;
pub(crate) use self::line::each_line;
pub(crate) use self::packed::{check as check_packed, pack};
pub(crate) use self::packer::{Packer, is_packed_form};
pub(crate) use self::pieces::base;
pub use self::pieces::{Piece, length, pieces, stored_bytes};
pub(crate) use self::reader::{Chunk, TextReader};

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
    let level = level.name();
    out.push(b'[');
    put_stamp(out, timestamp_us - micros, 3);
    out.extend_from_slice(format!("] [{level}] [rank {rank} {seq}.{micros:03}").as_bytes());
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
    put_stamp(out, timestamp_us, 6);
    // Without a formatter: these are most of the bytes of a run that prints much.
    let mut number = itoa::Buffer::new();
    out.extend_from_slice(b"] [rank ");
    out.extend_from_slice(number.format(rank).as_bytes());
    for part in [" ", stream, " ", number.format(seq), more, "] "] {
        out.extend_from_slice(part.as_bytes());
    }
    put_lines(out, bytes);
}

fn put_lines(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some(n) = memchr(b'\n', rest) {
        out.extend_from_slice(&rest[..=n]);
        out.push(b'\t');
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

impl LogKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Run, Self::Console];

    /// How the names of its files begin.
    #[must_use]
    pub const fn stem(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Console => "console",
        }
    }
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
    let mut lines = Vec::new();
    let used = each_line(kind, bytes, base, ended, |line| lines.push(line.to_line()));
    (lines, used)
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
