//! `expman inspect --crash`: who failed first, with which traceback, and what each said last.

use std::io::{self, Write};

use expman_model::RankState;
use expman_model::rank_set::RankSet;
use expman_model::time::rfc3339_ms;
use expman_model::traceback::Group;
use expman_storage::RunEntry;
use expman_storage::crash::{Crash, Failure, Said};

use crate::console::{Console, plain};
use crate::exit::Exit;
use crate::json as exact;
use crate::locate::display_name;
use crate::table;

/// Lines of each process when the number is not said.
const LINES_DEFAULT: usize = 20;

/// The options.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// How it failed: the first rank to fail first, the same tracebacks of many ranks once, the last lines of each
    #[arg(long)]
    crash: bool,
    /// With --crash, so many of the last lines of each rank
    #[arg(short = 'n', long, value_name = "N", requires = "crash", default_value_t = LINES_DEFAULT)]
    lines: usize,
}

impl Args {
    /// Whether this is to be shown instead of all the rest.
    pub const fn is_asked(&self) -> bool {
        self.crash
    }

    /// Shows how a run failed.
    pub fn run(&self, console: &mut Console, run: &RunEntry, json: bool) -> anyhow::Result<Exit> {
        show(console, run, self.lines, json)
    }
}

fn show(console: &mut Console, run: &RunEntry, lines: usize, json: bool) -> anyhow::Result<Exit> {
    let crash = Crash::of(run, lines);
    if json {
        exact::write(console.out(), &crash.to_json(run))?;
    } else {
        write(console, run, &crash)?;
    }
    console.flush()?;
    for problem in &crash.problems {
        console.warn(problem);
    }
    Ok(if crash.problems.is_empty() {
        Exit::Done
    } else {
        Exit::Partial
    })
}

fn write(console: &mut Console, run: &RunEntry, crash: &Crash) -> io::Result<()> {
    let status = run.meta.status.to_string();
    let status = if console.coloured() {
        table::painted(&status)
    } else {
        status
    };
    let live = if run.is_live() { " (live)" } else { "" };
    writeln!(
        console.out(),
        "{} is {status}{live}",
        plain(&display_name(run))
    )?;
    if crash.is_empty() {
        writeln!(console.out(), "no rank failed")?;
    } else {
        write_failures(console, crash)?;
        for (n, group) in crash.tracebacks.iter().enumerate() {
            write_group(console, n, group)?;
        }
        if crash.left_out > 0 {
            let n = crash.left_out;
            writeln!(
                console.out(),
                "\n{n} more tracebacks had no room; run.log has them"
            )?;
        }
        for failure in crash.failures.iter().filter(|f| f.ended_badly()) {
            write_lines(console, failure)?;
        }
    }
    if crash.children > 0 {
        let n = crash.children;
        writeln!(
            console.out(),
            "\n{n} forked {} vanished while the parent went on, which did no harm",
            if n == 1 { "child" } else { "children" }
        )?;
    }
    Ok(())
}

/// What failed, in the order in which it did.
fn write_failures(console: &mut Console, crash: &Crash) -> io::Result<()> {
    let mut first = true;
    for failure in &crash.failures {
        let title = match (first, failure.ended_badly()) {
            (true, true) => "first to fail",
            (false, true) => "then",
            (_, false) => "in a thread",
        };
        first = false;
        let tracebacks: Vec<String> = failure
            .tracebacks
            .iter()
            .map(|n| format!("traceback {}", n + 1))
            .collect();
        let mut facts = vec![where_it_ran(failure)];
        facts.extend(
            failure
                .process
                .last_step
                .map(|step| format!("last step {step}")),
        );
        facts.extend(tracebacks);
        writeln!(
            console.out(),
            "\n{title:<14}{}, {}: {}",
            who(failure),
            how(failure),
            plain(&failure.reason)
        )?;
        writeln!(
            console.out(),
            "{:<14}{}; {}",
            "",
            when(failure),
            facts.join(", ")
        )?;
    }
    Ok(())
}

/// `rank 3`, and which process of it where there are several.
fn who(failure: &Failure) -> String {
    let rank = failure.rank;
    if failure.of_many {
        format!("rank {rank} (attempt {})", failure.process.attempt)
    } else {
        format!("rank {rank}")
    }
}

fn how(failure: &Failure) -> String {
    match failure.process.state {
        RankState::Lost => "lost".to_owned(),
        _ => failure.process.status.to_string(),
    }
}

fn where_it_ran(failure: &Failure) -> String {
    let process = &failure.process;
    format!("pid {} on {}", process.pid, plain(&process.host))
}

fn when(failure: &Failure) -> String {
    match (failure.at_us, failure.heard_us) {
        (Some(at), Some(heard)) if heard < at => {
            format!("between {} and {}", rfc3339_ms(heard), rfc3339_ms(at))
        }
        (Some(at), _) => format!("at {}", rfc3339_ms(at)),
        (None, _) => "at a time that nobody noted".to_owned(),
    }
}

/// `rank 3` or `ranks 0-3,7`.
fn ranks(ranks: &RankSet) -> String {
    match ranks.as_slice() {
        [one] => format!("rank {one}"),
        _ => format!("ranks {ranks}"),
    }
}

fn write_group(console: &mut Console, n: usize, group: &Group) -> io::Result<()> {
    let times = if group.count > group.ranks.as_slice().len() as u64 {
        format!(", {} times", group.count)
    } else {
        String::new()
    };
    writeln!(
        console.out(),
        "\ntraceback {} of {}{times}",
        n + 1,
        ranks(&group.ranks)
    )?;
    let Some((told, others)) = group.wordings.split_first() else {
        return Ok(());
    };
    if !others.is_empty() {
        writeln!(console.out(), "  as {} had it:", ranks(&told.ranks))?;
    }
    for line in told.text.lines() {
        writeln!(console.out(), "  {}", plain(line))?;
    }
    for other in others {
        for (line, words) in other.differs_from(told) {
            let who = ranks(&other.ranks);
            writeln!(console.out(), "  line {line} of {who}: {}", plain(words))?;
        }
    }
    Ok(())
}

fn write_lines(console: &mut Console, failure: &Failure) -> io::Result<()> {
    let who = who(failure);
    if failure.lines.is_empty() {
        return writeln!(console.out(), "\n{who} said nothing that is kept");
    }
    writeln!(console.out(), "\nlast lines of {who}")?;
    for line in &failure.lines {
        let front = format!("  {} {:<8}", rfc3339_ms(line.at_us), line.kind());
        match &line.said {
            Said::Traceback(n) => writeln!(console.out(), "{front} (traceback {})", n + 1)?,
            Said::Text(text, cut) => {
                let text = String::from_utf8_lossy(text);
                for line in text.split('\n') {
                    writeln!(console.out(), "{front} {}", crate::logs::readable(line))?;
                }
                if *cut > 0 {
                    writeln!(console.out(), "{front} … and {cut} bytes more")?;
                }
            }
        }
    }
    Ok(())
}
