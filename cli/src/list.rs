//! `expman list`: the runs below a folder.

use std::path::PathBuf;

use expman_storage::catalog::open_run;
use expman_storage::{Catalog, RunEntry, RunKind};
use serde_json::{Value as Json, json};

use crate::console::Console;
use crate::exit::{Exit, Refusal};
use crate::json as exact;
use crate::locate::display_name;
use crate::table::{self, Row, Side, Table};

/// List the runs below a folder
///
/// Runs are found by walking DIR/EXPERIMENT/RUN; those of expman-rs are listed too.
/// A run whose record is damaged is listed with its problem.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of experiments; one that does not exist has no runs
    #[arg(value_name = "DIR", env = "EXPMAN_DIR", default_value = "experiments")]
    dir: PathBuf,
    /// Only the runs of this experiment
    #[arg(short, long, value_name = "EXP")]
    experiment: Option<String>,
    /// Print an array of objects instead of a table
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, console: &mut Console) -> anyhow::Result<Exit> {
        let catalog = Catalog::new(&self.dir);
        for problem in catalog.problems()? {
            console.warn(&problem);
        }
        let experiment = self.experiment.as_deref();
        if self.json {
            let runs = catalog.each(experiment, |run| summary(&run))?;
            if runs.is_empty() {
                self.explain_nothing(console)?;
            }
            exact::write(console.out(), &Json::Array(runs))?;
        } else {
            let rows = catalog.each(experiment, |run| row(&run))?;
            if rows.is_empty() {
                self.explain_nothing(console)?;
            } else {
                table(rows).write(console)?;
            }
        }
        Ok(Exit::Done)
    }

    fn explain_nothing(&self, console: &Console) -> anyhow::Result<()> {
        let dir = self.dir.display();
        if let Some(experiment) = &self.experiment {
            let hint = format!("`expman list {dir}` shows all of them");
            let what = format!("no experiment {experiment:?} with a run below {dir}");
            return Err(Refusal::not_found(what).hint(hint).into());
        }
        if !self.dir.exists() {
            console.note(&format!("{dir} does not exist yet"));
        } else if open_run(&self.dir).is_ok() {
            console.note(&format!("{dir} is a run; `expman inspect {dir}` shows it"));
        } else if Catalog::new(self.dir.join(".."))
            .experiments()
            .is_ok_and(|all| {
                let name = self
                    .dir
                    .canonicalize()
                    .ok()
                    .and_then(|d| Some(d.file_name()?.to_owned()));
                all.iter()
                    .any(|e| e.runs > 0 && name.as_deref() == Some(e.name.as_ref()))
            })
        {
            console.note(&format!(
                "{dir} is an experiment; list the folder above it, with -e"
            ));
        } else {
            console.note(&format!("no runs below {dir}"));
        }
        Ok(())
    }
}

fn summary(run: &RunEntry) -> Json {
    let meta = &run.meta;
    let live = run.is_live();
    json!({
        "id": meta.id,
        "key": run.key,
        "run": display_name(run),
        "experiment": run.experiment,
        "name": run.run,
        "path": run.dir.root(),
        "kind": run.kind,
        "status": meta.status,
        "live": live,
        "started_at": meta.started_at,
        "finished_at": meta.finished_at,
        "duration_secs": table::duration_secs(meta, live),
        "world_size": meta.world_size,
        "ranks": meta.rank_counts(),
        "rows": rows(run),
        "dropped": meta.dropped,
        "error": meta.error,
        "tags": meta.tags,
        "problem": run.problem,
    })
}

fn row(run: &RunEntry) -> Row {
    let ranks = run.meta.ranks.len();
    Row::new(&[
        display_name(run),
        run.meta.status.to_string(),
        table::time(run.meta.started_at.as_deref()),
        table::duration(table::duration_secs(&run.meta, run.is_live())),
        table::or_dash((ranks > 0).then_some(ranks)),
        table::or_dash(rows(run)),
        table::or_dash((run.meta.dropped > 0).then_some(run.meta.dropped)),
        run.problem.clone().unwrap_or_default(),
    ])
}

fn table(rows: Vec<Row>) -> Table {
    use Side::{Left, Right};
    let mut head = vec![
        ("RUN", Left),
        ("STATUS", Left),
        ("STARTED", Left),
        ("DURATION", Right),
        ("RANKS", Right),
        ("ROWS", Right),
        ("DROPPED", Right),
    ];
    let problems = rows.iter().any(|row| !row.is_blank(head.len()));
    head.extend(problems.then_some(("PROBLEM", Left)));
    Table::of(&head, rows)
}

/// Metric rows stored; expman-rs does not tell.
fn rows(run: &RunEntry) -> Option<u64> {
    (run.kind == RunKind::Mesh).then_some(run.meta.rows)
}
