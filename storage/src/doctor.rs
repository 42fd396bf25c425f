//! Looking a run's folder over, and mending what can be mended.
//!
//! Looking changes nothing. Mending is done under the run's lock, keeps a copy of everything that it replaces
//! as `*.corrupt`, and leaves alone whatever a living process may still write.
//! It is done when it finds nothing more to do, so that doing it again changes nothing.

mod census;
mod files;
mod look;
mod mend;
mod record;
mod text;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::catalog::{RunEntry, open_run};
use crate::error::Result;
use crate::layout::RunDir;
use crate::lock::OwnerLock;
use crate::run_writer::RunWriter;

/// Mending one thing may show the next; more rounds than there are layers of files are never needed.
const ROUNDS: usize = 4;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is to be done.
    Note,
    /// Something is not as it should be, and nothing is lost by it.
    Warning,
    /// Something can't be read or is not there.
    Damage,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// A process owns the run; it was looked at as far as that is safe.
    Owned,
    /// No process owns the run, and ranks that may start an owner live.
    RanksLive,
    /// A link, a pipe or the like stands where a file of the run should be.
    NoPlainFile,
    /// A newer version wrote it.
    NewerFormat,
    /// `run.yaml` can't be read, or is not there.
    Record,
    /// `config.yaml` can't be read, or is not there though parameters were logged.
    Params,
    /// `experiment.yaml` can't be read.
    Experiment,
    /// `metrics.parquet` can't be read, or is not there.
    Metrics,
    /// A segment can't be read.
    Segment,
    /// A sum of rows, which charts are made from, is damaged or of no file.
    Sum,
    /// Rows are missing between two files.
    RowsMissing,
    /// A commit log is damaged.
    Log,
    /// The run's owner died, or could not close it: what it has is not merged.
    NotClosed,
    /// Records of a dead process wait in its spool.
    Spool,
    /// A piece of `run.log` or `console.log` can't be read, or is missing.
    Text,
    /// A piece of them is not packed.
    TextPlain,
    /// `events.jsonl` has lines that are no events, or can't be read.
    Events,
    /// A half-written file.
    Temporary,
    /// A saved file is not there, or not what was saved.
    Artifact,
    /// `run.yaml` counts other rows than there are.
    Counts,
    /// Records were left out while the run was logged.
    Gap,
    /// A copy of something damaged.
    Copy,
    /// A run of another program can't be read whole.
    Foreign,
    /// Mending failed.
    MendFailed,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `EXPERIMENT/RUN`.
    pub run: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub code: Code,
    /// The same in words.
    pub what: String,
    /// The file or folder that it is about.
    pub path: PathBuf,
    /// Whether it can be mended.
    pub fixable: bool,
    /// Whether it was.
    pub fixed: bool,
}

impl Finding {
    /// Whether something is still to be done.
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.severity > Severity::Note && !self.fixed
    }

    fn is_same(&self, other: &Self) -> bool {
        self.code == other.code && self.path == other.path
    }
}

/// What is known of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It has ended.
    Gone,
    /// It runs.
    Lives,
    /// It is, or was, on another host.
    Elsewhere,
}

/// What the doctor needs from those who know processes and owners.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// How a process stands: its host, its number there, and when the run was last written to.
    pub life: &'a dyn Fn(&str, u32, SystemTime) -> Life,
    /// Brings a run whose owner died to its end.
    pub close: &'a dyn Fn(&RunDir) -> Result<(), String>,
}

impl std::fmt::Debug for Tools<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tools").finish_non_exhaustive()
    }
}

impl Tools<'_> {
    /// Looks a run over.
    #[must_use]
    pub fn look(&self, run: &RunEntry) -> Vec<Finding> {
        look::Look::at(run, self).findings
    }

    /// Looks a run over and mends what can be mended.
    #[must_use]
    pub fn mend(&self, run: &RunEntry) -> Vec<Finding> {
        let mut all = self.look(run);
        let mut now = all.clone();
        for _ in 0..ROUNDS {
            if !now.iter().any(|f| f.fixable) {
                break;
            }
            let failure = mend::mend(run, &now, self).err();
            let run = open_run(run.dir.root()).unwrap_or_else(|_gone| run.clone());
            now = self.look(&run);
            if let Some(what) = failure {
                now.push(Finding {
                    run: look::name(&run),
                    severity: Severity::Damage,
                    code: Code::MendFailed,
                    what,
                    path: run.dir.root().to_owned(),
                    fixable: false,
                    fixed: false,
                });
                break;
            }
            let new: Vec<_> = now
                .iter()
                .filter(|n| !all.iter().any(|a| a.is_same(n)))
                .cloned()
                .collect();
            all.extend(new);
        }
        all.retain(|a| a.severity > Severity::Note && !now.iter().any(|n| n.is_same(a)));
        for mended in &mut all {
            mended.fixed = true;
        }
        all.extend(now);
        all
    }
}

/// Looks at `experiment.yaml` of an experiment's folder, and mends it when asked.
#[must_use]
pub fn experiment(folder: &Path, fix: bool) -> Option<Finding> {
    mend::experiment(folder, fix)
}

/// Brings a run whose owner died to its end: its commit log is read back, its ranks are gone.
///
/// # Errors
/// When another process owns it, or it can't be read or written.
pub fn close(dir: &RunDir) -> Result<()> {
    let lock = OwnerLock::take(dir)?;
    let seed = expman_model::RunMeta::default();
    let (mut writer, _) = RunWriter::open(&lock, dir, seed)?;
    writer.finish()
}
