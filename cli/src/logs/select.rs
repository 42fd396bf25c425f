//! Which lines are wanted.

use expman_model::Level;
use expman_model::time::{now_us, parse_rfc3339};
use expman_storage::select::{self, Pattern, Ranks, Select};

use crate::exit::Refusal;

/// The options.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Only these ranks, e.g. `3` or `0,4-7`
    #[arg(short, long, value_name = "RANKS", value_parser = str::parse::<Ranks>)]
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

impl Args {
    /// Checks what the parser could not.
    pub fn prepare(&self) -> anyhow::Result<Select> {
        let grep = self.grep.as_ref().map(|pattern| {
            Pattern::new(pattern, self.ignore_case)
                .map_err(|e| Refusal::usage(format!("--grep: {e}")))
        });
        if self.level.is_some() && self.stream.is_some_and(|s| s != Source::Log) {
            let what = "--level: captured output has no level";
            return Err(Refusal::usage(what)
                .hint("leave out --stream, or say --stream log")
                .into());
        }
        Ok(Select {
            ranks: self.rank.clone(),
            source: self.stream.map(|s| match s {
                Source::Out => select::Source::Out,
                Source::Err => select::Source::Err,
                Source::Log => select::Source::Log,
            }),
            level: self.level,
            grep: grep.transpose()?,
            since_us: self.since.unwrap_or(i64::MIN),
        })
    }
}
