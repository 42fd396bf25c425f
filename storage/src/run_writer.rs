//! The only writer of a run's files.
//!
//! `append` changes memory, `write` puts text and frames into the files, `sync` makes them durable;
//! after an error the same call may be repeated, because every write goes to a known place.
//! Nothing is acknowledged before `sync` returned.

mod append;
mod closing;
mod ends;
mod files;
mod log;
#[cfg(test)]
mod machine;
mod roll;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use expman_model::meta::LastFlush;
use expman_model::time::{rfc3339_us, wall_clock};
use expman_model::{EventBody, Health, RankMeta, RankState, RunMeta, RunStatus, WriterId};

pub(crate) use self::append::apply_others;
pub(crate) use self::log::{Log, header};
pub(crate) use self::trouble::Chores;
use crate::events::EventLog;
use crate::goodbyes::Goodbyes;
use crate::layout::RunDir;
use crate::lock::Fence;
use crate::rows::Rows;
use crate::sealer::Sealer;
use crate::state::RunState;
use crate::text::{Packer, TextFile};
use crate::wal::FrameEncoder;

/// The format number of commit logs.
pub(crate) const WAL_FORMAT: u32 = 2;
/// A live run is published when it is this much older than at the last publication: a twentieth of its age,
/// within these bounds, so that the number of row groups grows with the logarithm of the age.
const PUBLISH_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// `run.yaml` is written at most this often while the run changes.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// … and takes no more than this part of the time, up to a pause of `SAVE_PAUSE_MAX`: it has a record of each rank.
const SAVE_SHARE: u32 = 20;
const SAVE_PAUSE_MAX: Duration = Duration::from_secs(10);
/// Events that wait for a file that can't be written; what comes then is counted.
const EVENTS_MAX: usize = 10_000;

/// What a writer learns when it joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// Names the writer in `append`.
    pub index: u32,
    /// Which incarnation of its rank this is.
    pub attempt: u32,
    /// Everything up to here is durable already.
    pub durable_seq: u64,
}

/// What one writer has stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Last sequence number in the files.
    pub applied_seq: u64,
    /// Last durable one.
    pub durable_seq: u64,
    /// Greatest step.
    pub last_step: Option<i64>,
}

/// A writer that has neither left nor been given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveWriter {
    /// Names it in `append`.
    pub index: u32,
    /// Who it is.
    pub id: WriterId,
    /// Where it runs.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// When it joined.
    pub joined: SystemTime,
    /// How far it is.
    pub progress: Progress,
}

/// See the module.
#[derive(Debug)]
pub struct RunWriter {
    pub(crate) dir: RunDir,
    pub(crate) fence: Fence,
    pub(crate) state: RunState,
    pub(crate) events: EventLog,
    pub(crate) pending_events: Vec<EventBody>,
    pub(crate) goodbyes: Goodbyes,
    pub(crate) chores: Chores,
    /// Rows behind the segments, `[lo, lo + rows.len())`.
    pub(crate) rows: Rows,
    /// The emptied table of a segment that was made.
    pub(crate) spare: Option<Box<Rows>>,
    pub(crate) lo: u64,
    pub(crate) log: Log,
    /// The last number that a log's name was given: no name is used twice.
    pub(crate) generation: u64,
    pub(crate) encoder: FrameEncoder,
    pub(crate) run_log: TextFile,
    pub(crate) console_log: TextFile,
    pub(crate) packer: Packer,
    /// Bytes of a text file beyond which it is rolled.
    pub(crate) roll_bytes: u64,
    /// The name that stood behind each name last, and in front of all, the one that began a call: most calls repeat
    /// the one before.
    pub(crate) guess: Vec<u32>,
    pub(crate) sealer: Sealer,
    /// Rows and bytes of `metrics.parquet`.
    pub(crate) published: (u64, u64),
    /// Rows that somebody waits to find there.
    pub(crate) wanted: u64,
    /// All rows are in one sorted file: the run is about to end.
    pub(crate) merged: bool,
    pub(crate) end_us: Option<i64>,
    pub(crate) published_at: Instant,
    pub(crate) opened_at: Instant,
    pub(crate) saved_at: Instant,
    /// How long the last save took.
    pub(crate) save_took: Duration,
}

impl RunWriter {
    /// The run's folder.
    #[must_use]
    pub const fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// The run's record as it stands, without the lists of metrics and ranks.
    #[must_use]
    pub const fn meta(&self) -> &RunMeta {
        &self.state.meta
    }

