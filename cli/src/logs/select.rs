//! Which lines are wanted.

use expman_model::time::{now_us, parse_rfc3339};
use expman_model::{Level, Stream};
use expman_storage::tail::Choice;
use expman_storage::text::{LineRef, LogKind};
use regex::bytes::{Regex, RegexBuilder};

use crate::exit::Refusal;

/// Patterns that need more memory than this are refused.
const PATTERN_BYTES_MAX: usize = 16 << 20;

/// The options.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Only these ranks, e.g. `3` or `0,4-7`
    #[arg(short, long, value_name = "RANKS", value_parser = ranks)]
    rank: Option<Ranks>,
    /// Only captured stdout, captured stderr, or messages
    #[arg(short, long, value_name = "STREAM")]
    stream: Option<Source>,
    /// Only messages of at least this level: a name or a number up to 255
    #[arg(short, long, value_name = "LEVEL", value_parser = level)]
    level: Option<Level>,
    /// Only lines that match this regular expression; the time it takes is linear in the text
    #[arg(short, long, value_name = "PATTERN")]
    grep: Option<String>,
    /// Letters match in either case
    #[arg(short, long, requires = "grep")]
    ignore_case: bool,
    /// Only since then: an age such as `90s`, `10m`, `2h`, `3d`, or a time such as 2026-01-01T00:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Source {
    Out,
    Err,
    Log,
}

/// Ranges of ranks, both ends included.
#[derive(Debug, Clone)]
struct Ranks(Vec<(u32, u32)>);

fn ranks(text: &str) -> Result<Ranks, String> {
    let wrong = || format!("{text:?} is no list of ranks such as 0,4-7");
    text.split(',')
        .map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let range = (from.trim().parse().ok()?, to.trim().parse().ok()?);
            (range.0 <= range.1).then_some(range)
        })
        .collect::<Option<_>>()
        .map(Ranks)
        .ok_or_else(wrong)
}

fn level(text: &str) -> Result<Level, String> {
    Level::parse(text).ok_or_else(|| {
        format!("{text:?} is no level: debug, info, warning, error, critical, or 0 to 255")
    })
}

fn since(text: &str) -> Result<i64, String> {
    if let Some(at) = parse_rfc3339(text) {
        return Ok(at);
    }
    let wrong =
        || format!("{text:?} is no age such as 10m, and no time such as 2026-01-01T00:00:00Z");
    let (number, unit) = text.split_at(
        text.len()
            .saturating_sub(usize::from(text.ends_with(['s', 'm', 'h', 'd']))),
    );
    let secs: i64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let age: i64 = number.parse().map_err(|_no_number| wrong())?;
    let age_us = age
        .checked_mul(secs * 1_000_000)
        .filter(|age| *age >= 0)
        .ok_or_else(wrong)?;
    Ok(now_us().saturating_sub(age_us))
}

/// See the module.
pub struct Select {
    ranks: Option<Ranks>,
    stream: Option<Source>,
    level: Option<Level>,
    grep: Option<Regex>,
    /// Whether the pattern can be looked for in the bytes of the file, before these are taken apart.
    grep_in_file: bool,
    since_us: i64,
}

impl Args {
    /// Checks what the parser could not.
    pub fn prepare(&self) -> anyhow::Result<Select> {
        let grep = self.grep.as_ref().map(|pattern| {
            RegexBuilder::new(pattern)
                .case_insensitive(self.ignore_case)
                .size_limit(PATTERN_BYTES_MAX)
                .build()
                .map_err(|e| Refusal::usage(format!("--grep: {e}")))
        });
        if self.level.is_some() && self.stream.is_some_and(|s| s != Source::Log) {
            let what = "--level: captured output has no level";
            return Err(Refusal::usage(what)
                .hint("leave out --stream, or say --stream log")
                .into());
        }
        // An anchor means the line's own ends, and in the file a line has its fields in front.
        let anchored = |p: &String| p.contains(['^', '$', '\\', '(', '\n']);
        Ok(Select {
            ranks: self.rank.clone(),
            stream: self.stream,
            level: self.level,
            grep_in_file: self.grep.as_ref().is_some_and(|p| !anchored(p)),
            grep: grep.transpose()?,
            since_us: self.since.unwrap_or(i64::MIN),
        })
    }
}

impl Select {
    /// The files that can hold what is wanted.
    pub fn files(&self) -> impl Iterator<Item = LogKind> + use<> {
        let messages = self.stream.is_none_or(|s| s == Source::Log);
        let output = self.stream.is_none_or(|s| s != Source::Log) && self.level.is_none();
        let run = messages.then_some(LogKind::Run);
        run.into_iter().chain(output.then_some(LogKind::Console))
    }
}

impl Choice for Select {
    fn may_match(&self, bytes: &[u8]) -> bool {
        !self.grep_in_file || self.grep.as_ref().is_none_or(|grep| grep.is_match(bytes))
    }

    fn wants(&self, line: &LineRef<'_>) -> bool {
        line.timestamp_us >= self.since_us
            && self.ranks.as_ref().is_none_or(|Ranks(all)| {
                all.iter()
                    .any(|(from, to)| (from..=to).contains(&&line.rank))
            })
            && self
                .level
                .is_none_or(|least| line.level.is_some_and(|level| level >= least))
            && match self.stream {
                None | Some(Source::Log) => true,
                Some(Source::Out) => line.stream == Some(Stream::Out),
                Some(Source::Err) => line.stream == Some(Stream::Err),
            }
            && self
                .grep
                .as_ref()
                .is_none_or(|grep| grep.is_match(&line.text()))
    }
}
