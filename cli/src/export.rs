//! `expman export`: a run's metrics, or its lines, as a file for other programs.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use expman_storage::export::logs::{self, LogFormat};
use expman_storage::export::{Format, Shape, Table};
use expman_storage::tail::Choice;
use expman_storage::text::{LineRef, LogKind};
use expman_storage::{Filter, LogLines, RunEntry};
use serde_json::json;

use crate::console::{Console, Sanitized};
use crate::exit::{Exit, Refusal};
use crate::json as exact;
use crate::locate::{BaseDir, RUN_HELP, display_name, find_run};

/// Write a run's metrics as CSV, JSON, JSON lines or Parquet, or its lines as JSON lines or Parquet
///
/// One row per call: step, timestamp, rank, attempt (only when a rank had several processes), then a column
/// per metric in the order of their names; ordered by step, rank and sequence, calls without a step first.
/// A metric named like one of the first columns stands in `metric:NAME`. A metric that a call did not log is
/// null (empty in CSV). A column of mixed types is text.
///
/// With --long one row per metric of a call, with the columns of metrics.parquet: key, rank, step, timestamp,
/// attempt, seq, kind (0 float, 1 int, 2 bool, 3 text), value, `int_value`, text.
///
/// NaN and the infinities are kept: NaN, inf, -inf in CSV; the strings "NaN", "inf", "-inf" in JSON.
///
/// With --logs the lines of run.log and console.log, by time: timestamp (time in JSON), rank, stream (out, err, log),
/// level (0 to 255; its name in JSON), logger, file, line, seq, `ends_line`, text. A long line of output stays in the
/// pieces in which it was stored, all but the last with `ends_line` false. The text is raw bytes in Parquet; in JSON
/// what is no UTF-8 stands in `text_base64`. What another program wrote into the files has null for all but its text.
///
/// A live run is exported as it stands now. What is damaged is named on stderr and left out; the exit code is then 4.
#[derive(Debug, clap::Args)]
#[command(after_help = RUN_HELP)]
pub struct Args {
    /// The run
    #[arg(value_name = "RUN")]
    run: PathBuf,
    #[command(flatten)]
    base: BaseDir,
    /// Format of the output; told from the ending of FILE when left out
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<FormatName>,
    /// Where to write, replacing what stands there; `-` is stdout
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// The lines of the run instead of its metrics
    #[arg(long, conflicts_with_all = ["keys", "since_step", "long"])]
    logs: bool,
    /// Only these metrics, separated by commas or given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    keys: Vec<String>,
    /// Only these ranks, separated by commas or given several times
    #[arg(long, value_name = "RANK", value_delimiter = ',')]
    rank: Vec<u32>,
    /// Only steps from this one on; calls without a step are left out then
    #[arg(long, value_name = "STEP", allow_negative_numbers = true)]
    since_step: Option<i64>,
    /// One row per metric of a call instead of one per call
    #[arg(long)]
    long: bool,
    /// Print what was written as an object on stdout; needs a FILE
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatName {
    /// Comma-separated, with a header
    Csv,
    /// An array of objects
    Json,
    /// One object a line
    Jsonl,
    /// Columns, zstd
    Parquet,
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Csv => Self::Csv,
            FormatName::Json => Self::Json,
            FormatName::Jsonl => Self::Jsonl,
            FormatName::Parquet => Self::Parquet,
        }
    }
}

impl Args {
    /// Runs the command.
    pub fn run(&self, console: &mut Console) -> anyhow::Result<Exit> {
        let to_stdout = self.to_stdout();
        let format = self.format()?;
        if to_stdout && self.json {
            return Err(
                Refusal::usage("--json and the data can't both go to stdout")
                    .hint("give a file with -o")
                    .into(),
            );
        }
        if to_stdout && format == Format::Parquet && console.is_terminal() {
            return Err(Refusal::usage("Parquet does not go to a terminal")
                .hint("give a file with -o")
                .into());
        }
        let run = find_run(&self.base.dir, &self.run)?;
        self.check_output(&run)?;
        if let Some(problem) = &run.problem {
            console.warn(problem);
        }
        if self.logs {
            return self.run_logs(console, &run, format);
        }
        let shape = if self.long { Shape::Long } else { Shape::Wide };
        let table = Table::open(&run, &self.filter(), shape)?;
        for key in self.keys.iter().filter(|key| !table.has(key)) {
            console.warn(&format!(
                "no row of {} has the metric {key:?} in this selection",
                display_name(&run)
            ));
        }
        let rows = if to_stdout {
            let path = Path::new("stdout");
            if console.is_terminal() {
                table.to_writer(Sanitized(console.out()), path, format)?
            } else {
                table.to_writer(console.out(), path, format)?
            }
        } else {
            table.to_file(&self.output, format)?
        };
        let problems = table.problems();
        for problem in problems {
            console.warn(problem);
        }
        self.tell(console, &run, rows, problems)?;
        Ok(if problems.is_empty() {
            Exit::Done
        } else {
            Exit::Partial
        })
    }

