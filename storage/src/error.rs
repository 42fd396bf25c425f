//! What can go wrong with files; every message names the path.

use std::io;
use std::path::{Path, PathBuf};

use expman_model::{CodecError, NameError};

/// The error of this crate.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum StorageError {
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{path} is no readable Parquet file: {source}", path = path.display())]
    Parquet {
        path: PathBuf,
        source: parquet::errors::ParquetError,
    },
    #[error("columns of {path}: {source}", path = path.display())]
    Arrow {
        path: PathBuf,
        source: arrow::error::ArrowError,
    },
    #[error("{path} is no readable YAML: {what}", path = path.display())]
    Yaml { path: PathBuf, what: String },
    #[error("{path} is damaged at byte {offset}: {what}", path = path.display())]
    Damaged {
        path: PathBuf,
        offset: u64,
        what: String,
    },
    #[error("{path} is locked by another owner", path = path.display())]
    Locked { path: PathBuf },
    #[error("fenced: {path} is not the lock that was taken; another owner has the run", path = path.display())]
    Fenced { path: PathBuf },
    #[error("the run's folder {path} is gone: it was removed or renamed while the run was written", path = path.display())]
    Vanished { path: PathBuf },
    #[error("{path} already holds a run; resume it or choose another name", path = path.display())]
    Exists { path: PathBuf },
    #[error("{path} holds no run", path = path.display())]
    NoRun { path: PathBuf },
    #[error("rows {from} to {to} of {path} are missing", path = path.display())]
    MissingRows { path: PathBuf, from: u64, to: u64 },
    #[error("{path} was written by format {found}, this version reads up to {known}", path = path.display())]
    Format {
        path: PathBuf,
        found: u32,
        known: u32,
    },
    #[error("artifact {name:?} already stands at {path}", path = path.display())]
    ArtifactExists { name: String, path: PathBuf },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("a batch of {writer} can not be decoded: {source}")]
    Batch { writer: String, source: CodecError },
}

/// Result of this crate.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// Gives an I/O error the action and the path it lacks.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| StorageError::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|errno| StorageError::Io {
            action,
            path: path.to_owned(),
            source: errno.into(),
        })
    }
}

impl<T> At<T> for parquet::errors::Result<T> {
    fn at(self, _action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| StorageError::Parquet {
            path: path.to_owned(),
            source,
        })
    }
}

impl<T> At<T> for std::result::Result<T, arrow::error::ArrowError> {
    fn at(self, _action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| StorageError::Arrow {
            path: path.to_owned(),
            source,
        })
    }
}

impl StorageError {
    /// Whether the run can't be written by this process any more, whatever is tried again.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Fenced { .. } | Self::Vanished { .. })
    }

    /// Whether there was no room: what was written before is as good as ever.
    #[must_use]
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge))
    }

    /// Whether the file was simply not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
