//! Reading records where they lie: nothing is copied before it is known that the line is wanted.

use std::borrow::Cow;

use expman_model::record::{Level, Stream};
use expman_model::time::parse_stamp;
use memchr::memchr;

use super::{LogKind, LogLine, take_name};

/// One record of a text file, where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineRef<'a> {
    /// Microseconds since 1970 UTC.
    pub timestamp_us: i64,
    /// The rank.
    pub rank: u32,
    /// Severity; none for captured output.
    pub level: Option<Level>,
    /// The stream; none for messages.
    pub stream: Option<Stream>,
    /// The record's sequence number.
    pub seq: u64,
    /// Whether the line ends here.
    pub ends_line: bool,
    /// Where the record begins in the file.
    pub offset: u64,
    /// The logger's name and the source file, as they are written.
    names: (&'a str, &'a str),
    line: u32,
    /// The text, a tab in front of each further line.
    raw: &'a [u8],
}

impl<'a> LineRef<'a> {
    /// The text, raw.
    #[must_use]
    pub fn text(&self) -> Cow<'a, [u8]> {
        if memchr(b'\n', self.raw).is_none() {
            return Cow::Borrowed(self.raw);
        }
        let mut text = Vec::with_capacity(self.raw.len());
        for (n, line) in self.raw.split(|&b| b == b'\n').enumerate() {
            if n == 0 {
                text.extend_from_slice(line);
            } else {
                text.push(b'\n');
                text.extend_from_slice(line.strip_prefix(b"\t").unwrap_or(line));
            }
        }
        Cow::Owned(text)
    }

    /// A copy that stands by itself.
    #[must_use]
    pub fn to_line(self) -> LogLine {
        LogLine {
            timestamp_us: self.timestamp_us,
            rank: self.rank,
            level: self.level,
            stream: self.stream,
            logger: take_name(self.names.0),
            file: take_name(self.names.1),
            line: self.line,
            seq: self.seq,
            ends_line: self.ends_line,
            text: self.text().into_owned(),
            offset: self.offset,
        }
    }

    /// A line that is no record.
    pub(crate) const fn foreign(raw: &'a [u8], offset: u64) -> Self {
        Self {
            timestamp_us: 0,
            rank: 0,
            level: None,
            stream: None,
            seq: 0,
            ends_line: true,
            offset,
            names: ("", ""),
            line: 0,
            raw,
        }
    }

    /// Takes apart a record, which has no newline at its end.
    fn of(kind: LogKind, record: &'a [u8], offset: u64) -> Option<Self> {
        let (time, rest) = bracket(record)?;
        let timestamp_us = parse_stamp(time)?;
        match kind {
            LogKind::Run => {
                let (level, rest) = bracket(rest)?;
                let (who, raw) = bracket(rest)?;
                let (rank, mut parts) = speaker(who)?;
                let (seq, micros) = parts.next()?.split_once('.')?;
                let logger = parts.next().unwrap_or("-");
                let place = parts.next().and_then(|place| place.rsplit_once(':'));
                let (file, line) = place.unwrap_or(("", "0"));
                Some(Self {
                    timestamp_us: timestamp_us.checked_add(micros.parse().ok()?)?,
                    rank,
                    level: Some(Level::parse(std::str::from_utf8(level).ok()?)?),
                    names: (if logger == "-" { "" } else { logger }, file),
                    line: line.parse().ok()?,
                    seq: seq.parse().ok()?,
                    ..Self::foreign(raw, offset)
                })
            }
            LogKind::Console => {
                let (who, raw) = bracket(rest)?;
                let (rank, mut parts) = speaker(who)?;
                let stream = match parts.next()? {
                    "out" => Stream::Out,
                    "err" => Stream::Err,
                    _ => return None,
                };
                let seq = parts.next()?;
                let ends_line = !seq.ends_with('+');
                Some(Self {
                    timestamp_us,
                    rank,
                    stream: Some(stream),
                    seq: seq.trim_end_matches('+').parse().ok()?,
                    ends_line,
                    ..Self::foreign(raw, offset)
                })
            }
        }
    }
}

/// The rank in `rank 3 …`, and the words behind it.
fn speaker(who: &[u8]) -> Option<(u32, std::str::Split<'_, char>)> {
    let mut parts = std::str::from_utf8(who)
        .ok()?
        .strip_prefix("rank ")?
        .split(' ');
    Some((parts.next()?.parse().ok()?, parts))
}

/// Splits `[inside] rest`, within the record's first line.
fn bracket(record: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = record.strip_prefix(b"[")?;
    let end = rest.iter().position(|&b| b == b']' || b == b'\n')?;
    let (inside, rest) = rest.split_at(end);
    let rest = rest.strip_prefix(b"]")?;
    Some((inside, rest.strip_prefix(b" ").unwrap_or(rest)))
}

/// Hands over the records in `bytes`, which begin at `base` in the text, and returns the number of bytes used:
/// a torn last record is left for the next call unless `ended`.
pub(crate) fn each_line<'a>(
    kind: LogKind,
    bytes: &'a [u8],
    base: u64,
    ended: bool,
    mut each: impl FnMut(LineRef<'a>),
) -> usize {
    let mut told = |from: usize, to: usize| {
        let (record, offset) = (&bytes[from..to], base + from as u64);
        each(LineRef::of(kind, record, offset).unwrap_or(LineRef::foreign(record, offset)));
    };
    let mut at = 0;
    // Where the present line of the record at hand begins.
    let mut line = 0;
    while let Some(n) = memchr(b'\n', &bytes[line..]) {
        line += n + 1;
        if bytes.get(line) != Some(&b'\t') {
            told(at, line - 1);
            at = line;
        }
    }
    if ended && line > at {
        told(at, line - 1);
        at = line;
    }
    at
}
