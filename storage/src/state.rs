//! What a run amounts to so far, in memory: its record, parameters, writers and summaries.
//!
//! Batches change it in the order of the commit log, and replaying the log changes it in the same way.

use std::collections::HashMap;

use expman_model::limits::{SUMMARY_KEYS_MAX, TRACEBACK_BYTES_MAX};
use expman_model::time::{now_us, rfc3339_us};
use expman_model::{
    EventBody, Health, MetricSummary, Param, RankFailure, RankMeta, RankState, Record, RecordBody,
    RunError, RunMeta, RunStatus, WriterId,
};

use crate::error::Result;
use crate::goodbyes;
use crate::layout::RunDir;
use crate::rows::{Call, FLOAT, KeyTable, Rows};
use crate::wal::WalWriter;

/// One writer of the run.
#[derive(Debug, Clone)]
pub(crate) struct WriterState {
    pub(crate) id: WriterId,
    pub(crate) meta: RankMeta,
    /// Everything up to here is in the state.
    pub(crate) applied_seq: u64,
    /// What its process told of itself last.
    pub(crate) health: Option<Health>,
    /// When it logged its last metrics and its last line.
    pub(crate) last: LastWords,
}

/// Microseconds since 1970 UTC; 0 for never, in this owner's time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LastWords {
    pub(crate) metrics_us: i64,
    pub(crate) line_us: i64,
}

impl LastWords {
    fn note(self, meta: &mut RankMeta) {
        for (at_us, told) in [
            (self.metrics_us, &mut meta.last_step_at),
            (self.line_us, &mut meta.last_line_at),
        ] {
            if at_us > 0 {
                *told = Some(rfc3339_us(at_us));
            }
        }
    }
}

impl WriterState {
    /// Its record as it is written.
    pub(crate) fn told(&self) -> RankMeta {
        let mut meta = self.meta.clone();
        self.last.note(&mut meta);
        meta
    }

    pub(crate) fn wal_writer(&self) -> WalWriter {
        WalWriter {
            id: self.id,
            attempt: self.meta.attempt,
            upto_seq: self.applied_seq,
            host: self.meta.host.clone(),
            pid: self.meta.pid,
        }
    }
}

/// The state.
#[derive(Debug)]
pub(crate) struct RunState {
    pub(crate) meta: RunMeta,
    pub(crate) params: Param,
    pub(crate) writers: Vec<WriterState>,
    pub(crate) index: HashMap<WriterId, u32>,
    /// How many processes each rank has had.
    attempts: HashMap<u32, u32>,
    /// How many writers are live.
    live: usize,
    /// By the metric's number in the run's key table.
    summaries: Vec<Option<MetricSummary>>,
    /// Parameters changed since they were written.
    pub(crate) params_dirty: bool,
    /// Anything changed since the record was written.
    pub(crate) dirty: bool,
}

impl RunState {
    /// Starts from the record on disk.
    pub(crate) fn new(mut meta: RunMeta, params: Param, keys: &mut KeyTable) -> Self {
        let mut summaries = Vec::new();
        for (name, summary) in std::mem::take(&mut meta.metrics) {
            keys.intern(&name);
            summaries.push(Some(summary));
        }
        let mut state = Self {
            params,
            writers: Vec::new(),
            index: HashMap::new(),
            attempts: HashMap::new(),
            live: 0,
            summaries,
            params_dirty: false,
            dirty: true,
            meta,
        };
        for (rank, incarnations) in std::mem::take(&mut state.meta.ranks) {
            for (attempt, meta) in (0u32..).zip(incarnations) {
                let id = WriterId {
                    rank,
                    incarnation: meta.incarnation,
                };
                state.insert(WriterState {
                    id,
                    applied_seq: meta.durable_seq,
                    health: None,
                    last: LastWords::default(),
                    meta: RankMeta { attempt, ..meta },
                });
            }
        }
        state
    }

    fn insert(&mut self, writer: WriterState) -> u32 {
        let at = u32::try_from(self.writers.len()).unwrap_or(u32::MAX);
        self.index.insert(writer.id, at);
        *self.attempts.entry(writer.id.rank).or_default() += 1;
        self.live += usize::from(writer.meta.state == RankState::Live);
        self.writers.push(writer);
        at
    }

    /// The index of a writer, a new one if it never wrote before; says whether it is new.
    pub(crate) fn register(&mut self, id: WriterId, host: &str, pid: u32) -> (u32, bool) {
        if let Some(&at) = self.index.get(&id) {
            return (at, false);
        }
        let meta = RankMeta {
            incarnation: id.incarnation,
            attempt: self.attempts.get(&id.rank).copied().unwrap_or(0),
            host: host.to_owned(),
            pid,
            joined_at: Some(rfc3339_us(now_us())),
            ..RankMeta::default()
        };
        self.dirty = true;
        (
            self.insert(WriterState {
                id,
                meta,
                applied_seq: 0,
                health: None,
                last: LastWords::default(),
            }),
            true,
        )
    }

    /// Whether a writer is there.
    pub(crate) fn set(&mut self, writer: u32, state: RankState) {
        let known = &mut self.writers[writer as usize].meta.state;
        self.live -= usize::from(*known == RankState::Live);
        self.live += usize::from(state == RankState::Live);
        *known = state;
    }

    /// How many writers have neither left nor been given up.
    pub(crate) const fn live(&self) -> usize {
        self.live
    }

    /// Takes in the ends that the record does not have; whether there is a file of them.
    pub(crate) fn goodbyes(&mut self, dir: &RunDir) -> Result<bool> {
        let told = goodbyes::read(dir)?;
        let is_there = told.is_some();
        for (id, line) in told.into_iter().flatten() {
            self.goodbye(id, line);
        }
        Ok(is_there)
    }

