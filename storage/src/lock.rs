//! The run's lock: whoever holds it is the owner, the only writer.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use crate::durable;
use crate::error::{At, Result, StorageError};
use crate::layout::RunDir;

/// How long a new owner waits for readers that look whether the lock is held.
const PATIENCE: Duration = Duration::from_millis(500);

/// Held as long as it lives; the kernel releases it when the process dies.
#[derive(Debug)]
pub struct OwnerLock {
    _file: File,
    fence: Fence,
}

impl OwnerLock {
    /// Takes the lock of a run whose folder may not exist yet.
    ///
    /// # Errors
    /// When another owner holds it, or the file can't be made.
    pub fn take(dir: &RunDir) -> Result<Self> {
        durable::create_dir(&dir.hidden())?;
        let path = dir.lock();
        let start = Instant::now();
        loop {
            let file = durable::open_rw(&path)?;
            match file.try_lock() {
                Ok(()) => {
                    let meta = file.metadata().at("stat", &path)?;
                    let fence = Fence {
                        dir: dir.clone(),
                        id: (meta.dev(), meta.ino()),
                    };
                    // A file that was removed between the opening and the lock locks nobody out.
                    match fence.check() {
                        Ok(()) => return Ok(Self { _file: file, fence }),
                        Err(StorageError::Fenced { .. }) if start.elapsed() < PATIENCE => {}
                        Err(e) => return Err(e),
                    }
                }
                Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => return Err(StorageError::Locked { path }),
                Err(TryLockError::Error(e)) => return Err(e).at("lock", &path),
            }
        }
    }

    /// Whether the run's lock file is still the one that is held.
    ///
    /// # Errors
    /// As [`Fence::check`].
    pub fn still_ours(&self) -> Result<()> {
        self.fence.check()
    }

    /// What tells an owner that it is none any more.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }
}

/// Tells whether the lock that was taken is still the run's lock. Who was stopped for a while, and replaced by
/// another owner, learns it here before it writes over what that one wrote.
#[derive(Debug, Clone)]
pub struct Fence {
    dir: RunDir,
    id: (u64, u64),
}

impl Fence {
    /// Looks at the lock file: one system call.
    ///
    /// # Errors
    /// [`StorageError::Fenced`] when it is gone or another one, [`StorageError::Vanished`] when the run's folder
    /// is not there any more, any other error when it can't be told.
    pub fn check(&self) -> Result<()> {
        let path = self.dir.lock();
        match std::fs::metadata(&path) {
            Ok(meta) if (meta.dev(), meta.ino()) == self.id => Ok(()),
            Ok(_) => Err(StorageError::Fenced { path }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let hidden = self.dir.hidden();
                Err(match std::fs::metadata(&hidden) {
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => StorageError::Vanished {
                        path: self.dir.root().to_owned(),
                    },
                    _ => StorageError::Fenced { path },
                })
            }
            Err(e) => Err(e).at("stat", &path),
        }
    }
}

/// Whether an owner lives; false when the run was never owned.
#[must_use]
pub fn is_owned(dir: &RunDir) -> bool {
    let Ok(file) = durable::open_read(&dir.lock()) else {
        return false;
    };
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => true,
        Ok(()) | Err(TryLockError::Error(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_whose_lock_file_is_not_the_run_s_any_more_is_fenced() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path().join("run"));
        let first = OwnerLock::take(&dir).unwrap();
        first.still_ours().unwrap();
        std::fs::remove_file(dir.lock()).unwrap();
        let fenced =
            |lock: &OwnerLock| matches!(lock.still_ours(), Err(StorageError::Fenced { .. }));
        assert!(fenced(&first));
        let second = OwnerLock::take(&dir).unwrap();
        assert!(fenced(&first));
        second.still_ours().unwrap();
        std::fs::rename(dir.root(), tmp.path().join("elsewhere")).unwrap();
        assert!(matches!(
            second.still_ours(),
            Err(StorageError::Vanished { .. })
        ));
    }
}
