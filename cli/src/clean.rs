//! `expman clean`: deletes old runs of one experiment.

use std::cmp::Reverse;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use expman_model::RunStatus;
use expman_model::time::parse_rfc3339;
use expman_storage::lock::OwnerLock;
use expman_storage::{Catalog, RunEntry, RunKind};
use serde_json::{Value as Json, json};

use crate::console::Console;
use crate::exit::{Exit, Refusal, whole_message};
use crate::json as exact;
use crate::locate::{BaseDir, display_name};
use crate::table::{self, Side, Table};

/// In front of the name of a folder that is being deleted, so that a killed clean leaves no half run.
const DELETING: &str = ".deleting-";

/// Delete all but the newest runs of an experiment
///
/// Without --force nothing is deleted: the runs that would be are shown.
/// The newest --keep runs, by their start, stay. A live run is never deleted, whatever its age, nor a run
/// of expman-rs that still says RUNNING, since it does not tell whether it was killed.
///
/// EXP is the experiment's name below --dir, or a path to its folder (one that holds a `/`).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The experiment
    #[arg(value_name = "EXP")]
    experiment: PathBuf,
    #[command(flatten)]
    base: BaseDir,
    /// How many of the newest runs stay
    #[arg(long, value_name = "N")]
    keep: usize,
    /// Delete them
    #[arg(long)]
    force: bool,
    /// Print an object instead of a table
    #[arg(long)]
    json: bool,
}

/// What becomes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Live,
    Old,
    Deleted,
    Failed,
}

impl Fate {
    const fn word(self) -> &'static str {
        match self {
            Self::Kept => "keep",
            Self::Live => "keep (live)",
            Self::Old => "would delete",
            Self::Deleted => "deleted",
            Self::Failed => "not deleted",
        }
    }
}

impl Args {
    /// Runs the command.
    pub fn run(&self, console: &mut Console) -> anyhow::Result<Exit> {
        let (base, name) = self.place()?;
        let mut runs = Catalog::new(&base).runs(Some(&name))?;
        if runs.is_empty() {
            let what = format!("no experiment {name:?} with a run below {}", base.display());
            return Err(Refusal::not_found(what)
                .hint(format!("`expman list {}` shows them", base.display()))
                .into());
        }
        runs.sort_by_cached_key(|run| Reverse((started(run), run.run.clone())));
        let mut fates: Vec<Fate> = runs
            .iter()
            .enumerate()
            .map(|(n, run)| self.fate(n, run))
            .collect();
        let mut exit = Exit::Done;
        if self.force {
            sweep(&base.join(&name))?;
            for (run, fate) in runs
                .iter()
                .zip(&mut fates)
                .filter(|(_, fate)| **fate == Fate::Old)
            {
                *fate = match delete(run) {
                    Ok(fate) => fate,
                    Err(error) => {
                        console.error(&whole_message(&error));
                        exit = Exit::Failed;
                        Fate::Failed
                    }
                };
            }
        }
        self.tell(console, &name, &runs, &fates)?;
        Ok(exit)
    }

    /// Base folder and name of the experiment.
    fn place(&self) -> anyhow::Result<(PathBuf, String)> {
        let text = self.experiment.to_string_lossy();
        if !text.contains('/') {
            return Ok((self.base.dir.clone(), text.into_owned()));
        }
        let missing = || Refusal::not_found(format!("no folder {text}"));
        let full = fs::canonicalize(&self.experiment).map_err(|_gone| missing())?;
        let (parent, name) = full.parent().zip(full.file_name()).ok_or_else(missing)?;
        Ok((parent.to_owned(), name.to_string_lossy().into_owned()))
    }

    fn fate(&self, place: usize, run: &RunEntry) -> Fate {
        if may_be_live(run) {
            Fate::Live
        } else if place < self.keep {
            Fate::Kept
        } else {
            Fate::Old
        }
    }

    fn tell(
        &self,
        console: &mut Console,
        name: &str,
        runs: &[RunEntry],
        fates: &[Fate],
    ) -> anyhow::Result<()> {
        let with = |wanted: &[Fate]| -> Vec<Json> {
            let all = runs
                .iter()
                .zip(fates)
                .filter(|(_, fate)| wanted.contains(fate));
            all.map(|(run, _)| json!({"run": display_name(run), "path": run.dir.root(), "status": run.meta.status})).collect()
        };
        if self.json {
            let told = json!({
                "experiment": name,
                "dry_run": !self.force,
                "kept": with(&[Fate::Kept, Fate::Live]),
                "would_delete": with(&[Fate::Old]),
                "deleted": with(&[Fate::Deleted]),
                "failed": with(&[Fate::Failed]),
            });
            exact::write(console.out(), &told)?;
        } else {
            let mut table = Table::new(&[
                ("RUN", Side::Left),
                ("STATUS", Side::Left),
                ("STARTED", Side::Left),
                ("CLEAN", Side::Left),
            ]);
            for (run, fate) in runs.iter().zip(fates) {
                let started = table::time(run.meta.started_at.as_deref());
                table.push(&[
                    display_name(run),
                    run.meta.status.to_string(),
                    started,
                    fate.word().to_owned(),
                ]);
            }
            table.write(console)?;
        }
        console.out().flush()?;
        if fates.contains(&Fate::Old) {
            console.note("nothing was deleted; --force deletes");
        }
        Ok(())
    }
}

/// A run of expman-rs never takes back that it is running, so its word counts until somebody else corrects it.
fn may_be_live(run: &RunEntry) -> bool {
    run.owned || (run.kind == RunKind::ExpmanRs && run.meta.status == RunStatus::Running)
}

/// When a run started: by its record, else by its folder.
fn started(run: &RunEntry) -> i64 {
    let told = run.meta.started_at.as_deref().and_then(parse_rfc3339);
    told.unwrap_or_else(|| {
        let changed = fs::metadata(run.dir.root()).and_then(|m| m.modified()).ok();
        let age = changed.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        age.and_then(|age| i64::try_from(age.as_micros()).ok())
            .unwrap_or(0)
    })
}

/// Deletes a run that nobody owns, holding its lock so that nobody comes to own it meanwhile.
fn delete(run: &RunEntry) -> anyhow::Result<Fate> {
    let root = run.dir.root();
    let held = match run.kind {
        RunKind::Mesh => match OwnerLock::take(&run.dir) {
            Ok(lock) => Some(lock),
            Err(expman_storage::StorageError::Locked { .. }) => return Ok(Fate::Live),
            Err(error) => return Err(error.into()),
        },
        RunKind::ExpmanRs => None,
    };
    let hidden = root.with_file_name(format!("{DELETING}{}", run.run));
    fs::rename(root, &hidden).with_context(|| format!("rename {}", root.display()))?;
    fs::remove_dir_all(&hidden).with_context(|| format!("delete {}", hidden.display()))?;
    drop(held);
    Ok(Fate::Deleted)
}

/// Deletes what an earlier clean left when it was killed.
fn sweep(experiment: &Path) -> anyhow::Result<()> {
    for entry in
        fs::read_dir(experiment).with_context(|| format!("list {}", experiment.display()))?
    {
        let path = entry
            .with_context(|| format!("list {}", experiment.display()))?
            .path();
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(DELETING))
        {
            fs::remove_dir_all(&path).with_context(|| format!("delete {}", path.display()))?;
        }
    }
    Ok(())
}
