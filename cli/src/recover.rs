//! `expman recover`: brings a run whose processes are dead to its end.

use std::io::Write;
use std::path::PathBuf;

use expman_actors::{MeshError, RecoverReport};
use expman_storage::StorageError;
use serde_json::json;

use crate::console::{Console, plain};
use crate::exit::{Exit, Refusal};
use crate::json as exact;
use crate::locate::{BaseDir, RUN_HELP, display_name, find_run};

/// Bring in what dead processes left of a run, and close it
///
/// What a killed rank had put into its spool is stored as if it had been sent, the commit log is merged into
/// metrics.parquet, ranks that never said good-bye are marked as lost, and the run gets its end.
/// A run that is closed already is not touched, so this may be repeated. `expman doctor --fix` does it for every
/// run of a folder.
///
/// It is refused while the run's owner or one of its ranks lives.
/// Damage that was set aside is named on stderr, and the exit code is then 4.
#[derive(Debug, clap::Args)]
#[command(after_help = RUN_HELP)]
pub struct Args {
    /// The run
    #[arg(value_name = "RUN")]
    run: PathBuf,
    #[command(flatten)]
    base: BaseDir,
    /// Print one object, with what was brought in, of which process
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Runs the command.
    pub fn run(&self, console: &mut Console) -> anyhow::Result<Exit> {
        let run = find_run(&self.base.dir, &self.run)?;
        let report = expman_actors::recover(run.dir.root()).map_err(explained)?;
        let name = display_name(&run);
        if self.json {
            let imported: Vec<_> = report
                .imported
                .iter()
                .map(|one| {
                    json!({
                        "rank": one.writer.rank,
                        "incarnation": one.writer.incarnation,
                        "before_seq": one.before_seq,
                        "upto_seq": one.upto_seq,
                    })
                })
                .collect();
            let told = json!({
                "run": name,
                "path": run.dir.root(),
                "changed": report.changed,
                "status": report.status,
                "rows": report.rows,
                "recovered_rows": report.recovered_rows,
                "imported": imported,
                "problems": report.problems,
            });
            exact::write(console.out(), &told)?;
        } else {
            writeln!(console.out(), "{}", plain(&sentence(&name, &report)))?;
        }
        console.flush()?;
        for problem in &report.problems {
            console.warn(problem);
        }
        Ok(if report.problems.is_empty() {
            Exit::Done
        } else {
            Exit::Partial
        })
    }
}

fn sentence(name: &str, report: &RecoverReport) -> String {
    let RecoverReport { status, rows, .. } = report;
    if !report.changed {
        return format!("{name}: {status}, {rows} rows; nothing to do");
    }
    let mut text = format!("{name}: closed as {status}, {rows} rows");
    if report.recovered_rows > 0 {
        let more = format!(", {} of them out of its commit log", report.recovered_rows);
        text.push_str(&more);
    }
    for one in &report.imported {
        let (rank, records) = (one.writer.rank, one.upto_seq.saturating_sub(one.before_seq));
        let more = format!(", {records} records out of the spool of rank {rank}");
        text.push_str(&more);
    }
    text
}

/// What to do about the refusals that have a way out.
fn explained(error: MeshError) -> anyhow::Error {
    let hint = match &error {
        MeshError::Storage(StorageError::Locked { .. }) => {
            "its owner lives, and closes it when the last rank has left"
        }
        MeshError::StillLive { .. } => "its ranks come back by themselves, or can be ended",
        MeshError::Storage(StorageError::Yaml { .. } | StorageError::Parquet { .. }) => {
            "`expman doctor --fix` makes again what can be made again"
        }
        _ => return error.into(),
    };
    Refusal::failed(error.to_string()).hint(hint).into()
}
