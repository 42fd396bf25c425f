//! Making a run's record and parameters again from what else tells of them.

use std::collections::BTreeMap;
use std::path::Path;

use expman_model::meta::{LastFlush, RUN_FORMAT};
use expman_model::time::parse_rfc3339;
use expman_model::{
    Event, EventBody, Param, RankMeta, RankState, Record, RecordBody, RunError, RunId, RunMeta,
    RunStatus,
};
use serde::de::DeserializeOwned;

use crate::layout::RunDir;
use crate::wal::{Frame, WalReader};
use crate::{durable, events, yaml};

/// Beginnings of a broken YAML file that are tried, longest first.
const TRIES_MAX: usize = 1_000;
/// A broken YAML file larger than this is not tried.
const SALVAGE_BYTES_MAX: usize = 4 << 20;

/// What can be read of a broken YAML file: its entries up to the first one that can't.
pub(super) fn salvage<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = durable::read_if_there(path).ok()??;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SALVAGE_BYTES_MAX)]);
    let starts = |line: &str| {
        line.starts_with(|c: char| !c.is_whitespace() && c != '-' && c != '#' && c != '}')
    };
    let mut at = 0;
    let mut cuts = Vec::new();
    for line in text.split_inclusive('\n') {
        if starts(line) && at > 0 {
            cuts.push(at);
        }
        at += line.len();
    }
    let cuts = cuts.into_iter().rev().take(TRIES_MAX);
    cuts.map(|cut| &text[..cut])
        .find_map(|part| serde_yaml::from_str(part).ok())
}

/// The parameters that commit logs still hold.
pub(super) fn logged_params(dir: &RunDir) -> Option<Param> {
    let mut found: Option<Param> = None;
    for log in dir.wals().unwrap_or_default() {
        let Ok(mut log) = WalReader::open(&log.path) else {
            continue;
        };
        while let Ok(Ok(frame)) = log.next_frame() {
            let Frame::Batch(batch) = frame else { continue };
            let mut others = batch.others.as_slice();
            while let Ok((record, used)) = Record::decode(others) {
                if let RecordBody::Params(params) = record.body {
                    found
                        .get_or_insert_with(|| Param::Map(Vec::new()))
                        .merge(params);
                }
                others = &others[used..];
            }
        }
    }
    found
}

/// The record of a run whose own can't be read: what is left of it, then what its events tell.
/// Its counts are not those of the rows yet.
pub(super) fn rebuilt(dir: &RunDir, experiment: &str, run: &str) -> RunMeta {
    let mut meta: RunMeta = salvage(&dir.meta()).unwrap_or_default();
    meta.format = RUN_FORMAT;
    run.clone_into(&mut meta.name);
    experiment.clone_into(&mut meta.experiment);
    let told = events::read(&dir.events()).map_or_else(|_unread| Vec::new(), |(told, _)| told);
    let told: Vec<Event> = told
        .into_iter()
        .filter_map(|event| serde_json::from_value(event).ok())
        .collect();
    meta.id = meta.id.or_else(|| logged_id(dir));
    meta.started_at = meta
        .started_at
        .or_else(|| told.first().map(|e| e.timestamp.clone()));
    let mut history = History {
        ranks: BTreeMap::new(),
        has_ranks: !meta.ranks.is_empty(),
        logged: dir.wals().is_ok_and(|logs| !logs.is_empty()),
        meta,
    };
    for event in told {
        history.event(event);
    }
    let History {
        mut meta, ranks, ..
    } = history;
    meta.ranks.extend(ranks);
    meta.dropped = meta
        .ranks
        .values()
        .flatten()
        .flat_map(|r| r.dropped.values())
        .sum();
    meta
}

/// The time of the last thing that a run's files tell of, in microseconds.
pub(super) fn last_sign(dir: &RunDir) -> Option<i64> {
    let meta: RunMeta = yaml::read(&dir.meta()).ok().flatten().unwrap_or_default();
    let ranks = meta.ranks.values().flatten();
    let mut times: Vec<String> = ranks
        .flat_map(|p| {
            [&p.joined_at, &p.last_seen, &p.left_at]
                .into_iter()
                .flatten()
        })
        .cloned()
        .collect();
    let (told, _) = events::read(&dir.events()).unwrap_or_default();
    let told = told.last().and_then(|e| e["timestamp"].as_str());
    times.extend(told.map(str::to_owned));
    let mut last = times.iter().filter_map(|time| parse_rfc3339(time)).max();
    for log in dir.wals().unwrap_or_default() {
        let Ok(mut log) = WalReader::open(&log.path) else {
            continue;
        };
        while let Ok(Ok(frame)) = log.next_frame() {
            if let Frame::Batch(batch) = frame {
                last = last.max(batch.rows.iter().map(|row| row.timestamp_us).max());
            }
        }
    }
    last
}

