//! `expman logs`: the lines of every rank, messages and captured output together.

mod select;
mod show;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use expman_model::limits::TEXT_BYTES_MAX;
use expman_storage::select::Select;
use expman_storage::text::LogLine;
use expman_storage::{LogLines, RunDir, RunKind, TextTail, lock};

use self::show::Show;
pub use self::show::readable;
use crate::console::Console;
use crate::exit::Exit;
use crate::locate::{BaseDir, RUN_HELP, find_run};

/// How often `--follow` looks for new lines.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// `--tail` looks at this much of the end of each file first, and at twice as much until it has enough.
const TAIL_BYTES: u64 = 1 << 20;

/// Show what the ranks said: messages and captured output, by time
///
/// Raw lines with their rank in front; `--aggregate` tells alike lines of many ranks once.
/// What could steer a terminal is taken out; `--json` has every byte.
#[derive(Debug, clap::Args)]
#[command(after_help = RUN_HELP)]
pub struct Args {
    /// The run
    #[arg(value_name = "RUN")]
    run: PathBuf,
    #[command(flatten)]
    base: BaseDir,
    #[command(flatten)]
    select: select::Args,
    /// Only the last N lines of those that match
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<usize>,
    /// Go on with what comes, until the run ends
    #[arg(short, long)]
    follow: bool,
    /// Fold alike lines within so many seconds: one line for all ranks that said it, numbers as LEAST..GREATEST
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "3", value_parser = seconds, conflicts_with = "json")]
    aggregate: Option<i64>,
    /// The time in front of every line
    #[arg(short, long)]
    time: bool,
    /// Print one object a line: time, rank, stream, level, logger, file, line, seq, `ends_line`, text; bytes that are
    /// no UTF-8 as `text_base64`
    #[arg(long)]
    json: bool,
}

/// Seconds, as microseconds.
fn seconds(text: &str) -> Result<i64, String> {
    match text.parse::<f64>() {
        Ok(secs) if secs.is_finite() && (0.001..=86_400.0).contains(&secs) => {
            Ok(Duration::from_secs_f64(secs)
                .as_micros()
                .try_into()
                .unwrap_or(i64::MAX))
        }
        _ => Err("not a number of seconds between 0.001 and 86400".to_owned()),
    }
}

impl Args {
    /// Runs the command.
    pub fn run(&self, console: &mut Console) -> anyhow::Result<Exit> {
        let run = find_run(&self.base.dir, &self.run)?;
        let select = self.select.prepare()?;
        let many = run.meta.ranks.len() > 1 || run.meta.world_size.is_some_and(|n| n > 1);
        let mut show = Show::new(console, self.json, self.time, many, self.aggregate);
        let mut lines = match self.tail {
            Some(n) => last_lines(&run.dir, &select, n, &mut |line| show.line(line))?,
            None => LogLines::new(&run.dir, select.files()),
        };
        loop {
            // Looked at first: what was written before the run ended is then read behind it.
            let live = self.follow && run.kind == RunKind::Mesh && lock::is_owned(&run.dir);
            while let Some(line) = lines.next(&select)? {
                show.line(line)?;
            }
            if !live {
                break;
            }
            show.pause()?;
            std::thread::sleep(LOOK_EVERY);
        }
        show.end()?;
        Ok(Exit::Done)
    }
}

/// Hands over the last `n` lines that are wanted, and returns where to go on.
fn last_lines(
    dir: &RunDir,
    select: &Select,
    n: usize,
    each: &mut dyn FnMut(LogLine) -> std::io::Result<()>,
) -> anyhow::Result<LogLines> {
    let mut bytes = TAIL_BYTES.max(2 * TEXT_BYTES_MAX as u64);
    loop {
        let mut whole = true;
        let mut tails = Vec::new();
        for kind in select.files() {
            let tail = TextTail::near_end(dir, kind, bytes)?;
            whole &= tail.offset() == 0;
            tails.push(tail);
        }
        let mut lines: LogLines = tails.into_iter().collect();
        let mut last = VecDeque::new();
        while let Some(line) = lines.next(select)? {
            last.push_back(line);
            if last.len() > n {
                last.pop_front();
            }
        }
        if whole || last.len() >= n {
            last.into_iter().try_for_each(each)?;
            return Ok(lines);
        }
        bytes = bytes.saturating_mul(4);
    }
}
