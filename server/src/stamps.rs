//! What tells that a run's parameters or saved files changed, without reading them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use expman_storage::RunDir;
use expman_storage::stamp::FileStamp;
use serde::Serialize;

use crate::saved::{DEPTH_MAX, FILES_MAX};

/// Two that are equal mean that what a client fetched is still what it would get; the text means nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stamps {
    /// Of `config.yaml`.
    config: String,
    /// Of everything below `artifacts/`.
    artifacts: String,
}

/// What was seen of a tree of folders.
#[derive(Default)]
struct Tree {
    entries: usize,
    changed: (i64, i64),
}

impl Stamps {
    /// The stamps of now: what is fetched later is as new as they are, or newer.
    #[must_use]
    pub fn of(dir: &RunDir) -> Self {
        let config = FileStamp::of(&dir.config()).map(|stamp| stamp.to_string());
        let mut tree = Tree::default();
        tree.walk(&dir.artifacts(), 0);
        let (secs, nanos) = tree.changed;
        Self {
            config: config.unwrap_or_default(),
            artifacts: format!("{}-{secs}.{nanos}", tree.entries),
        }
    }
}

impl Tree {
    /// A folder's own time changes with every name in it that comes, goes or is replaced.
    fn walk(&mut self, folder: &Path, depth: usize) {
        let (Ok(meta), Ok(entries)) = (fs::symlink_metadata(folder), fs::read_dir(folder)) else {
            return;
        };
        if !meta.is_dir() {
            return; // a link, which leads out of the run
        }
        self.changed = self.changed.max((meta.mtime(), meta.mtime_nsec()));
        for entry in entries.flatten() {
            if self.entries >= FILES_MAX {
                return;
            }
            self.entries += 1;
            if depth < DEPTH_MAX && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.walk(&entry.path(), depth + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use expman_model::Param;

    use super::*;

    #[test]
    fn every_change_is_told_apart_and_nothing_else() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path());
        let deep = dir.artifacts().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        let mut last = Stamps::of(&dir);
        assert_eq!(last, Stamps::of(&dir));
        let write = |name: &str| drop(fs::File::create(name).unwrap());
        let deep = deep.display();
        let changes: [&dyn Fn(); 4] = [
            &|| write(&format!("{deep}/one")),
            &|| fs::remove_file(format!("{deep}/one")).unwrap(),
            &|| expman_storage::yaml::write(&dir.config(), &Param::Int(1)).unwrap(),
            &|| expman_storage::yaml::write(&dir.config(), &Param::Int(22)).unwrap(),
        ];
        for (n, change) in changes.iter().enumerate() {
            change();
            let now = Stamps::of(&dir);
            assert_ne!(now, last, "change {n}");
            assert_eq!(now.config == last.config, n < 2, "change {n}");
            assert_eq!(now.artifacts == last.artifacts, n >= 2, "change {n}");
            last = now;
        }
    }
}
