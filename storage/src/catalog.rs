//! The runs below a folder, found by walking it: `BASE/EXPERIMENT/RUN`.

mod near;

use std::fs::File;
use std::path::{Path, PathBuf};

use expman_model::{RunMeta, RunStatus};
use serde::{Deserialize, Serialize};

use crate::error::{At, Result, StorageError};
use crate::layout::{RunDir, children};
use crate::spread::spread;
use crate::stamp::FileStamp;
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
    /// it is told by [`Catalog::runs`] and [`open_run`] only: the others don't look.
    pub owned: bool,
    /// Its record, as it is true now; where that is broken, one made from the folder's name.
    pub meta: RunMeta,
    /// What is wrong with it.
    pub problem: Option<String>,
}

impl RunEntry {
    /// Whether more is to come. A run that has ended may still be owned, while its files are merged.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.owned && !self.meta.status.is_finished()
    }

    /// Lays over the record what stands beside it, and what is true because somebody owns the run or nobody does.
    fn complete(&mut self, may_have_edits: bool, has_metrics: bool) {
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

/// `experiment.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExperimentMeta {
    /// A name for people.
    pub display_name: Option<String>,
    /// The user's text.
    pub description: Option<String>,
    /// The user's tags.
    pub tags: Vec<String>,
}

/// One experiment folder.
#[derive(Debug, Clone)]
pub struct ExperimentEntry {
    /// Its folder's name.
    pub name: String,
    /// Its record.
    pub meta: ExperimentMeta,
    /// How many runs it has.
    pub runs: usize,
    /// What is wrong with its record.
    pub problem: Option<String>,
}

/// A run folder as walking alone finds it. Two that are equal mean that nothing of the run's record was written in
/// between; an owner that vanishes writes nothing, so whether a run is owned is to be looked at anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As in [`RunEntry`].
    pub key: String,
    /// As in [`RunEntry`].
    pub experiment: String,
    /// As in [`RunEntry`].
    pub run: String,
    /// Where it is.
    pub root: PathBuf,
    kind: RunKind,
    seen: [Option<FileStamp>; 3],
}

impl Place {
    fn at(folder: &File, experiment: &str, run: &str, root: PathBuf) -> Option<Self> {
        let below = Path::new(run);
        let hidden = near::stat(folder, &below.join(".expman"));
        let is_ours = hidden.as_ref().is_some_and(near::is_dir);
        // An owner renames files in all three places before it writes anything else.
        let seen = [
            near::stat(folder, below),
            near::stat(folder, &below.join("run.yaml")),
            hidden,
        ];
        let seen = seen.map(|stat| stat.as_ref().map(FileStamp::from));
        let kind = if is_ours {
            RunKind::Mesh
        } else {
            kind_of(&root)?
        };
        Some(Self {
            kind,
            key: key_of(experiment, run),
            experiment: experiment.to_owned(),
            run: run.to_owned(),
            root,
            seen,
        })
    }

    /// Reads the run's record; the lock of one that has ended is not looked at.
    #[must_use]
    pub fn open(&self) -> RunEntry {
        let ended = (self.kind == RunKind::Mesh)
            .then(|| near::ended(rustix::fs::CWD, &self.root))
            .flatten();
        match ended {
            Some(ended) => near::believed(&self.experiment, &self.run, &self.root, ended),
            None => self.look(),
        }
    }

    fn look(&self) -> RunEntry {
        entry(&self.experiment, &self.run, &self.root, self.kind)
    }
}

/// A folder of experiments.
#[derive(Debug, Clone)]
pub struct Catalog {
    base: PathBuf,
}

