//! The only writer of a run's files.
//!
//! `append` changes memory, `write` puts text and frames into the files, `sync` makes them durable;
//! after an error the same call may be repeated, because every write goes to a known place.
//! Nothing is acknowledged before `sync` returned.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use expman_model::codec::Reader;
use expman_model::limits::{CLOSE_MERGE_ROWS, SEAL_BYTES, SEAL_ROWS};
use expman_model::meta::LastFlush;
use expman_model::record::{KIND_METRICS, RecordHead, take_value};
use expman_model::time::{now_us, parse_rfc3339, rfc3339_us};
use expman_model::{
    CodecError, EventBody, RankState, Record, RecordBody, RunMeta, RunStatus, WriterId,
};

use crate::error::{At, Result, StorageError};
use crate::events::EventLog;
use crate::layout::RunDir;
use crate::reader::{Filter, snapshot};
use crate::rows::{Row, Rows};
use crate::sealer::{Done, Job, Sealer, remove};
use crate::state::RunState;
use crate::text::{self, TextFile};
use crate::wal::{BatchHead, FrameEncoder, WalHeader};
use crate::{durable, segment, yaml};

/// The format number of commit logs.
pub(crate) const WAL_FORMAT: u32 = 1;
/// A live run is published when it is this much older than at the last publication: a twentieth of its age,
/// within these bounds, so that the number of row groups grows with the logarithm of the age.
const PUBLISH_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// `run.yaml` is written at most this often while the run changes.
const SAVE_EVERY: Duration = Duration::from_secs(1);

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

/// The commit log that is being written.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) generation: u64,
    pub(crate) written: u64,
    pub(crate) pending: Vec<u8>,
    pub(crate) dirty: bool,
}

