//! How a process joins its run, and how it asks for a flush.

use std::path::PathBuf;
use std::time::Duration;

use expman_model::limits::{BATCH_AGE, FLUSH_TIMEOUT, JOIN_TIMEOUT};
use expman_model::{FlushScope, RunMeta};
use serde::{Deserialize, Serialize};

use crate::join::OwnerMode;

/// What happens when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFull {
    /// The call returns at once; the record becomes part of a counted gap.
    #[default]
    Drop,
    /// The call waits for room, at most this long.
    Block(Duration),
}

/// How to join or make a run.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// The experiment, a folder below `base_dir`.
    pub experiment: String,
    /// The run, a folder below the experiment; by default the local time.
    pub run_name: Option<String>,
    /// Where experiments are kept.
    pub base_dir: PathBuf,
    /// This process's rank; by default 0 for the first process, then the next free one.
    pub rank: Option<u32>,
    /// Number of ranks of the launch, where known.
    pub world_size: Option<u32>,
    /// Equal in all processes of one launch; by default random, so that the process is alone.
    pub launch_key: Option<String>,
    /// Joins a run of this name even if another launch made it.
    pub resume: bool,
    /// Where the run's owner lives.
    pub owner: OwnerMode,
    /// What a new run's record says of its origin.
    pub origin: RunMeta,
    /// When the queue is full.
    pub on_full: OnFull,
    /// Captures descriptors 1 and 2.
    pub capture: bool,
    /// How long records are gathered before they are sent.
    pub batch_age: Duration,
    /// Deadline of joining.
    pub timeout: Duration,
}

impl RunConfig {
    /// A run of this experiment, alone, with its owner in this process.
    #[must_use]
    pub fn new(experiment: impl Into<String>) -> Self {
        Self {
            experiment: experiment.into(),
            run_name: None,
            base_dir: PathBuf::from("experiments"),
            rank: None,
            world_size: None,
            launch_key: None,
            resume: false,
            owner: OwnerMode::InProcess,
            origin: RunMeta {
                language: Some("rust".to_owned()),
                command: std::env::args().collect(),
                ..RunMeta::default()
            },
            on_full: OnFull::Drop,
            capture: false,
            batch_age: BATCH_AGE,
            timeout: JOIN_TIMEOUT,
        }
    }

    /// Keeps experiments in this folder.
    #[must_use]
    pub fn base_dir(mut self, base_dir: impl Into<PathBuf>) -> Self {
        self.base_dir = base_dir.into();
        self
    }
}

/// What lets a child process join the run of its parent, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunHandle {
    /// The run's folder.
    pub run_dir: PathBuf,
    /// See [`RunConfig::launch_key`].
    pub launch_key: String,
}

/// Options of a flush.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlushOptions {
    /// Who must be durable.
    pub scope: FlushScope,
    /// Deadline.
    pub timeout: Duration,
    /// Also bring everything into `metrics.parquet`.
    pub publish: bool,
    /// A name for this cut.
    pub tag: Option<String>,
}

impl Default for FlushOptions {
    fn default() -> Self {
        Self {
            scope: FlushScope::Run,
            timeout: FLUSH_TIMEOUT,
            publish: false,
            tag: None,
        }
    }
}