impl Catalog {
    /// A base folder; a missing one is empty.
    #[must_use]
    pub fn new(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into() }
    }

    /// The base folder.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Every experiment that has a run, by name.
    ///
    /// # Errors
    /// When the base folder can't be listed.
    pub fn experiments(&self) -> Result<Vec<ExperimentEntry>> {
        let mut found = Vec::new();
        for (name, path) in folders(&self.base)? {
            let runs = folders(&path)?
                .iter()
                .filter(|(_, p)| kind_of(p).is_some())
                .count();
            let path = path.join("experiment.yaml");
            if runs == 0 && !path.exists() {
                continue;
            }
            let (meta, problem) = match yaml::read(&path) {
                Ok(meta) => (meta.unwrap_or_default(), None),
                Err(e) => (ExperimentMeta::default(), Some(e.to_string())),
            };
            found.push(ExperimentEntry {
                name,
                meta,
                runs,
                problem,
            });
        }
        Ok(found)
    }

    /// Every run, or those of one experiment, by experiment and name.
    ///
    /// # Errors
    /// When a folder can't be listed.
    pub fn runs(&self, experiment: Option<&str>) -> Result<Vec<RunEntry>> {
        Ok(spread(&self.places(experiment)?, Place::look))
    }

    /// What `make` makes of every run, or of those of one experiment, by experiment and name; the locks of runs that
    /// have ended are not looked at.
    ///
    /// # Errors
    /// When a folder can't be listed.
    pub fn each<R: Send>(
        &self,
        experiment: Option<&str>,
        make: impl Fn(RunEntry) -> R + Sync,
    ) -> Result<Vec<R>> {
        let mut found = Vec::new();
        for (name, path) in self.wanted(experiment)? {
            let runs = folders(&path)?;
            let folder = File::open(&path).at("open", &path)?;
            let made = spread(&runs, |(run, root)| {
                let entry = match near::ended(&folder, Path::new(run)) {
                    Some(ended) => near::believed(&name, run, root, ended),
                    None => entry(&name, run, root, kind_of(root)?),
                };
                Some(make(entry))
            });
            found.extend(made.into_iter().flatten());
        }
        Ok(found)
    }

    /// What is wrong with the records of experiments.
    ///
    /// # Errors
    /// When the base folder can't be listed.
    pub fn problems(&self) -> Result<Vec<String>> {
        let experiments = folders(&self.base)?.into_iter();
        let records = experiments.map(|(_, path)| path.join("experiment.yaml"));
        let problem = |path: PathBuf| Some(yaml::read::<ExperimentMeta>(&path).err()?.to_string());
        Ok(records.filter_map(problem).collect())
    }

    fn wanted(&self, experiment: Option<&str>) -> Result<Vec<(String, PathBuf)>> {
        let mut found = folders(&self.base)?;
        found.retain(|(name, _)| experiment.is_none_or(|wanted| wanted == name));
        Ok(found)
    }

    /// Where every run is, or those of one experiment, by experiment and name; no record is read.
    ///
    /// # Errors
    /// When a folder can't be listed.
    pub fn places(&self, experiment: Option<&str>) -> Result<Vec<Place>> {
        let mut found = Vec::new();
        for (name, path) in self.wanted(experiment)? {
            let runs = folders(&path)?;
            let folder = File::open(&path).at("open", &path)?;
            let places = spread(&runs, |(run, root)| {
                Place::at(&folder, &name, run, root.clone())
            });
            found.extend(places.into_iter().flatten());
        }
        Ok(found)
    }
}

/// The run in a folder that the caller names by its path.
///
/// # Errors
/// When no run is there.
pub fn open_run(root: &Path) -> Result<RunEntry> {
    let kind = kind_of(root).ok_or_else(|| StorageError::NoRun {
        path: root.to_owned(),
    })?;
    let full = std::fs::canonicalize(root).unwrap_or_else(|_gone| root.to_owned());
    let part = |path: Option<&Path>| {
        path.and_then(Path::file_name)
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    Ok(entry(&part(full.parent()), &part(Some(&full)), root, kind))
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

/// Names and paths of the folders in a folder; none when it is missing.
fn folders(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = children(dir)?;
    found.retain(|(name, entry)| {
        !name.starts_with('.') && entry.file_type().is_ok_and(|kind| kind.is_dir())
    });
    let found = found.into_iter();
    let mut found: Vec<_> = found.map(|(name, entry)| (name, entry.path())).collect();
    found.sort();
    Ok(found)
}

fn kind_of(root: &Path) -> Option<RunKind> {
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
const DECLARED: [u8; 7] = *b"format:";

fn entry(experiment: &str, run: &str, root: &Path, kind: RunKind) -> RunEntry {
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
        key: key_of(experiment, run),
        experiment: experiment.to_owned(),
        run: run.to_owned(),
        dir,
        kind,
        owned,
        meta,
        problem,
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
