//! The run's lock: whoever holds it is the owner, the only writer.

use std::fs::{File, TryLockError};
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
}

impl OwnerLock {
    /// Takes the lock of a run whose folder may not exist yet.
    ///
    /// # Errors
    /// When another owner holds it, or the file can't be made.
    pub fn take(dir: &RunDir) -> Result<Self> {
        durable::create_dir(&dir.hidden())?;
        let path = dir.lock();
        let file = durable::open_rw(&path)?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => return Err(StorageError::Locked { path }),
                Err(TryLockError::Error(e)) => return Err(e).at("lock", &path),
            }
        }
    }
}

/// Whether an owner lives; false when the run was never owned.
#[must_use]
pub fn is_owned(dir: &RunDir) -> bool {
    let Ok(file) = crate::plain::open(&dir.lock()) else {
        return false;
    };
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => true,
        Ok(()) | Err(TryLockError::Error(_)) => false,
    }
}
