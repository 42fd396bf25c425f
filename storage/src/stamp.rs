//! What tells that a file or a folder changed, without reading it.

use std::fmt;
use std::fs::{Metadata, symlink_metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::Stat;

/// Two that are equal mean that nothing was written in between: a file that is replaced has another inode, one that is
/// written another time or length, and a folder's time changes with every name in it that comes, goes or is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl FileStamp {
    /// Of what stands at a path now, a link itself and not what it leads to; none when nothing does.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        symlink_metadata(path).ok().as_ref().map(Self::from)
    }
}

impl From<&Metadata> for FileStamp {
    fn from(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        }
    }
}

impl From<&Stat> for FileStamp {
    fn from(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            bytes: stat.st_size.cast_unsigned(),
            modified: (stat.st_mtime, stat.st_mtime_nsec.cast_signed()),
        }
    }
}

impl fmt::Display for FileStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, nanos) = self.modified;
        write!(f, "{}-{}-{secs}.{nanos}", self.inode, self.bytes)
    }
}
