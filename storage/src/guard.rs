//! Files for which no checksum of ours vouches, and whose decoders panic at some kinds of damage.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::error::{Result, StorageError};

/// Reads a file with a foreign decoder; a panic of it is damage of this file and nothing else.
pub(crate) fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().map(String::as_str);
        let what = what
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("it can't be decoded");
        Err(StorageError::Damaged {
            path: path.to_owned(),
            offset: 0,
            what: what.to_owned(),
        })
    })
}
