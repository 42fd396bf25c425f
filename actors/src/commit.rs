//! The thread that owns the run's files: gathers batches, writes them at once, syncs, and reports.
//!
//! Group commit: what arrives within [`GROUP_AGE`] or [`GROUP_BYTES`] goes in one write; a sync follows at once when
//! somebody flushes or much is unsynced, and at the latest after [`GROUP_COMMIT`].
//!
//! An error of the disk does not end it: it goes on taking commands, which the links' credit bounds, says what is the
//! matter, and tries again. Who leaves, publishes or closes the run is answered when that is really done.

mod closing;
mod import;
mod thread;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use expman_model::forwarding::Forwarding;
use expman_model::meta::LastFlush;
use expman_model::{EventBody, Health, RankState, RunStatus, WriterId};
use expman_storage::StorageError;
use expman_storage::run_writer::{Progress, Registered};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::ring::receipt::Receipt;

pub(crate) use self::import::{Import, Orphan, orphans};
pub(crate) use self::thread::run;

/// Commands that may wait; links are held back by their credit long before.
pub(crate) const QUEUE: usize = 4096;

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// A process joins.
    Register {
        id: WriterId,
        host: String,
        pid: u32,
        /// Where it finds how far it is written; who has none is told by a report.
        receipt: Option<Receipt>,
        reply: oneshot::Sender<Registered>,
    },
    /// A batch of a writer.
    Batch {
        writer: u32,
        records: Bytes,
        /// Given back when they are durable.
        allowed: Option<OwnedSemaphorePermit>,
    },
    /// Everything before this must be durable; the token comes back.
    Sync(SyncToken),
    /// A launch announced its number of ranks.
    WorldSize(u32),
    /// A rank is gone.
    Leave {
        writer: u32,
        state: RankState,
        status: RunStatus,
        reason: String,
        /// What its dead process left is brought in first.
        remains: Option<Remains>,
        done: Option<oneshot::Sender<Progress>>,
    },
    /// A process that was given up, or has left, is dead now: what it left is brought in.
    Import { writer: u32, remains: Remains },
    /// What a rank tells of its sending.
    Health { writer: u32, health: Health },
    /// When a rank was last heard of.
    Seen { writer: u32, at_us: i64 },
    /// Which text is forwarded from now on, and who wanted it so.
    Forwarding { rank: u32, forwarding: Forwarding },
    /// A rank fell silent.
    Silent {
        writer: u32,
        silent: Duration,
        others_step: i64,
    },
    /// It logs again.
    Back { writer: u32, silent: Duration },
    /// A line for `events.jsonl`.
    Event(EventBody),
    /// A barrier closed, and perhaps the line of when it was opened; answered when that is written, or can't be.
    Flushed {
        opened: Option<EventBody>,
        flush: LastFlush,
        done: oneshot::Sender<()>,
    },
    /// Bring everything into `metrics.parquet`.
    Publish(oneshot::Sender<()>),
    /// End the run; the thread ends with it.
    Finish(oneshot::Sender<Result<(), String>>),
}

/// What is left of a dead process besides its spool files.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// The queue that it shared with the owner.
    pub(crate) ring: Option<Arc<OwnedFd>>,
}

/// Comes back when everything before it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SyncToken {
    pub(crate) writer: WriterId,
    pub(crate) index: u32,
    pub(crate) version: expman_model::Version,
}

/// What the thread reports.
#[derive(Debug)]
pub(crate) enum Report {
    /// Last sequence numbers that outlive the processes, by writer, of those that can't see it in their ring.
    Written(Vec<(u32, u64)>),
    /// After a sync.
    Committed(Committed),
    /// What keeps it from writing; empty when that is over.
    Trouble(String),
}

/// See [`Report::Committed`].
#[derive(Debug)]
pub(crate) struct Committed {
    /// Writers whose batches became durable, and how far they are.
    pub(crate) writers: Vec<(u32, Progress)>,
    /// Tokens in front of which everything is durable.
    pub(crate) tokens: Vec<(SyncToken, Progress)>,
    /// Batches that were no records: whose, and why.
    pub(crate) rejected: Vec<(u32, String)>,
    /// Rows of the run.
    pub(crate) rows: u64,
}

/// Why the thread ended.
pub(crate) type Ended = Result<(), StorageError>;
