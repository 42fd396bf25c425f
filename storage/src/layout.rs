//! Where the files of a run are.

use std::fs;
use std::path::{Path, PathBuf};

use expman_model::check_folder_name;

use crate::error::{At, Result};

/// The folder of one run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RunDir {
    root: PathBuf,
}

/// A sealed segment: rows `[lo, hi)` of the run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentFile {
    /// First row.
    pub lo: u64,
    /// One past the last row.
    pub hi: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// A commit log that starts at row `lo`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WalFile {
    /// First row.
    pub lo: u64,
    /// Tells logs that start at the same row apart; the greatest is the newest.
    pub epoch: u64,
    /// Where it is.
    pub path: PathBuf,
}

impl RunDir {
    /// A run folder that may or may not exist.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// `base/experiment/run`.
    ///
    /// # Errors
    /// When a name is not allowed as a folder.
    pub fn under(base: &Path, experiment: &str, run: &str) -> Result<Self> {
        check_folder_name("experiment name", experiment)?;
        check_folder_name("run name", run)?;
        Ok(Self::at(base.join(experiment).join(run)))
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// The published metrics.
    #[must_use]
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.parquet")
    }
    /// The run's record.
    #[must_use]
    pub fn meta(&self) -> PathBuf {
        self.root.join("run.yaml")
    }
    /// The merged parameters.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("config.yaml")
    }
    /// Messages.
    #[must_use]
    pub fn run_log(&self) -> PathBuf {
        self.root.join("run.log")
    }
    /// Captured output.
    #[must_use]
    pub fn console_log(&self) -> PathBuf {
        self.root.join("console.log")
    }
    /// What happened to the run.
    #[must_use]
    pub fn events(&self) -> PathBuf {
        self.root.join("events.jsonl")
    }
    /// Saved files.
    #[must_use]
    pub fn artifacts(&self) -> PathBuf {
        self.root.join("artifacts")
    }
    /// The machinery.
    #[must_use]
    pub fn hidden(&self) -> PathBuf {
        self.root.join(".expman")
    }
    /// Held by the owner as long as it lives.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.hidden().join("LOCK")
    }
    /// Where the owner listens.
    #[must_use]
    pub fn owner(&self) -> PathBuf {
        self.hidden().join("owner.json")
    }
    /// What people wrote about the run and its record does not have yet.
    #[must_use]
    pub fn edits(&self) -> PathBuf {
        self.hidden().join("edits")
    }
    /// How ranks ended that the record does not have yet.
    #[must_use]
    pub fn goodbyes(&self) -> PathBuf {
        self.hidden().join("goodbyes.jsonl")
    }
    /// What processes keep until their owner has written it.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.hidden().join("spool")
    }
    /// A commit log.
    #[must_use]
    pub fn wal(&self, lo: u64, epoch: u64) -> PathBuf {
        self.hidden().join(format!("wal-{lo:016x}-{epoch:08x}.wal"))
    }
    /// A sealed segment.
    #[must_use]
    pub fn segment(&self, lo: u64, hi: u64) -> PathBuf {
        self.hidden()
            .join(format!("seg-{lo:016x}-{hi:016x}.parquet"))
    }

    /// The sum of the rows `[lo, hi)`: of a segment, or of `metrics.parquet`.
    #[must_use]
    pub fn sum(&self, lo: u64, hi: u64) -> PathBuf {
        self.hidden()
            .join(format!("sum-{lo:016x}-{hi:016x}.pyramid"))
    }

    /// Every commit log, in the order of its rows.
    ///
    /// # Errors
    /// When the folder can't be listed.
    pub fn wals(&self) -> Result<Vec<WalFile>> {
        let mut found = Vec::new();
        for (name, path) in self.hidden_names()? {
            let parts = name
                .strip_prefix("wal-")
                .and_then(|n| n.strip_suffix(".wal"))
                .and_then(|n| n.split_once('-'));
            if let Some((lo, epoch)) = parts
                && let (Ok(lo), Ok(epoch)) =
                    (u64::from_str_radix(lo, 16), u64::from_str_radix(epoch, 16))
            {
                found.push(WalFile { lo, epoch, path });
            }
        }
        found.sort();
        Ok(found)
    }

    /// Every sealed segment, in the order of its rows.
    ///
    /// # Errors
    /// When the folder can't be listed.
    pub fn segments(&self) -> Result<Vec<SegmentFile>> {
        self.ranges("seg-", ".parquet")
    }

    /// Every sum of rows, in the order of its rows.
    ///
    /// # Errors
    /// When the folder can't be listed.
    pub fn sums(&self) -> Result<Vec<SegmentFile>> {
        self.ranges("sum-", ".pyramid")
    }

    /// Files named by the rows `[lo, hi)` that they are about.
    fn ranges(&self, prefix: &str, suffix: &str) -> Result<Vec<SegmentFile>> {
        let mut found = Vec::new();
        for (name, path) in self.hidden_names()? {
            let parts = name
                .strip_prefix(prefix)
                .and_then(|n| n.strip_suffix(suffix))
                .and_then(|n| n.split_once('-'));
            if let Some((lo, hi)) = parts
                && let (Ok(lo), Ok(hi)) = (u64::from_str_radix(lo, 16), u64::from_str_radix(hi, 16))
            {
                found.push(SegmentFile { lo, hi, path });
            }
        }
        found.sort();
        Ok(found)
    }

    /// Half-written files that a crash left.
    ///
    /// # Errors
    /// When a folder can't be listed.
    pub fn temporaries(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for dir in [self.root.clone(), self.hidden()] {
            for (_, path) in names(&dir)? {
                if path.extension().is_some_and(|e| e == "tmp") {
                    found.push(path);
                }
            }
        }
        Ok(found)
    }

    fn hidden_names(&self) -> Result<Vec<(String, PathBuf)>> {
        names(&self.hidden())
    }
}

/// Names and paths of a folder's children; none when the folder is missing.
pub(crate) fn names(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let found = children(dir)?.into_iter();
    Ok(found.map(|(name, entry)| (name, entry.path())).collect())
}

/// A folder's children by their names; none when the folder is missing.
pub(crate) fn children(dir: &Path) -> Result<Vec<(String, fs::DirEntry)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).at("list", dir),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.at("list", dir)?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machinery_is_found_in_the_order_of_its_rows() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::under(tmp.path(), "e", "r").unwrap();
        fs::create_dir_all(dir.hidden()).unwrap();
        for path in [
            dir.wal(300, 2),
            dir.wal(20, 1),
            dir.segment(0, 20),
            dir.sum(0, 20),
            dir.hidden().join("wal-zz.wal"),
            dir.hidden().join("x.tmp"),
        ] {
            fs::File::create(path).unwrap();
        }
        assert_eq!(
            dir.wals().unwrap().iter().map(|w| w.lo).collect::<Vec<_>>(),
            [20, 300]
        );
        assert_eq!(dir.segments().unwrap()[0].hi, 20);
        assert_eq!(dir.sums().unwrap()[0].path, dir.sum(0, 20));
        assert_eq!(dir.temporaries().unwrap().len(), 1);
        assert!(RunDir::under(tmp.path(), "e", "../r").is_err());
    }
}