    /// The lines instead of the metrics.
    fn run_logs(
        &self,
        console: &mut Console,
        run: &RunEntry,
        format: Format,
    ) -> anyhow::Result<Exit> {
        let format = match format {
            Format::Jsonl => LogFormat::Jsonl,
            Format::Parquet => LogFormat::Parquet,
            Format::Csv | Format::Json => {
                let what = "--logs: lines are written as JSON lines or Parquet only";
                return Err(Refusal::usage(what).hint("say -f jsonl or parquet").into());
            }
        };
        let mut lines = LogLines::new(&run.dir, [LogKind::Run, LogKind::Console]);
        let lines = std::iter::from_fn(|| lines.next(self).transpose());
        let stdout = Path::new("stdout");
        let rows = if !self.to_stdout() {
            logs::to_file(&self.output, lines, format)?
        } else if console.is_terminal() {
            logs::to_writer(Sanitized(console.out()), stdout, lines, format)?
        } else {
            logs::to_writer(console.out(), stdout, lines, format)?
        };
        self.tell(console, run, rows, &[])?;
        Ok(Exit::Done)
    }

    /// Says what was written.
    fn tell(
        &self,
        console: &mut Console,
        run: &RunEntry,
        rows: usize,
        problems: &[String],
    ) -> anyhow::Result<()> {
        if self.json {
            let told = json!({"run": display_name(run), "path": self.output, "rows": rows, "problems": problems});
            exact::write(console.out(), &told)?;
        } else if !self.to_stdout() {
            let what = if self.logs { "lines" } else { "rows" };
            console.note(&format!("{rows} {what} in {}", self.output.display()));
        }
        Ok(console.out().flush()?)
    }

    fn to_stdout(&self) -> bool {
        self.output == Path::new("-")
    }

    fn format(&self) -> Result<Format, Refusal> {
        if let Some(name) = self.format {
            return Ok(name.into());
        }
        match self.output.extension().and_then(|e| e.to_str()) {
            Some("csv") => Ok(Format::Csv),
            Some("json") => Ok(Format::Json),
            Some("jsonl" | "ndjson") => Ok(Format::Jsonl),
            Some("parquet") => Ok(Format::Parquet),
            _ => Err(Refusal::usage("no format given").hint("say -f csv, json, jsonl or parquet")),
        }
    }

    /// A run's own files are no place for an export.
    fn check_output(&self, run: &RunEntry) -> Result<(), Refusal> {
        let folder = self.output.parent().map(|p| {
            if p.as_os_str().is_empty() {
                Path::new(".")
            } else {
                p
            }
        });
        let (Some(folder), Ok(root)) = (
            folder.and_then(|f| fs::canonicalize(f).ok()),
            fs::canonicalize(run.dir.root()),
        ) else {
            return Ok(());
        };
        let inside = folder == root || folder.starts_with(root.join(".expman"));
        if inside && self.output != Path::new("-") {
            let what = format!("{} is among the run's own files", self.output.display());
            return Err(Refusal::usage(what).hint("choose another folder"));
        }
        Ok(())
    }

    fn filter(&self) -> Filter {
        Filter {
            keys: (!self.keys.is_empty())
                .then(|| self.keys.iter().cloned().collect::<HashSet<_>>()),
            ranks: (!self.rank.is_empty()).then(|| self.rank.iter().copied().collect()),
            since_step: self.since_step,
            ..Filter::default()
        }
    }
}

impl Choice for Args {
    fn wants(&self, line: &LineRef<'_>) -> bool {
        self.rank.is_empty() || self.rank.contains(&line.rank)
    }
}
