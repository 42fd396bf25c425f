//! One run folder: whose it is, its record, and what lies over that.

use std::path::Path;

use expman_model::{RunMeta, RunStatus};
use serde::Serialize;

use crate::error::Result;
use crate::layout::RunDir;
use crate::{durable, edits, goodbyes, lock, yaml};

/// Who wrote a run folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunKind {
    /// This project.
    Mesh,
    /// expman-rs.
    ExpmanRs,
}

/// One run folder.
#[derive(Debug, Clone)]
pub struct RunEntry {
    /// Opaque, stable and safe in a URL.
    pub key: String,
    /// Folder above.
    pub experiment: String,
    /// Folder.
    pub run: String,
    /// Where it is.
    pub dir: RunDir,
    /// Who wrote it.
    pub kind: RunKind,
    /// Whether a process holds the run's lock. Of another tool's run that is not known, and of one that has ended
    /// it is told by [`Catalog::runs`](super::Catalog::runs) and [`open_run`](super::open_run) only: the others don't look.
    pub owned: bool,
    /// Its record, as it is true now; where that is broken, one made from the folder's name.
    pub meta: RunMeta,
    /// What is wrong with it.
    pub problem: Option<String>,
}

impl RunEntry {
    /// One that nobody owns and nothing is wrong with.
    pub(super) fn new(
        experiment: &str,
        run: &str,
        dir: RunDir,
        kind: RunKind,
        meta: RunMeta,
    ) -> Self {
        Self {
            key: key_of(experiment, run),
            experiment: experiment.to_owned(),
            run: run.to_owned(),
            dir,
            kind,
            owned: false,
            meta,
            problem: None,
        }
    }

    /// Whether more is to come. A run that has ended may still be owned, while its files are merged.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.owned && !self.meta.status.is_finished()
    }

    /// Lays over the record what stands beside it, and what is true because somebody owns the run or nobody does.
    pub(super) fn complete(&mut self, may_have_edits: bool, has_metrics: bool) {
        let meta = &mut self.meta;
        if may_have_edits {
            for (_, edit) in edits::pending(&self.dir) {
                edit.apply_to(meta);
            }
        }
        self.run.clone_into(&mut meta.name);
        self.experiment.clone_into(&mut meta.experiment);
        if self.kind != RunKind::Mesh {
            return;
        }
        meta.without_delivered();
        if !self.owned {
            meta.without_owner();
        } else if self.problem.is_some() {
            meta.status = RunStatus::Running;
        }
        if self.problem.is_none() && !has_metrics {
            let metrics = self.dir.metrics();
            self.problem = Some(format!("{} is missing", metrics.display()));
        }
    }
}

/// The opaque key of a run.
#[must_use]
pub fn key_of(experiment: &str, run: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(experiment.as_bytes())
        .update(b"\0")
        .update(run.as_bytes());
    hasher.finalize().to_hex()[..16].to_owned()
}

/// Whose run a folder holds; none where it is no run.
pub(super) fn kind_of(root: &Path) -> Option<RunKind> {
    if root.join(".expman").is_dir() || declares_format(root) {
        return Some(RunKind::Mesh);
    }
    [
        "run.yaml",
        "metrics.parquet",
        "vectors.parquet",
        "events.jsonl",
    ]
    .iter()
    .any(|f| root.join(f).is_file())
    .then_some(RunKind::ExpmanRs)
}

/// Whether `run.yaml` is one of ours, as in a finished run that was copied without its machinery.
fn declares_format(root: &Path) -> bool {
    use std::io::Read;
    let mut head = [0; 7];
    durable::open_read(&root.join("run.yaml")).is_ok_and(|mut f| f.read_exact(&mut head).is_ok())
        && head == DECLARED
}

/// How our records begin.
pub(super) const DECLARED: [u8; 7] = *b"format:";

/// The look at a run folder that asks everything.
pub(super) fn look(experiment: &str, run: &str, root: &Path, kind: RunKind) -> RunEntry {
    let dir = RunDir::at(root);
    // The lock first: an owner that ends in between has written how it ended.
    let owned = kind == RunKind::Mesh && lock::is_owned(&dir);
    let named = RunMeta {
        name: run.to_owned(),
        experiment: experiment.to_owned(),
        ..RunMeta::default()
    };
    let (mut meta, problem) = match read_meta(&dir, kind) {
        Ok(Some(meta)) => (meta, None),
        Ok(None) => (named, Some(format!("{} is missing", dir.meta().display()))),
        Err(e) => (named, Some(e.to_string())),
    };
    // Who ended well needs nobody's goodbye; of whom it did not, the ranks may have.
    if kind == RunKind::Mesh
        && !meta.status.is_finished()
        && let Ok(Some(told)) = goodbyes::read(&dir)
    {
        // Its owner may have written the record, and taken lines away, between the two looks.
        if owned && let Ok(Some(newer)) = read_meta(&dir, kind) {
            meta = newer;
        }
        goodbyes::lay_over(told, &mut meta);
    }
    let has_metrics = kind != RunKind::Mesh || dir.metrics().is_file();
    let mut entry = RunEntry {
        owned,
        problem,
        ..RunEntry::new(experiment, run, dir, kind, meta)
    };
    entry.complete(true, has_metrics);
    entry
}

fn read_meta(dir: &RunDir, kind: RunKind) -> Result<Option<RunMeta>> {
    match kind {
        RunKind::Mesh => yaml::read(&dir.meta()),
        RunKind::ExpmanRs => crate::legacy::read_meta(dir),
    }
}
