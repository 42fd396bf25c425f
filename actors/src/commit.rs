//! The thread that owns the run's files: gathers batches, writes them at once, syncs, and reports.
//!
//! Group commit: what arrives within [`GROUP_AGE`] or [`GROUP_BYTES`] goes in one write; a sync follows at once when
//! somebody flushes or much is unsynced, and at the latest after [`GROUP_COMMIT`].

use std::time::{Duration, Instant};

use bytes::Bytes;
use expman_model::limits::{GROUP_BYTES, GROUP_COMMIT};
use expman_model::meta::LastFlush;
use expman_model::{EventBody, RankState, RunStatus, WriterId};
use expman_storage::run_writer::{Progress, Registered};
use expman_storage::{RunWriter, StorageError};
use tokio::sync::{mpsc, oneshot};

use crate::reply::answer;

/// How long a group is gathered.
const GROUP_AGE: Duration = Duration::from_millis(2);
/// Unsynced bytes that make a sync due, so that acknowledgements keep up with a flood.
const UNSYNCED_BYTES: usize = 2 << 20;
/// How often periodic work is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Pause between two attempts to write to a full disk.
const RETRY: Duration = Duration::from_millis(200);
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
        reply: oneshot::Sender<Registered>,
    },
    /// A batch of a writer.
    Batch { writer: u32, records: Bytes },
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
        done: Option<oneshot::Sender<Progress>>,
    },
    /// When a rank was last heard of.
    Seen { writer: u32, at_us: i64 },
    /// A line for `events.jsonl`.
    Event(EventBody),
    /// A barrier closed.
    Flushed(LastFlush),
    /// Bring everything into `metrics.parquet`.
    Publish(oneshot::Sender<()>),
    /// End the run; the thread ends with it.
    Finish(oneshot::Sender<Result<(), String>>),
}

/// Comes back when everything before it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SyncToken {
    pub(crate) writer: WriterId,
    pub(crate) index: u32,
    pub(crate) version: expman_model::Version,
}

/// What the thread reports after a sync.
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

/// Runs until the run is finished or its files fail; `report` gets every [`Committed`].
pub(crate) fn run(
    writer: RunWriter,
    mut commands: mpsc::Receiver<Command>,
    report: impl Fn(Committed),
) -> Ended {
    let mut thread = Thread {
        writer: Some(writer),
        touched: Vec::new(),
        tokens: Vec::new(),
        rejected: Vec::new(),
        unsynced: 0,
        dirty_since: None,
        urgent: false,
    };
    loop {
        match recv_timeout(&mut commands, TICK) {
            Received::Command(command) => {
                let start = Instant::now();
                let mut next = Some(command);
                let mut bytes = 0;
                while let Some(command) = next {
                    if let Command::Batch { records, .. } = &command {
                        bytes += records.len();
                    }
                    if thread.handle(command)? {
                        return Ok(());
                    }
                    let go_on = bytes < GROUP_BYTES && start.elapsed() < GROUP_AGE;
                    next = if go_on {
                        commands.try_recv().ok()
                    } else {
                        None
                    };
                }
            }
            Received::Nothing => {}
            Received::Closed => return thread.writer.take().map_or(Ok(()), |mut w| w.save()),
        }
        thread.commit(&report)?;
    }
}

enum Received {
    Command(Command),
    Nothing,
    Closed,
}

/// Waits for a command with a limit, parked.
fn recv_timeout(commands: &mut mpsc::Receiver<Command>, limit: Duration) -> Received {
    match commands.try_recv() {
        Ok(command) => return Received::Command(command),
        Err(mpsc::error::TryRecvError::Disconnected) => return Received::Closed,
        Err(mpsc::error::TryRecvError::Empty) => {}
    }
    let handle = tokio::runtime::Handle::current();
    match handle.block_on(async { tokio::time::timeout(limit, commands.recv()).await }) {
        Ok(Some(command)) => Received::Command(command),
        Ok(None) => Received::Closed,
        Err(_elapsed) => Received::Nothing,
    }
}

struct Thread {
    writer: Option<RunWriter>,
    touched: Vec<u32>,
    tokens: Vec<SyncToken>,
    rejected: Vec<(u32, String)>,
    unsynced: usize,
    dirty_since: Option<Instant>,
    urgent: bool,
}

impl Thread {
    /// Applies a command in memory; true when the run is finished.
    fn handle(&mut self, command: Command) -> Result<bool, StorageError> {
        let Some(w) = &mut self.writer else {
            return Ok(true);
        };
        match command {
            Command::Register {
                id,
                host,
                pid,
                reply,
            } => {
                let registered = w.register(id, &host, pid);
                self.dirty_since.get_or_insert_with(Instant::now);
                answer(reply, registered);
            }
            Command::Batch { writer, records } => match w.append(writer, &records) {
                Ok(_) => {
                    self.unsynced += records.len();
                    self.dirty_since.get_or_insert_with(Instant::now);
                    if !self.touched.contains(&writer) {
                        self.touched.push(writer);
                    }
                }
                Err(e @ StorageError::Batch { .. }) => self.rejected.push((writer, e.to_string())),
                Err(e) => return Err(e),
            },
            Command::Sync(token) => {
                self.tokens.push(token);
                self.urgent = true;
            }
            Command::Leave {
                writer,
                state,
                status,
                reason,
                done,
            } => {
                w.leave(writer, state, status, &reason);
                retry(|| w.save())?;
                if let Some(done) = done {
                    answer(done, w.progress(writer));
                }
            }
            Command::WorldSize(n) => w.set_world_size(n),
            Command::Seen { writer, at_us } => w.seen(writer, at_us),
            Command::Event(body) => w.event(body),
            Command::Flushed(flush) => w.flushed(flush),
            Command::Publish(reply) => {
                retry(|| w.publish_now())?;
                answer(reply, ());
            }
            Command::Finish(reply) => {
                if let Some(w) = self.writer.take() {
                    let done = w.finish();
                    let told = done.as_ref().copied().map_err(ToString::to_string);
                    answer(reply, told);
                    done?;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes the group; syncs and reports when that is due.
    fn commit(&mut self, report: &impl Fn(Committed)) -> Ended {
        let Some(w) = &mut self.writer else {
            return Ok(());
        };
        retry(|| w.write())?;
        let due = self.urgent
            || self.unsynced >= UNSYNCED_BYTES
            || self
                .dirty_since
                .is_some_and(|since| since.elapsed() >= GROUP_COMMIT);
        if due {
            w.sync()?;
            self.urgent = false;
            self.unsynced = 0;
            self.dirty_since = None;
            let writers = self
                .touched
                .drain(..)
                .map(|at| (at, w.progress(at)))
                .collect();
            let tokens = self
                .tokens
                .drain(..)
                .map(|t| (t, w.progress(t.index)))
                .collect();
            report(Committed {
                writers,
                tokens,
                rejected: std::mem::take(&mut self.rejected),
                rows: w.total(),
            });
        }
        retry(|| w.tick())
    }
}

/// Repeats work as long as the disk is full; whoever waits for it is held back meanwhile and nothing is acknowledged.
fn retry(mut work: impl FnMut() -> Result<(), StorageError>) -> Ended {
    loop {
        match work() {
            Err(StorageError::Io {
                action,
                path,
                source,
            }) if source.kind() == std::io::ErrorKind::StorageFull => {
                tracing::error!("{action} {}: {source}; trying again", path.display());
                std::thread::sleep(RETRY);
            }
            done => return done,
        }
    }
}
