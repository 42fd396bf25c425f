//! `expman inspect`: everything that is known about one run.

mod ranks;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::path::PathBuf;

use expman_model::{MetricSummary, Param};
use expman_storage::legacy::read_rows;
use expman_storage::{Filter, RunEntry, RunKind, events, snapshot, yaml};
use serde_json::json;

use crate::console::{Console, plain};
use crate::crash;
use crate::exit::Exit;
use crate::json as exact;
use crate::locate::{BaseDir, RUN_HELP, display_name, find_run};
use crate::table::{self, Side, Table, or_dash};

/// Metrics that the table shows at most; `--json` has all.
const METRICS_SHOWN: usize = 50;
/// Malformed lines of `events.jsonl` that are named.
const MALFORMED_NAMED: usize = 10;

/// Show one run: status, ranks, latest metrics, parameters, problems
///
/// What is damaged is named on stderr and left out, the rest is shown, and the exit code is 4.
#[derive(Debug, clap::Args)]
#[command(after_help = RUN_HELP)]
pub struct Args {
    /// The run
    #[arg(value_name = "RUN")]
    run: PathBuf,
    #[command(flatten)]
    base: BaseDir,
    #[command(flatten)]
    crash: crash::Args,
    /// Print one object: meta (run.yaml), config (config.yaml), path, live, rows, problems; with --crash: failures,
    /// tracebacks, healthy, problems.
    /// What JSON has no number for is written as "NaN", "inf" or "-inf"
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, console: &mut Console) -> anyhow::Result<Exit> {
        let run = find_run(&self.base.dir, &self.run)?;
        if self.crash.is_asked() {
            return self.crash.run(console, &run, self.json);
        }
        let view = View::of(run);
        if self.json {
            let json = json!({
                "meta": exact::meta(&view.run.meta)?,
                "config": exact::param(&view.config),
                "problems": view.problems,
                "path": view.run.dir.root(),
                "key": view.run.key,
                "kind": view.run.kind,
                "live": view.live,
                "rows": view.rows,
            });
            exact::write(console.out(), &json)?;
        } else {
            view.write(console)?;
        }
        console.flush()?;
        for problem in &view.problems {
            console.warn(problem);
        }
        Ok(if view.problems.is_empty() {
            Exit::Done
        } else {
            Exit::Partial
        })
    }
}

/// A run as its files tell it now.
struct View {
    run: RunEntry,
    config: Param,
    /// Metric rows; none when they can't be read.
    rows: Option<u64>,
    live: bool,
    problems: Vec<String>,
}

impl View {
    fn of(mut run: RunEntry) -> Self {
        let live = run.is_live();
        let mut problems: Vec<String> = run.problem.iter().cloned().collect();
        let config = yaml::read(&run.dir.config()).unwrap_or_else(|e| {
            problems.push(e.to_string());
            None
        });
        let config = config.unwrap_or(Param::Map(Vec::new()));
        let rows = count(&mut run, &mut problems);
        malformed_events(&run, &mut problems);
        Self {
            run,
            config,
            rows,
            live,
            problems,
        }
    }

    fn write(&self, console: &mut Console) -> io::Result<()> {
        self.write_facts(console)?;
        let ranks = ranks::all(&self.run.meta);
        section(console, "ranks", &ranks, self.run.meta.ranks.is_empty())?;
        let metrics = &self.run.meta.metrics;
        section(console, "metrics", &self.metrics(), metrics.is_empty())?;
        if metrics.len() > METRICS_SHOWN {
            writeln!(
                console.out(),
                "… and {} more; --json has all",
                metrics.len() - METRICS_SHOWN
            )?;
        }
        let scalars = self
            .run
            .meta
            .scalars
            .iter()
            .map(|(name, value)| (name.clone(), table::value(value)));
        named(console, "scalars", &scalars.collect::<Vec<_>>())?;
        let mut params = Vec::new();
        flatten(&mut params, String::new(), &self.config);
        named(console, "params", &params)?;
        let problems = self
            .problems
            .iter()
            .map(|problem| (String::new(), problem.clone()));
        named(console, "problems", &problems.collect::<Vec<_>>())
    }