/// See the module.
#[derive(Debug)]
pub struct RunWriter {
    pub(crate) dir: RunDir,
    pub(crate) state: RunState,
    pub(crate) events: EventLog,
    pub(crate) pending_events: Vec<EventBody>,
    /// Rows behind the segments, `[lo, lo + rows.len())`.
    pub(crate) rows: Rows,
    pub(crate) lo: u64,
    pub(crate) log: Log,
    pub(crate) encoder: FrameEncoder,
    pub(crate) run_log: TextFile,
    pub(crate) console_log: TextFile,
    /// For each place in a call, the name that stood there last: most calls repeat the one before.
    pub(crate) guess: Vec<u32>,
    pub(crate) sealer: Sealer,
    /// Rows and bytes of `metrics.parquet`.
    pub(crate) published: (u64, u64),
    pub(crate) published_at: Instant,
    pub(crate) opened_at: Instant,
    pub(crate) saved_at: Instant,
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
            self.pending_events.push(EventBody::RankJoined {
                rank: id.rank,
                incarnation: id.incarnation,
                attempt,
                host: host.to_owned(),
                pid,
            });
        } else if writer.meta.state == RankState::Lost {
            writer.meta.state = RankState::Live;
            writer.meta.status = RunStatus::Running;
            writer.meta.left_at = None;
        }
        Registered {
            index,
            attempt: writer.meta.attempt,
            durable_seq: writer.meta.durable_seq,
        }
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

    /// Takes in a batch: the bytes of whole records in rising order. Records that are known already are dropped.
    ///
    /// Returns the writer's last applied sequence number; nothing of it is in the files yet.
    ///
    /// # Errors
    /// When the bytes are no records; nothing of the batch is then taken.
    pub fn append(&mut self, writer: u32, body: &[u8]) -> Result<u64> {
        let from = self.rows.len();
        let ends = (
            self.run_log.pending().len(),
            self.console_log.pending().len(),
        );
        let mut others = Vec::new();
        match self.read_records(writer, body, &mut others) {
            Ok(upto) => self.commit(writer, from, upto, &others),
            Err(source) => {
                self.rows.truncate(from);
                self.run_log.pending().truncate(ends.0);
                self.console_log.pending().truncate(ends.1);
                Err(StorageError::Batch {
                    writer: self.state.writers[writer as usize].id.to_string(),
                    source,
                })
            }
        }
    }

    fn read_records(
        &mut self,
        writer: u32,
        mut body: &[u8],
        others: &mut Vec<u8>,
    ) -> Result<u64, CodecError> {
        let w = &self.state.writers[writer as usize];
        let (rank, attempt, mut upto) = (w.id.rank, w.meta.attempt, w.applied_seq);
        while !body.is_empty() {
            let (head, inner) = RecordHead::split(body)?;
            let (record, rest) = body.split_at(4 + head.length);
            body = rest;
            if head.seq <= upto {
                continue;
            }
            upto = head.seq;
            if head.kind == KIND_METRICS {
                let row = Row {
                    key: "",
                    rank,
                    step: None,
                    timestamp_us: head.timestamp_us,
                    attempt,
                    seq: head.seq,
                    value: expman_model::record::ValueRef::Bool(false),
                };
                self.read_metrics(inner, row)?;
                continue;
            }
            match Record::decode(record)?.0.body {
                RecordBody::Message {
                    level,
                    logger,
                    text,
                } => {
                    text::put_message(
                        self.run_log.pending(),
                        head.timestamp_us,
                        rank,
                        level,
                        &logger,
                        &text,
                    );
                }
                RecordBody::Console {
                    stream,
                    ends_line,
                    bytes,
                } => {
                    text::put_console(
                        self.console_log.pending(),
                        head.timestamp_us,
                        rank,
                        head.seq,
                        stream,
                        ends_line,
                        &bytes,
                    );
                }
                _ => others.extend_from_slice(record),
            }
        }
        Ok(upto)
    }

    fn read_metrics(&mut self, inner: &[u8], mut row: Row<'_>) -> Result<(), CodecError> {
        let mut r = Reader::new(inner);
        let has_step = r.u8("step flag")? != 0;
        let step = r.i64("step")?;
        row.step = has_step.then_some(step);
        let points = r.u32("point count")? as usize;
        for place in 0..points {
            let name = r.str("metric name")?;
            let value = take_value(&mut r)?;
            let key = match self.guess.get(place) {
                Some(&id) if **self.rows.keys.name(id) == *name => id,
                _ => {
                    let id = self.rows.keys.intern(name);
                    if place < self.guess.len() {
                        self.guess[place] = id;
                    } else if place == self.guess.len() {
                        self.guess.push(id);
                    }
                    id
                }
            };
            self.rows.push(
                key,
                &Row {
                    key: "",
                    value,
                    ..row
                },
            );
        }
        if r.is_empty() {
            Ok(())
        } else {
            Err(CodecError::Unknown {
                what: "bytes behind a record",
                value: r.rest().len() as u64,
            })
        }
    }

    fn commit(&mut self, writer: u32, from: usize, upto_seq: u64, others: &[u8]) -> Result<u64> {
        if self.state.writers[writer as usize].applied_seq == upto_seq {
            return Ok(upto_seq);
        }
        let head = BatchHead {
            writer,
            upto_seq,
            text_ends: [self.run_log.end(), self.console_log.end()],
        };
        self.encoder
            .batch(&mut self.log.pending, &head, &self.rows, from, others)
            .at("compress a frame of", &self.log.path)?;
        self.state.apply_rows(writer, &self.rows, from);
        let told = apply_others(&mut self.state, writer, others)?;
        self.pending_events.extend(told);
        let w = &mut self.state.writers[writer as usize];
        w.applied_seq = upto_seq;
        w.meta.accepted_seq = upto_seq;
        Ok(upto_seq)
    }

    /// Bytes that `write` would write now.
    #[must_use]
    pub const fn pending_bytes(&self) -> usize {
        self.log.pending.len()
    }

    /// Puts text, then frames, then events into the files.
    ///
    /// # Errors
    /// When a write fails; it may be called again.
    pub fn write(&mut self) -> Result<()> {
        self.run_log.write()?;
        self.console_log.write()?;
        if !self.log.pending.is_empty() {
            self.log
                .file
                .write_all_at(&self.log.pending, self.log.written)
                .at("write", &self.log.path)?;
            self.log.written += self.log.pending.len() as u64;
            self.log.pending.clear();
            self.log.dirty = true;
        }
        while let Some(event) = self.pending_events.first() {
            self.events.append(event.clone())?;
            self.pending_events.remove(0);
        }
        Ok(())
    }

    /// Makes everything that was appended durable.
    ///
    /// # Errors
    /// When a write or a sync fails; nothing new counts as durable then.
    pub fn sync(&mut self) -> Result<()> {
        self.write()?;
        self.run_log.sync()?;
        self.console_log.sync()?;
        if self.log.dirty {
            self.log.file.sync_data().at("sync", &self.log.path)?;
            self.log.dirty = false;
        }
        for w in &mut self.state.writers {
            w.meta.durable_seq = w.applied_seq;
        }
        Ok(())
    }

    /// Whether something was written that is not durable yet.
    #[must_use]
    pub const fn is_dirty(&self) -> bool {
        self.log.dirty || !self.log.pending.is_empty()
    }

    /// Adds a line to `events.jsonl` with the next write.
    pub fn event(&mut self, body: EventBody) {
        self.pending_events.push(body);
    }

    /// Notes that a rank is gone.
    pub fn leave(&mut self, writer: u32, state: RankState, status: RunStatus, reason: &str) {
        let w = &mut self.state.writers[writer as usize];
        w.meta.state = state;
        if w.meta.status == RunStatus::Running {
            w.meta.status = status;
        }
        w.meta.left_at = Some(rfc3339_us(now_us()));
        let (rank, incarnation, seq) = (w.id.rank, w.id.incarnation, w.applied_seq);
        let event = match state {
            RankState::Lost => EventBody::RankLost {
                rank,
                incarnation,
                seq,
                last_step: w.meta.last_step,
                reason: reason.to_owned(),
            },
            _ => EventBody::RankLeft {
                rank,
                incarnation,
                status: w.meta.status,
                seq,
            },
        };
        self.pending_events.push(event);
        self.state.dirty = true;
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
        self.pending_events.push(EventBody::FlushClosed {
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

    /// Changes the run's status.
    pub fn set_status(&mut self, to: RunStatus) {
        let from = self.state.meta.status;
        if from == to {
            return;
        }
        match from.transition(to) {
            Ok(to) => {
                self.state.meta.status = to;
                if to.is_finished() {
                    let now = now_us();
                    self.state.meta.finished_at = Some(rfc3339_us(now));
                    let start = self
                        .state
                        .meta
                        .started_at
                        .as_deref()
                        .and_then(parse_rfc3339);
                    #[expect(
                        clippy::cast_precision_loss,
                        reason = "microseconds of a run are far below 2^53"
                    )]
                    let secs = start.map(|start| (now - start).max(0) as f64 / 1e6);
                    self.state.meta.duration_secs = secs;
                } else {
                    self.state.meta.finished_at = None;
                    self.state.meta.duration_secs = None;
                }
                let message = self.state.meta.error.as_ref().map(|e| e.message.clone());
                self.pending_events
                    .push(EventBody::Status { from, to, message });
                self.state.dirty = true;
            }
            Err(e) => tracing::error!("status kept: {e}"),
        }
    }

    /// Writes `config.yaml` and `run.yaml`, behind everything they are made of.
    ///
    /// # Errors
    /// When a sync or a write fails.
    pub fn save(&mut self) -> Result<()> {
        self.sync()?;
        if self.state.params_dirty {
            yaml::write(&self.dir.config(), &self.state.params)?;
            self.state.params_dirty = false;
        }
        yaml::write(&self.dir.meta(), &self.state.record(&self.rows.keys))?;
        self.state.dirty = false;
        self.saved_at = Instant::now();
        Ok(())
    }

    /// Periodic work: save the record, seal a full log, publish.
    ///
    /// # Errors
    /// When a file can't be written; it is tried again at the next call.
    pub fn tick(&mut self) -> Result<()> {
        while let Some(done) = self.sealer.poll() {
            self.settle(done)?;
        }
        if self.rows.len() as u64 >= SEAL_ROWS || self.log.written >= SEAL_BYTES {
            self.seal()?;
        }
        let age = self.opened_at.elapsed() / 20;
        let due = age.clamp(PUBLISH_AFTER.0, PUBLISH_AFTER.1);
        if self.sealer.open() == 0
            && self.total() > self.published.0
            && self.published_at.elapsed() >= due
            && self.cheap()
        {
            self.publish()?;
        }
        if (self.state.dirty || self.state.params_dirty) && self.saved_at.elapsed() >= SAVE_EVERY {
            self.save()?;
        }
        Ok(())
    }

    /// Whether copying the published bytes once more is worth it now.
    const fn cheap(&self) -> bool {
        self.published.1 < expman_model::limits::PUBLISH_CHEAP_BYTES
            || (self.total() - self.published.0) * 4 >= self.total()
    }

    fn settle(&mut self, done: Done) -> Result<()> {
        match done {
            Done::Sealed(done) => done,
            Done::Published(done) => {
                self.published = done?;
                Ok(())
            }
        }
    }

    /// Starts the next log and hands the rows of this one over for sealing.
    fn seal(&mut self) -> Result<()> {
        self.save()?;
        let hi = self.total();
        let generation = self.log.generation + 1;
        let path = self.dir.wal(hi, generation);
        let mut pending = Vec::new();
        self.encoder.header(
            &mut pending,
            &header(&self.state, hi, self.run_log.end(), self.console_log.end()),
        );
        let file = durable::create(&path)?;
        file.write_all_at(&pending, 0).at("write", &path)?;
        file.sync_all().at("sync", &path)?;
        durable::sync_dir(&self.dir.hidden())?;
        let next = Log {
            path,
            file,
            generation,
            written: pending.len() as u64,
            pending: Vec::new(),
            dirty: false,
        };
        let old = std::mem::replace(&mut self.log, next);
        let empty = Rows {
            keys: self.rows.keys.clone(),
            ..Rows::default()
        };
        let rows = std::mem::replace(&mut self.rows, empty);
        self.sealer.submit(Job::Seal {
            rows: Box::new(rows),
            lo: self.lo,
            hi,
            logs: vec![old.path],
        });
        self.lo = hi;
        Ok(())
    }

    fn publish(&mut self) -> Result<()> {
        if !self.rows.is_empty() {
            self.seal()?;
        }
        self.sealer.submit(Job::Publish);
        self.published_at = Instant::now();
        Ok(())
    }

    /// Publishes everything in `metrics.parquet` before it returns.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn publish_now(&mut self) -> Result<()> {
        self.publish()?;
        while let Some(done) = self.sealer.wait() {
            self.settle(done)?;
        }
        Ok(())
    }

    /// Writers that have neither left nor been given up: after a recovery, those that may come back.
    #[must_use]
    pub fn live(&self) -> Vec<(u32, WriterId, Progress)> {
        let live = self
            .state
            .writers
            .iter()
            .zip(0u32..)
            .filter(|(w, _)| w.meta.state == RankState::Live);
        live.map(|(w, at)| (at, w.id, self.progress(at))).collect()
    }

    /// Every rank that ever joined.
    #[must_use]
    pub fn ranks(&self) -> BTreeSet<u32> {
        self.state.writers.iter().map(|w| w.id.rank).collect()
    }

    /// How the run ended: the heaviest end among the last incarnations of its ranks; one that never said so crashed.
    #[must_use]
    pub fn outcome(&self) -> RunStatus {
        let mut last: BTreeMap<u32, RunStatus> = BTreeMap::new();
        for w in &self.state.writers {
            let status = if w.meta.status.is_finished() {
                w.meta.status
            } else {
                RunStatus::Crashed
            };
            last.insert(w.id.rank, status);
        }
        last.into_values()
            .max_by_key(|s| s.weight())
            .unwrap_or(RunStatus::Crashed)
    }

    /// Announces the number of ranks of the launch.
    pub const fn set_world_size(&mut self, world_size: u32) {
        self.state.meta.world_size = Some(world_size);
        self.state.dirty = true;
    }

    /// Ends the run: everything sorted in `metrics.parquet`, no machinery left but the lock.
    ///
    /// # Errors
    /// When a file can't be written; the commit log then still holds what the file lacks.
    pub fn finish(mut self) -> Result<()> {
        for (writer, _, _) in self.live() {
            self.leave(
                writer,
                RankState::Lost,
                RunStatus::Crashed,
                "the run ended without a word from it",
            );
        }
        self.set_status(self.outcome());
        self.save()?;
        let total = self.total();
        if total > CLOSE_MERGE_ROWS {
            self.publish_now()?;
        } else {
            while let Some(done) = self.sealer.wait() {
                self.settle(done)?;
            }
            if self.published.0 < total || total > 0 && self.published.0 > 0 {
                let read;
                let rows = if self.lo == 0 {
                    &self.rows
                } else {
                    read = snapshot(&self.dir, &Filter::default())?.rows;
                    &read
                };
                segment::write_sorted(&self.dir.metrics(), rows, total)?;
            }
        }
        for wal in self.dir.wals()? {
            remove(&wal.path)?;
        }
        for seg in self.dir.segments()? {
            remove(&seg.path)?;
        }
        durable::sync_dir(&self.dir.hidden())
    }
}

/// The first frame of a log that starts now.
pub(crate) fn header(
    state: &RunState,
    lo: u64,
    run_log_end: u64,
    console_log_end: u64,
) -> WalHeader {
    WalHeader {
        format: WAL_FORMAT,
        run_id: state.meta.id,
        lo,
        epoch: state.meta.owner_epoch,
        text_ends: [run_log_end, console_log_end],
        writers: state
            .writers
            .iter()
            .map(crate::state::WriterState::wal_writer)
            .collect(),
    }
}

/// Applies the encoded records of a batch that are neither metrics nor text.
pub(crate) fn apply_others(
    state: &mut RunState,
    writer: u32,
    mut others: &[u8],
) -> Result<Vec<EventBody>> {
    let mut told = Vec::new();
    while !others.is_empty() {
        let (record, used) = Record::decode(others).map_err(|source| StorageError::Batch {
            writer: state.writers[writer as usize].id.to_string(),
            source,
        })?;
        told.extend(state.apply_other(writer, record));
        others = &others[used..];
    }
    Ok(told)
}