fn logged_id(dir: &RunDir) -> Option<RunId> {
    let logs = dir.wals().ok()?;
    logs.iter().find_map(|log| {
        let mut log = WalReader::open(&log.path).ok()?;
        log.header().ok()??.run_id
    })
}

/// What happened to a run, event by event.
struct History {
    meta: RunMeta,
    ranks: BTreeMap<u32, Vec<RankMeta>>,
    /// The record kept its ranks, so events about them are old.
    has_ranks: bool,
    /// A commit log will be replayed, and decides itself what of it is new.
    logged: bool,
}

impl History {
    fn event(&mut self, event: Event) {
        let at = event.timestamp;
        match event.body {
            EventBody::RunStarted { run_id, epoch } => {
                self.meta.id.get_or_insert(run_id);
                self.meta.owner_epoch = self.meta.owner_epoch.max(epoch);
            }
            EventBody::OwnerChanged { epoch, .. } => {
                self.meta.owner_epoch = self.meta.owner_epoch.max(epoch);
            }
            EventBody::Status { to, message, .. } => self.status(to, message, at),
            EventBody::FlushClosed {
                version,
                complete,
                missing,
                elapsed_secs,
                tag,
            } => {
                self.meta.last_flush = Some(LastFlush {
                    version,
                    complete,
                    at,
                    elapsed_secs,
                    missing,
                    tag,
                });
            }
            _ if self.has_ranks => {}
            EventBody::RankJoined {
                rank,
                incarnation,
                attempt,
                host,
                pid,
            } => self.ranks.entry(rank).or_default().push(RankMeta {
                incarnation,
                attempt,
                host,
                pid,
                joined_at: Some(at),
                ..RankMeta::default()
            }),
            EventBody::RankLeft {
                rank,
                incarnation,
                status,
                seq,
            } => self.gone(rank, incarnation, RankState::Left, status, seq, &at),
            EventBody::RankLost {
                rank,
                incarnation,
                seq,
                ..
            } => self.gone(
                rank,
                incarnation,
                RankState::Lost,
                RunStatus::Crashed,
                seq,
                &at,
            ),
            EventBody::Gap {
                rank,
                count,
                reason,
                ..
            } => {
                let latest = self.ranks.get_mut(&rank).and_then(|all| all.last_mut());
                if let Some(process) = latest {
                    *process.dropped.entry(reason).or_default() += count;
                }
            }
            _ => {}
        }
    }

    fn status(&mut self, to: RunStatus, message: Option<String>, at: String) {
        self.meta.status = to;
        let ended = to.is_finished().then_some(at);
        let micros = |time: &Option<String>| time.as_deref().and_then(parse_rfc3339);
        self.meta.duration_secs = micros(&ended)
            .zip(micros(&self.meta.started_at))
            .map(|(end, start)| secs(end - start));
        self.meta.finished_at = ended;
        if let (RunStatus::Failed, Some(message), None) = (to, message, &self.meta.error) {
            self.meta.error = Some(RunError {
                message,
                ..RunError::default()
            });
        }
    }

    fn gone(
        &mut self,
        rank: u32,
        incarnation: expman_model::Incarnation,
        state: RankState,
        status: RunStatus,
        seq: u64,
        at: &str,
    ) {
        let logged = self.logged;
        let all = self.ranks.get_mut(&rank).into_iter().flatten();
        for process in all.filter(|p| p.incarnation == incarnation) {
            (process.state, process.status) = (state, status);
            process.left_at = Some(at.to_owned());
            process.accepted_seq = seq;
            process.durable_seq = if logged { 0 } else { seq };
        }
    }
}

/// Seconds of so many microseconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds of a run are far below 2^53"
)]
pub(super) fn secs(us: i64) -> f64 {
    us.max(0) as f64 / 1e6
}
