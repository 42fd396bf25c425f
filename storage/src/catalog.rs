//! The runs below a folder, found by walking it: `BASE/EXPERIMENT/RUN`.

mod entry;
mod near;

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::entry::kind_of;
pub use self::entry::{RunEntry, RunKind, key_of};
use crate::error::{At, Result, StorageError};
use crate::layout::children;
use crate::spread::spread;
use crate::stamp::FileStamp;
use crate::yaml;

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
        entry::look(&self.experiment, &self.run, &self.root, self.kind)
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
                    None => entry::look(&name, run, root, kind_of(root)?),
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
    Ok(entry::look(
        &part(full.parent()),
        &part(Some(&full)),
        root,
        kind,
    ))
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
