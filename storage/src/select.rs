//! Which lines of a run's texts are wanted, for everybody who asks.

use expman_model::{Level, Stream};
use regex::bytes::{Regex, RegexBuilder};

use crate::tail::Choice;
use crate::text::{LineRef, LogKind};

/// Patterns that need more memory than this are refused.
const PATTERN_BYTES_MAX: usize = 16 << 20;

/// Where a line comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Captured stdout.
    Out,
    /// Captured stderr.
    Err,
    /// Messages and Python's `logging`.
    Log,
}

/// Ranges of ranks, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranks(Vec<(u32, u32)>);

impl std::str::FromStr for Ranks {
    type Err = String;

    /// `3` or `0,4-7`.
    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(|part| {
                let (from, to) = part.split_once('-').unwrap_or((part, part));
                let range = (from.trim().parse().ok()?, to.trim().parse().ok()?);
                (range.0 <= range.1).then_some(range)
            })
            .collect::<Option<_>>()
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no list of ranks such as 0,4-7"))
    }
}

impl Ranks {
    fn has(&self, rank: u32) -> bool {
        self.0
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&rank))
    }
}

/// A regular expression over the text of a line; the time it takes is linear in the text.
#[derive(Debug, Clone)]
pub struct Pattern {
    regex: Regex,
    /// Whether it can be looked for in the bytes of the file, before these are taken apart.
    in_file: bool,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// With what is wrong with it, in words for whoever wrote it.
    pub fn new(text: &str, ignore_case: bool) -> Result<Self, String> {
        let regex = RegexBuilder::new(text)
            .case_insensitive(ignore_case)
            .size_limit(PATTERN_BYTES_MAX)
            .build()
            .map_err(|e| e.to_string())?;
        // An anchor means the line's own ends, and in the file a line has its fields in front.
        let in_file = !text.contains(['^', '$', '\\', '(', '\n']);
        Ok(Self { regex, in_file })
    }
}

/// See the module; what is not said wants everything.
#[derive(Debug, Clone)]
pub struct Select {
    /// Of these ranks.
    pub ranks: Option<Ranks>,
    /// From there.
    pub source: Option<Source>,
    /// Messages of at least this level; captured output has none.
    pub level: Option<Level>,
    /// Whose text matches.
    pub grep: Option<Pattern>,
    /// Not older than this, in microseconds since 1970 UTC.
    pub since_us: i64,
}

impl Default for Select {
    fn default() -> Self {
        Self {
            ranks: None,
            source: None,
            level: None,
            grep: None,
            since_us: i64::MIN,
        }
    }
}

impl Select {
    /// The files that can hold what is wanted.
    pub fn files(&self) -> impl Iterator<Item = LogKind> + use<> {
        let messages = self.source.is_none_or(|s| s == Source::Log);
        let output = self.source.is_none_or(|s| s != Source::Log) && self.level.is_none();
        let run = messages.then_some(LogKind::Run);
        run.into_iter().chain(output.then_some(LogKind::Console))
    }
}

impl Choice for Select {
    fn may_match(&self, bytes: &[u8]) -> bool {
        let grep = self.grep.as_ref().filter(|grep| grep.in_file);
        grep.is_none_or(|grep| grep.regex.is_match(bytes))
    }

    fn wants(&self, line: &LineRef<'_>) -> bool {
        line.timestamp_us >= self.since_us
            && self.ranks.as_ref().is_none_or(|all| all.has(line.rank))
            && self
                .level
                .is_none_or(|least| line.level.is_some_and(|level| level >= least))
            && match self.source {
                None | Some(Source::Log) => true,
                Some(Source::Out) => line.stream == Some(Stream::Out),
                Some(Source::Err) => line.stream == Some(Stream::Err),
            }
            && self
                .grep
                .as_ref()
                .is_none_or(|grep| grep.regex.is_match(&line.text()))
    }
}