    /// A writer's end that the record does not have; what it stored is known from the logs, and if that is more than
    /// it had at its end, it came back.
    fn goodbye(&mut self, id: WriterId, line: RankMeta) {
        let (at, _) = self.register(id, &line.host, line.pid);
        let w = &mut self.writers[at as usize];
        if w.applied_seq > line.durable_seq || !goodbyes::is_news(&line, &w.meta) {
            return;
        }
        let state = line.state;
        let stored = std::mem::take(&mut w.meta);
        w.meta = RankMeta {
            attempt: stored.attempt,
            state: stored.state,
            accepted_seq: stored.accepted_seq.max(line.accepted_seq),
            durable_seq: stored.durable_seq,
            rows: stored.rows,
            points: stored.points,
            last_step: stored.last_step,
            dropped: stored.dropped,
            failure: stored.failure,
            ..line
        };
        self.set(at, state);
    }

    /// A writer that the commit log names.
    pub(crate) fn adopt(&mut self, writer: &WalWriter) {
        let (at, _) = self.register(writer.id, &writer.host, writer.pid);
        let state = &mut self.writers[at as usize];
        state.meta.attempt = writer.attempt;
        state.applied_seq = state.applied_seq.max(writer.upto_seq);
    }

    /// Takes in the metric rows of `rows` from `from` on, all of one call or batch of this writer.
    pub(crate) fn apply_rows(&mut self, writer: u32, rows: &Rows, from: usize) {
        self.dirty = true;
        let meta = &mut self.writers[writer as usize].meta;
        let mut at = from;
        while at < rows.len() {
            let number = rows.call[at];
            let call = rows.calls[number as usize];
            meta.rows += 1;
            meta.last_step = call.step().max(meta.last_step);
            while rows.call.get(at) == Some(&number) {
                summarise(&mut self.summaries, rows, at, &call);
                at += 1;
            }
        }
        meta.points += (rows.len() - from) as u64;
        self.meta.rows += (rows.len() - from) as u64;
    }

    /// Takes in a record that is neither a metric nor text; returns what to tell `events.jsonl`.
    pub(crate) fn apply_other(&mut self, writer: u32, record: Record) -> Option<EventBody> {
        self.dirty = true;
        let at = writer as usize;
        let rank = self.writers[at].id.rank;
        match record.body {
            RecordBody::Scalar(point) => {
                self.meta.scalars.insert(point.key, point.value);
                None
            }
            RecordBody::Params(params) => {
                let keys = match &params {
                    Param::Map(entries) => entries.iter().map(|(k, _)| k.clone()).collect(),
                    _ => Vec::new(),
                };
                self.params.merge(params);
                self.params_dirty = true;
                Some(EventBody::Params { rank, keys })
            }
            RecordBody::Artifact { name, size, hash } => Some(EventBody::Artifact {
                rank,
                name,
                size,
                hash,
            }),
            RecordBody::Outcome {
                status,
                message,
                traceback,
            } => {
                self.writers[at].meta.status = status;
                if status == RunStatus::Failed {
                    let kept = self.room_for(&traceback);
                    self.writers[at].meta.failure = Some(RankFailure {
                        at: rfc3339_us(record.timestamp_us),
                        message: message.clone(),
                        traceback: if kept {
                            traceback.clone()
                        } else {
                            String::new()
                        },
                    });
                }
                if status == RunStatus::Failed && self.meta.error.is_none() {
                    self.meta.error = Some(RunError {
                        rank,
                        message,
                        traceback,
                    });
                }
                None
            }
            RecordBody::Gap {
                from_seq,
                to_seq,
                count,
                reason,
            } => {
                *self.writers[at]
                    .meta
                    .dropped
                    .entry(reason.clone())
                    .or_default() += count;
                self.meta.dropped += count;
                Some(EventBody::Gap {
                    rank,
                    from_seq,
                    to_seq,
                    count,
                    reason,
                })
            }
            RecordBody::Metrics { .. }
            | RecordBody::Message { .. }
            | RecordBody::Console { .. } => None,
        }
    }

    /// Whether `run.yaml` stays readable with one more traceback.
    fn room_for(&self, traceback: &str) -> bool {
        let failures = self.writers.iter().filter_map(|w| w.meta.failure.as_ref());
        let kept: usize = failures.map(|f| f.traceback.len()).sum();
        kept + traceback.len() <= TRACEBACK_BYTES_MAX
    }

    /// The record as it is written to `run.yaml`.
    pub(crate) fn record(&self, keys: &KeyTable) -> RunMeta {
        let mut meta = self.meta.clone();
        let known = keys.names().iter().zip(&self.summaries);
        meta.metrics = known
            .filter_map(|(name, s)| Some((name.to_string(), s.clone()?)))
            .take(SUMMARY_KEYS_MAX)
            .collect();
        for writer in &self.writers {
            let rank = meta.ranks.entry(writer.id.rank).or_default();
            rank.push(writer.told());
        }
        meta
    }
}

#[inline]
fn summarise(summaries: &mut Vec<Option<MetricSummary>>, rows: &Rows, i: usize, call: &Call) {
    let at = rows.key[i] as usize;
    if at >= SUMMARY_KEYS_MAX {
        return; // the record has room for no more of them
    }
    if summaries.len() <= at {
        summaries.resize(at + 1, None);
    }
    let (step, rank) = (call.step(), call.rank.cast_unsigned());
    match &mut summaries[at] {
        Some(summary) if rows.kind[i] == FLOAT => {
            summary.update_float(f64::from_bits(rows.bits[i]), step, rank);
        }
        Some(summary) => summary.update(rows.value(i), step, rank),
        empty => *empty = Some(MetricSummary::first(rows.value(i), step, rank)),
    }
}
