//! Looking at what lies beside the rows: spool files, half-written files, artifacts, kept copies.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use expman_model::check_artifact_name;
use serde_json::Value as Json;

use super::look::Look;
use super::{Code, Severity};
use crate::artifact;
use crate::layout::names;
use crate::pyramid::{self, SumFile};
use crate::segment;
use crate::text::{LogKind, pieces};

/// Files that are named one by one.
const NAMED_MAX: usize = 100;

impl Look<'_> {
    /// Whether something stands where a file or folder of the run should be that leads out of it, or never ends:
    /// nobody makes such by mistake, so nothing is read or mended through it.
    pub(super) fn links(&mut self) -> bool {
        let dir = self.dir;
        let files = [
            dir.metrics(),
            dir.meta(),
            dir.config(),
            dir.run_log(),
            dir.console_log(),
            dir.events(),
        ];
        let folders = [dir.artifacts(), dir.hidden(), dir.spool(), dir.edits()];
        let hidden = names(&dir.hidden()).unwrap_or_default();
        let hidden = hidden.into_iter().map(|(_, path)| path);
        let hidden: Vec<_> = hidden.filter(|path| !folders.contains(path)).collect();
        let pieces = LogKind::ALL.map(|kind| pieces(dir, kind).unwrap_or_default());
        let pieces = pieces.into_iter().flatten().map(|piece| piece.path);
        let hidden: Vec<_> = hidden.into_iter().chain(pieces).collect();
        let is_there = |path: &Path| std::fs::symlink_metadata(path).ok();
        let no_file = |path: &&PathBuf| is_there(path).is_some_and(|meta| !meta.is_file());
        let no_folder = |path: &&PathBuf| is_there(path).is_some_and(|meta| !meta.is_dir());
        let wrong = files.iter().chain(&hidden).filter(no_file);
        let wrong: Vec<_> = wrong.chain(folders.iter().filter(no_folder)).collect();
        for path in &wrong {
            let what = format!(
                "{} is no plain file or folder; nothing is touched",
                path.display()
            );
            self.add(
                Severity::Damage,
                Code::NoPlainFile,
                (*path).clone(),
                what,
                false,
            );
        }
        !wrong.is_empty()
    }

    pub(super) fn spool(&mut self) {
        for (_, path) in names(&self.dir.spool()).unwrap_or_default() {
            if path.extension().is_none_or(|e| e != "spool") {
                continue;
            }
            let bytes = std::fs::metadata(&path).map_or(0, |m| m.len());
            let what = format!("{}: {bytes} bytes of a dead process wait", path.display());
            self.add(Severity::Warning, Code::Spool, path, what, true);
        }
    }

    /// Sums are derived from rows: one that is damaged is made anew, or removed.
    pub(super) fn sums(&mut self) {
        let Ok(hi) = segment::read_hi(&self.dir.metrics()) else {
            return; // which is told of
        };
        let strays = pyramid::strays(self.dir, hi).unwrap_or_default();
        for sum in self.dir.sums().unwrap_or_default() {
            let what = if strays.contains(&sum.path) {
                format!(
                    "{} is the sum of rows that have no file",
                    sum.path.display()
                )
            } else {
                match SumFile::open(&sum.path).and_then(|sum| sum.check()) {
                    Ok(()) => continue,
                    Err(e) => e.to_string(),
                }
            };
            self.add(Severity::Warning, Code::Sum, sum.path, what, true);
        }
    }

    pub(super) fn temporaries(&mut self) {
        let mut found = self.dir.temporaries().unwrap_or_default();
        found.extend(half_saved(&self.dir.artifacts()));
        for path in found {
            let what = format!("{} is half written, and nobody writes it", path.display());
            self.add(Severity::Warning, Code::Temporary, path, what, true);
        }
    }

    /// What the run says it saved is compared with what is there; names are looked up, never opened as they are.
    pub(super) fn artifacts(&mut self, events: &[Json]) {
        let Ok(there) = artifact::list(self.dir) else {
            return;
        };
        let there: HashMap<_, _> = there.into_iter().collect();
        let saved = events.iter().filter(|e| e["type"] == "artifact");
        let mut wrong = Vec::new();
        let mut seen = HashSet::new();
        for event in saved {
            let (Some(name), Some(size)) = (event["name"].as_str(), event["size"].as_u64()) else {
                continue;
            };
            if !seen.insert(name) {
                continue;
            }
            if check_artifact_name(name).is_err() {
                let what = format!("artifact {name:?} has a name that is not allowed");
                wrong.push((self.dir.artifacts(), what));
                continue;
            }
            let path = self.dir.artifacts().join(name);
            match there.get(name) {
                None => wrong.push((path, format!("artifact {name:?} is missing"))),
                Some(bytes) if *bytes != size => {
                    wrong.push((
                        path,
                        format!("artifact {name:?} has {bytes} bytes, and was saved with {size}"),
                    ));
                }
                Some(_) => match artifact::hash_of(&path) {
                    Ok(hash) if event["hash"] == hash.as_str() => {}
                    Ok(_) => wrong.push((path, format!("artifact {name:?} is not what was saved"))),
                    Err(e) => wrong.push((path, e.to_string())),
                },
            }
        }
        if wrong.len() > NAMED_MAX {
            let what = format!("and {} more artifacts", wrong.len() - NAMED_MAX);
            wrong.truncate(NAMED_MAX);
            wrong.push((self.dir.artifacts(), what));
        }
        for (path, what) in wrong {
            self.add(Severity::Damage, Code::Artifact, path, what, false);
        }
    }

    pub(super) fn copies(&mut self) {
        let dir = self.dir;
        let folders = [
            dir.root().to_owned(),
            dir.hidden(),
            dir.spool(),
            dir.edits(),
        ];
        let files = folders.iter().flat_map(|f| names(f).unwrap_or_default());
        let copies = files.filter(|(_, path)| path.extension().is_some_and(|e| e == "corrupt"));
        for (_, path) in copies.take(NAMED_MAX) {
            let what = format!(
                "{} is kept for a look; delete it when it is not needed",
                path.display()
            );
            self.add(Severity::Note, Code::Copy, path, what, false);
        }
    }
}

/// Copies of artifacts that were cut short.
fn half_saved(artifacts: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![artifacts.to_owned()];
    while let Some(folder) = open.pop() {
        for (name, path) in names(&folder).unwrap_or_default() {
            let Ok(meta) = std::fs::symlink_metadata(&path) else {
                continue;
            };
            if meta.is_dir() {
                open.push(path);
            } else if name.starts_with('.') && path.extension().is_some_and(|e| e == "tmp") {
                found.push(path);
            }
        }
    }
    found
}
