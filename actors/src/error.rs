//! What can go wrong between a process and its run.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use expman_model::{CodecError, NameError};
use expman_storage::StorageError;

/// The error of this crate.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum MeshError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("run {name:?} already exists at {path}; pass resume=True to continue it, or choose another name", path = path.display())]
    RunExists { name: String, path: PathBuf },
    #[error("the run's owner refused this process: {0}")]
    Refused(String),
    #[error("the run's owner could not be started: {0}")]
    OwnerStart(String),
    #[error("the run's owner ended: {0}")]
    OwnerEnd(String),
    #[error("the run at {path} still has living processes ({processes}): end them first", path = path.display())]
    StillLive { path: PathBuf, processes: String },
    #[error("the run at {path} could not be joined within {waited:?}: {why}", path = path.display())]
    JoinTimeout {
        path: PathBuf,
        waited: Duration,
        why: String,
    },
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the link is broken: {0}")]
    Link(io::Error),
    #[error("the other side sent what this version does not understand: {0}")]
    Protocol(String),
    #[error("a frame of {bytes} bytes is over the limit of {max}")]
    FrameTooLarge { bytes: usize, max: usize },
    #[error("the run is closed")]
    Closed,
    #[error("the run belongs to the process that this one was forked from")]
    Forked,
    #[error("the flush did not get an answer within {0:?}")]
    FlushTimeout(Duration),
    #[error("the run's owner did not answer within {waited:?}: {what}")]
    NoAnswer {
        what: &'static str,
        waited: Duration,
    },
    #[error("{what} was not finished within {waited:?}: {left}")]
    CloseTimeout {
        what: &'static str,
        waited: Duration,
        left: String,
    },
    #[error("actor: {0}")]
    Actor(String),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Result of this crate.
pub type Result<T, E = MeshError> = std::result::Result<T, E>;

impl MeshError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
