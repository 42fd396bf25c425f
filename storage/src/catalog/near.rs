//! Looking at many runs with few system calls: what stands in a folder is asked for relative to it, and the record of
//! a run that has ended, written as we write it, is believed without a look at the run's lock.
//!
//! Whatever is not plain here is left to the look that asks everything.

use std::os::fd::AsFd;
use std::path::Path;

use expman_model::RunMeta;
use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};

use super::entry::{DECLARED, RunEntry, RunKind};
use crate::layout::RunDir;
use crate::yaml;

/// Longer records are rare.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// What a run of ours has that has ended.
pub(super) struct Ended {
    pub(super) meta: RunMeta,
    /// Whether a folder of edits is there.
    pub(super) has_edits: bool,
    pub(super) has_metrics: bool,
}

/// Looks at a run folder below a folder that is open.
pub(super) fn ended(at: impl AsFd, run: &Path) -> Option<Ended> {
    let at = at.as_fd();
    let bytes = read(at, &run.join("run.yaml"))?;
    if !bytes.starts_with(&DECLARED) {
        return None;
    }
    let meta: RunMeta = yaml::quick(&bytes).filter(|meta: &RunMeta| meta.status.is_finished())?;
    // A link there may lead anywhere: edits are not read through one.
    let edits = stat(at, &run.join(".expman/edits"));
    let metrics = statat(at, run.join("metrics.parquet"), AtFlags::empty());
    Some(Ended {
        meta,
        has_edits: edits.is_some(),
        has_metrics: metrics.is_ok_and(|stat| is_file(&stat)),
    })
}

/// A run that has ended, as its record says.
pub(super) fn believed(experiment: &str, run: &str, root: &Path, ended: Ended) -> RunEntry {
    let dir = RunDir::at(root);
    let mut entry = RunEntry::new(experiment, run, dir, RunKind::Mesh, ended.meta);
    entry.complete(ended.has_edits, ended.has_metrics);
    entry
}

/// What stands there, a link itself and not what it leads to.
pub(super) fn stat(at: impl AsFd, path: &Path) -> Option<Stat> {
    statat(at, path, AtFlags::SYMLINK_NOFOLLOW).ok()
}

pub(super) fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// The bytes of a plain file: open, stat, read, close.
fn read(at: impl AsFd, path: &Path) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(at, path, flags, Mode::empty()).ok()?;
    let stat = fstat(&file).ok().filter(is_file)?;
    let size = usize::try_from(stat.st_size).ok()?;
    if size > RECORD_BYTES_MAX {
        return None;
    }
    // With room for more, a file that grew meanwhile is seen to have grown.
    let mut bytes = Vec::with_capacity(size + 1);
    let read = rustix::io::read(&file, spare_capacity(&mut bytes)).ok()?;
    (read == size).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use expman_model::{RankMeta, RankState, RunStatus};

    use super::*;
    use crate::edits::{Edit, edit_run};
    use crate::{Catalog, OwnerLock, durable};

    fn lay(dir: &RunDir, status: RunStatus) {
        durable::create_dir(&dir.hidden()).unwrap();
        durable::replace(&dir.metrics(), b"rows").unwrap();
        let rank = RankMeta {
            state: RankState::Left,
            status,
            accepted_seq: 3,
            durable_seq: 3,
            queued_bytes: 7,
            ..RankMeta::default()
        };
        let meta = RunMeta {
            format: 1,
            status,
            name: "of a copy".to_owned(),
            duration_secs: Some(1.5),
            ranks: [(0, vec![rank])].into(),
            ..RunMeta::default()
        };
        yaml::write(&dir.meta(), &meta).unwrap();
    }

    fn told(run: &RunEntry) -> String {
        format!("{run:?}")
    }

    #[test]
    fn what_is_seen_from_near_is_what_the_full_look_sees() {
        let tmp = tempfile::tempdir().unwrap();
        let run = |name: &str, status| {
            let dir = RunDir::under(tmp.path(), "e", name).unwrap();
            lay(&dir, status);
            dir
        };
        run("finished", RunStatus::Finished);
        run("failed", RunStatus::Failed);
        run("gone", RunStatus::Running);
        let _lock = OwnerLock::take(&run("live", RunStatus::Running)).unwrap();
        fs::remove_dir(run("copied", RunStatus::Finished).hidden()).unwrap();
        fs::remove_file(run("no-metrics", RunStatus::Finished).metrics()).unwrap();
        fs::remove_file(run("no-record", RunStatus::Finished).meta()).unwrap();
        let wrong = [
            ("empty", ""),
            ("damaged", "format: 1\nstatus: [\n"),
            ("by-hand", "format:   1\nstatus:   failed # so\n"),
            ("reordered", "status: finished\nformat: 1\n"),
            ("of-another-tool", "status: COMPLETED\n"),
        ];
        for (name, text) in wrong {
            let dir = run(name, RunStatus::Finished);
            durable::replace(&dir.meta(), text.as_bytes()).unwrap();
        }
        let linked = run("linked", RunStatus::Finished);
        fs::rename(linked.meta(), tmp.path().join("outside.yaml")).unwrap();
        symlink(tmp.path().join("outside.yaml"), linked.meta()).unwrap();
        // An edit that the owner did not take in any more.
        let edited = run("edited", RunStatus::Finished);
        let lock = OwnerLock::take(&edited).unwrap();
        let edit = Edit {
            description: Some(Some("seen".to_owned())),
            ..Edit::default()
        };
        edit_run(&edited, &edit).unwrap();
        drop(lock);

        let catalog = Catalog::new(tmp.path());
        let full: Vec<_> = catalog.runs(None).unwrap().iter().map(told).collect();
        assert_eq!(full.len(), 14);
        assert_eq!(catalog.each(None, |run| told(&run)).unwrap(), full);
        let places = catalog.places(Some("e")).unwrap();
        let opened: Vec<_> = places.iter().map(|place| told(&place.open())).collect();
        assert_eq!(opened, full);
        let near = |name: &str| ended(rustix::fs::CWD, &tmp.path().join("e").join(name)).is_some();
        assert!(near("finished") && near("copied") && near("edited") && near("no-metrics"));
        assert!(!near("live") && !near("gone") && !near("by-hand") && !near("linked"));
        assert_eq!(catalog.each(Some("no"), |run| told(&run)).unwrap().len(), 0);
    }
}