    fn write_facts(&self, console: &mut Console) -> io::Result<()> {
        let meta = &self.run.meta;
        let live = if self.live { " (live)" } else { "" };
        let status = meta.status.to_string();
        let status = if console.coloured() {
            table::painted(&status)
        } else {
            status
        };
        let ranks = meta.world_size.map(|n| format!("{n} announced"));
        let flush = meta.last_flush.as_ref().map(|flush| {
            let whole = if flush.complete {
                "complete".to_owned()
            } else {
                format!("missing ranks {:?}", flush.missing)
            };
            let tag = flush
                .tag
                .as_ref()
                .map_or(String::new(), |tag| format!(", tag {tag}"));
            format!(
                "{} {whole} at {} in {:.3} s{tag}",
                flush.version, flush.at, flush.elapsed_secs
            )
        });
        let error = meta
            .error
            .as_ref()
            .map(|error| format!("rank {}: {}", error.rank, error.message));
        let text = |text: &Option<String>| text.clone();
        let list = |items: &[String], by: &str| (!items.is_empty()).then(|| items.join(by));
        let facts = [
            ("run", Some(display_name(&self.run))),
            ("id", meta.id.map(|id| id.to_string())),
            ("path", Some(self.run.dir.root().display().to_string())),
            ("name", text(&meta.display_name)),
            ("description", text(&meta.description)),
            ("tags", list(&meta.tags, ", ")),
            ("started", text(&meta.started_at)),
            ("finished", text(&meta.finished_at)),
            (
                "duration",
                Some(table::duration(table::duration_secs(meta, self.live))),
            ),
            ("command", list(&meta.command, " ")),
            ("host", text(&meta.host)),
            ("launcher", text(&meta.launcher)),
            ("world size", ranks),
            ("rows", Some(or_dash(self.rows))),
            (
                "dropped",
                (meta.dropped > 0).then(|| meta.dropped.to_string()),
            ),
            ("last flush", flush),
            ("error", error),
        ];
        let out = console.out();
        writeln!(out, "{:<13}{status}{live}", "status")?;
        for (name, value) in facts {
            if let Some(value) = value {
                writeln!(out, "{name:<13}{}", plain(&value))?;
            }
        }
        // Its last lines say what failed, so it is shown whole.
        let traceback = meta.error.iter().flat_map(|e| e.traceback.lines());
        for line in traceback {
            writeln!(out, "{:<13}{}", "", plain(line))?;
        }
        Ok(())
    }

    fn metrics(&self) -> Table {
        use Side::{Left, Right};
        let mut table = Table::new(&[
            ("NAME", Left),
            ("LAST", Right),
            ("STEP", Right),
            ("RANK", Right),
            ("MIN", Right),
            ("MAX", Right),
            ("COUNT", Right),
        ]);
        for (name, metric) in self.run.meta.metrics.iter().take(METRICS_SHOWN) {
            table.push(&[
                name.clone(),
                table::value(&metric.last),
                or_dash(metric.step),
                metric.rank.to_string(),
                or_dash(metric.min.map(table::number)),
                or_dash(metric.max.map(table::number)),
                or_dash((metric.count > 0).then_some(metric.count)),
            ]);
        }
        table
    }
}

/// Counts the metric rows. A run of expman-rs has no summaries of its metrics, so they are made from its rows.
fn count(run: &mut RunEntry, problems: &mut Vec<String>) -> Option<u64> {
    let (rows, mut found) = match run.kind {
        RunKind::Mesh => {
            let none = Filter {
                keys: Some(HashSet::new()),
                ..Filter::default()
            };
            match snapshot(&run.dir, &none) {
                Ok(snapshot) => (Some(snapshot.total), snapshot.problems),
                Err(e) => (None, vec![e.to_string()]),
            }
        }
        RunKind::ExpmanRs => match read_rows(run, &Filter::default()) {
            Ok(read) => {
                let mut metrics: BTreeMap<String, MetricSummary> = BTreeMap::new();
                for row in read.rows.iter() {
                    let value = row.value.to_value();
                    match metrics.get_mut(row.key) {
                        Some(metric) => metric.update(value, row.step, row.rank),
                        None => drop(metrics.insert(
                            row.key.to_owned(),
                            MetricSummary::first(value, row.step, row.rank),
                        )),
                    }
                }
                run.meta.metrics.extend(metrics);
                (Some(read.rows.len() as u64), read.problems)
            }
            Err(e) => (None, vec![e.to_string()]),
        },
    };
    problems.append(&mut found);
    rows
}

fn malformed_events(run: &RunEntry, problems: &mut Vec<String>) {
    let path = run.dir.events();
    match events::read(&path) {
        Ok((_, malformed)) => {
            for line in malformed.iter().take(MALFORMED_NAMED) {
                problems.push(format!("{}:{}: {}", path.display(), line.line, line.what));
            }
            if malformed.len() > MALFORMED_NAMED {
                problems.push(format!(
                    "{}: {} more malformed lines",
                    path.display(),
                    malformed.len() - MALFORMED_NAMED
                ));
            }
        }
        Err(e) => problems.push(e.to_string()),
    }
}

/// Parameters as `optimizer.lr`, a list as JSON.
fn flatten(out: &mut Vec<(String, String)>, name: String, param: &Param) {
    match param {
        Param::Map(entries) if !entries.is_empty() || name.is_empty() => {
            for (key, value) in entries {
                let name = if name.is_empty() {
                    key.clone()
                } else {
                    format!("{name}.{key}")
                };
                flatten(out, name, value);
            }
        }
        Param::Text(text) => out.push((name, text.clone())),
        other => out.push((name, exact::param(other).to_string())),
    }
}

fn section(console: &mut Console, title: &str, table: &Table, empty: bool) -> io::Result<()> {
    if empty {
        return Ok(());
    }
    writeln!(console.out(), "\n{title}")?;
    table.write(console)
}

fn named(console: &mut Console, title: &str, entries: &[(String, String)]) -> io::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let entries: Vec<(String, String)> =
        entries.iter().map(|(n, v)| (plain(n), plain(v))).collect();
    let width = entries
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    let out = console.out();
    writeln!(out, "\n{title}")?;
    for (name, value) in entries {
        let gap = if width == 0 { "" } else { "  " };
        writeln!(out, "{name:<width$}{gap}{value}")?;
    }
    Ok(())
}