    /// Rows that the run has.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.lo + self.rows.len() as u64
    }

    /// Knows a writer from now on; one that comes back gets its old index.
    pub fn register(&mut self, id: WriterId, host: &str, pid: u32) -> Registered {
        let (index, new) = self.state.register(id, host, pid);
        let writer = &mut self.state.writers[index as usize];
        if new {
            FrameEncoder::writer(&mut self.log.pending, &writer.wal_writer());
            let attempt = writer.meta.attempt;
            self.event(EventBody::RankJoined {
                rank: id.rank,
                incarnation: id.incarnation,
                attempt,
                host: host.to_owned(),
                pid,
            });
        } else if writer.meta.state == RankState::Lost {
            writer.meta.status = RunStatus::Running;
            writer.meta.left_at = None;
            self.state.set(index, RankState::Live);
            self.state.dirty = true;
            self.goodbyes.back.push(index);
        }
        let meta = &self.state.writers[index as usize].meta;
        Registered {
            index,
            attempt: meta.attempt,
            durable_seq: meta.durable_seq,
        }
    }

    /// The index of a writer that the run knows.
    #[must_use]
    pub fn find(&self, id: WriterId) -> Option<u32> {
        self.state.index.get(&id).copied()
    }

    /// Who a writer is.
    #[must_use]
    pub fn id(&self, writer: u32) -> WriterId {
        self.state.writers[writer as usize].id
    }

    /// Whether a writer has neither left nor been given up.
    #[must_use]
    pub fn is_live(&self, writer: u32) -> bool {
        self.state.writers[writer as usize].meta.state == RankState::Live
    }

    /// Whether a writer closed in good order: nothing follows from it.
    #[must_use]
    pub fn has_left(&self, writer: u32) -> bool {
        self.state.writers[writer as usize].meta.state == RankState::Left
    }

    /// How far a writer is.
    #[must_use]
    pub fn progress(&self, writer: u32) -> Progress {
        let w = &self.state.writers[writer as usize];
        Progress {
            applied_seq: w.applied_seq,
            durable_seq: w.meta.durable_seq,
            last_step: w.meta.last_step,
        }
    }

    /// The last number that a writer is known to have given.
    #[must_use]
    pub fn accepted_seq(&self, writer: u32) -> u64 {
        let w = &self.state.writers[writer as usize];
        w.meta.accepted_seq.max(w.applied_seq)
    }

    /// Adds a line to `events.jsonl` with the next write.
    pub fn event(&mut self, body: EventBody) {
        if self.pending_events.len() < EVENTS_MAX {
            self.pending_events.push(body);
        } else {
            tracing::error!("no room for the event {body:?}");
        }
    }

    /// Takes in what a rank's process tells of its sending.
    pub fn health(&mut self, writer: u32, health: Health) {
        let w = &mut self.state.writers[writer as usize];
        let known = w.health.replace(health.clone()).unwrap_or_default();
        w.meta.accepted_seq = w.meta.accepted_seq.max(health.accepted_seq);
        w.meta.queued_bytes = health.queued_bytes;
        w.meta.spooled_bytes = health.spooled_bytes;
        w.meta.reconnects = health.reconnects;
        w.meta.last_error.clone_from(&health.last_error);
        let id = w.id;
        self.state.dirty = true;
        if health.differs_in_trouble(&known) {
            self.event(EventBody::RankHealth {
                rank: id.rank,
                incarnation: id.incarnation,
                dropped: health.dropped,
                queued_bytes: health.queued_bytes,
                spooled_bytes: health.spooled_bytes,
                last_error: health.last_error,
            });
        }
    }

    /// Notes when a rank was last heard of.
    pub fn seen(&mut self, writer: u32, at_us: i64) {
        self.state.writers[writer as usize].meta.last_seen = Some(rfc3339_us(at_us));
    }

    /// Notes how the last barrier ended.
    pub fn flushed(&mut self, flush: LastFlush) {
        let LastFlush {
            version,
            complete,
            elapsed_secs,
            ref missing,
            ref tag,
            ..
        } = flush;
        self.event(EventBody::FlushClosed {
            version,
            complete,
            missing: missing.clone(),
            elapsed_secs,
            tag: tag.clone(),
        });
        if self
            .state
            .meta
            .last_flush
            .as_ref()
            .is_none_or(|last| last.version <= flush.version)
        {
            self.state.meta.last_flush = Some(flush);
        }
        self.state.dirty = true;
    }

    /// Writers that have neither left nor been given up: after a recovery, those that may come back.
    #[must_use]
    pub fn live(&self) -> Vec<LiveWriter> {
        let live = self
            .state
            .writers
            .iter()
            .zip(0u32..)
            .filter(|(w, _)| w.meta.state == RankState::Live);
        live.map(|(w, index)| LiveWriter {
            index,
            id: w.id,
            host: w.meta.host.clone(),
            pid: w.meta.pid,
            joined: wall_clock(w.meta.joined_at.as_deref()),
            progress: self.progress(index),
        })
        .collect()
    }

    /// Every incarnation of every rank, as `run.yaml` has it.
    #[must_use]
    pub fn ranks_told(&self) -> BTreeMap<u32, Vec<RankMeta>> {
        let mut ranks: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for w in &self.state.writers {
            ranks.entry(w.id.rank).or_default().push(w.meta.clone());
        }
        ranks
    }

    /// Every rank that ever joined.
    #[must_use]
    pub fn ranks(&self) -> BTreeSet<u32> {
        self.state.writers.iter().map(|w| w.id.rank).collect()
    }

    /// Announces the number of ranks of the launch.
    pub const fn set_world_size(&mut self, world_size: u32) {
        self.state.meta.world_size = Some(world_size);
        self.state.dirty = true;
    }
}
