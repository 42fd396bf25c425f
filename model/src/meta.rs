//! The run's record in `run.yaml`.
//!
//! Every field is optional when read, so that a file of another version still opens;
//! fields that this version does not know are kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::forwarding::Forwarding;
use crate::id::{Incarnation, RunId, Version};
use crate::status::RunStatus;
use crate::value::Value;

/// The format number that this version writes.
pub const RUN_FORMAT: u32 = 1;

/// Everything in `run.yaml`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunMeta {
    /// Version of the run folder's format.
    pub format: u32,
    /// The run's id; none in folders of other tools.
    pub id: Option<RunId>,
    /// The run's name, its folder.
    pub name: String,
    /// The experiment's name, the folder above.
    pub experiment: String,
    /// How it stands.
    pub status: RunStatus,
    /// RFC 3339 UTC.
    pub started_at: Option<String>,
    /// RFC 3339 UTC; none while it runs.
    pub finished_at: Option<String>,
    /// Seconds from start to end.
    pub duration_secs: Option<f64>,
    /// The user's text.
    pub description: Option<String>,
    /// A name for people, where it differs.
    pub display_name: Option<String>,
    /// The user's tags.
    pub tags: Vec<String>,
    /// `python` or `rust`.
    pub language: Option<String>,
    /// Interpreter or executable of the first rank.
    pub env_path: Option<String>,
    /// Command line of the first rank.
    pub command: Vec<String>,
    /// Host of the first rank.
    pub host: Option<String>,
    /// Number of ranks that the launch announced.
    pub world_size: Option<u32>,
    /// What started the ranks: `torchrun`, `slurm`, `single` …
    pub launcher: Option<String>,
    /// Equal in all ranks of one launch; what lets a rank join.
    pub launch_key: Option<String>,
    /// How many owner processes the run has had.
    pub owner_epoch: u64,
    /// Metric rows (points) stored.
    pub rows: u64,
    /// Records refused or dropped, over all ranks and reasons.
    pub dropped: u64,
    /// The first failure.
    pub error: Option<RunError>,
    /// Which text of the ranks is forwarded, when somebody changed that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<Forwarding>,
    /// The last barrier that closed.
    pub last_flush: Option<LastFlush>,
    /// Latest value of every `log_scalar`.
    pub scalars: BTreeMap<String, Value>,
    /// Latest, least and greatest value of every metric.
    pub metrics: BTreeMap<String, MetricSummary>,
    /// By rank, every incarnation it had, oldest first.
    pub ranks: BTreeMap<u32, Vec<RankMeta>>,
    /// Fields of other versions, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// Ranks by the state of their latest process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct RankCounts {
    /// Joined and not gone.
    pub live: usize,
    /// Closed in good order.
    pub left: usize,
    /// Vanished.
    pub lost: usize,
}

impl RunMeta {
    /// The record as it is true when no process owns the run: nobody noted the end of what was under way.
    pub fn without_owner(&mut self) {
        if !self.status.is_finished() {
            self.status = RunStatus::Crashed;
        }
        for process in self.ranks.values_mut().flatten() {
            if process.state == RankState::Live {
                process.state = RankState::Lost;
            }
            if !process.status.is_finished() {
                process.status = RunStatus::Crashed;
            }
        }
    }

    /// Takes back what ranks last told of bytes that wait, where all that they logged is on disk by now.
    pub fn without_delivered(&mut self) {
        for process in self.ranks.values_mut().flatten() {
            if process.durable_seq >= process.accepted_seq {
                (process.queued_bytes, process.spooled_bytes) = (0, 0);
            }
        }
    }

    /// How many ranks there are in each state.
    #[must_use]
    pub fn rank_counts(&self) -> RankCounts {
        let mut counts = RankCounts::default();
        for now in self.ranks.values().filter_map(|all| all.last()) {
            match now.state {
                RankState::Live => counts.live += 1,
                RankState::Left => counts.left += 1,
                RankState::Lost => counts.lost += 1,
            }
        }
        counts
    }
}

/// Who failed and why.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RunError {
    /// The rank that failed first.
    pub rank: u32,
    /// One line.
    pub message: String,
    /// The traceback; empty when there was none.
    pub traceback: String,
}

/// The last barrier that closed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastFlush {
    /// Which one.
    pub version: Version,
    /// Whether every rank was durable.
    pub complete: bool,
    /// RFC 3339 UTC.
    pub at: String,
    /// Seconds it took.
    pub elapsed_secs: f64,
    /// Ranks that were dead or timed out.
    pub missing: Vec<u32>,
    /// The caller's name of this cut.
    pub tag: Option<String>,
}

/// One metric over the whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricSummary {
    /// The value that arrived last.
    pub last: Value,
    /// Its step.
    pub step: Option<i64>,
    /// The rank that logged it.
    pub rank: u32,
    /// Least finite value.
    pub min: Option<f64>,
    /// Greatest finite value.
    pub max: Option<f64>,
    /// Points logged.
    pub count: u64,
}

impl MetricSummary {
    /// The summary of one point.
    #[must_use]
    pub fn first(value: Value, step: Option<i64>, rank: u32) -> Self {
        let x = value.as_f64().filter(|x| x.is_finite());
        Self {
            last: value,
            step,
            rank,
            min: x,
            max: x,
            count: 1,
        }
    }

    /// Takes in one more point whose value is a float.
    #[inline]
    pub fn update_float(&mut self, x: f64, step: Option<i64>, rank: u32) {
        if x.is_finite() {
            self.min = Some(self.min.filter(|min| *min <= x).unwrap_or(x));
            self.max = Some(self.max.filter(|max| *max >= x).unwrap_or(x));
        }
        (self.step, self.rank) = (step, rank);
        self.count += 1;
        match &mut self.last {
            Value::Float(last) => *last = x,
            other => *other = Value::Float(x),
        }
    }

    /// Takes in one more point.
    pub fn update(&mut self, value: Value, step: Option<i64>, rank: u32) {
        if let Some(x) = value.as_f64().filter(|x| x.is_finite()) {
            self.min = Some(self.min.map_or(x, |m| m.min(x)));
            self.max = Some(self.max.map_or(x, |m| m.max(x)));
        }
        (self.last, self.step, self.rank) = (value, step, rank);
        self.count += 1;
    }
}

/// Whether a rank's process is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RankState {
    /// Joined and not gone.
    #[default]
    Live,
    /// Closed in good order.
    Left,
    /// Vanished.
    Lost,
}

/// One incarnation of a rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RankMeta {
    /// Random per process.
    pub incarnation: Incarnation,
    /// 0 for the rank's first process, 1 for the next …
    pub attempt: u32,
    /// Where it runs.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// Whether it is there.
    pub state: RankState,
    /// Its own status.
    pub status: RunStatus,
    /// RFC 3339 UTC.
    pub joined_at: Option<String>,
    /// RFC 3339 UTC.
    pub left_at: Option<String>,
    /// RFC 3339 UTC of the last word from it.
    pub last_seen: Option<String>,
    /// Greatest step it logged.
    pub last_step: Option<i64>,
    /// RFC 3339 UTC of the last metrics it logged.
    pub last_step_at: Option<String>,
    /// RFC 3339 UTC of the last line it wrote.
    pub last_line_at: Option<String>,
    /// RFC 3339 UTC since when it is silent, while it is told to be.
    pub silent_since: Option<String>,
    /// Last sequence number that was received.
    pub accepted_seq: u64,
    /// Last sequence number on disk.
    pub durable_seq: u64,
    /// `log_metrics` calls stored.
    pub rows: u64,
    /// Points stored.
    pub points: u64,
    /// Refused or dropped records by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Bytes in its queue that were not durable when it last told.
    pub queued_bytes: u64,
    /// Bytes in its spool files when it last told.
    pub spooled_bytes: u64,
    /// How often its link was made again.
    pub reconnects: u64,
    /// What kept its records from the disk last.
    pub last_error: Option<String>,
    /// How it failed, by its own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<RankFailure>,
}

/// How a process failed, by its own words.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RankFailure {
    /// RFC 3339 UTC.
    pub at: String,
    /// One line.
    pub message: String,
    /// The traceback; empty when there was none, and when those of other ranks left no room for it.
    pub traceback: String,
}

impl Default for RankMeta {
    fn default() -> Self {
        Self {
            incarnation: Incarnation(0),
            attempt: 0,
            host: String::new(),
            pid: 0,
            state: RankState::Live,
            status: RunStatus::Running,
            joined_at: None,
            left_at: None,
            last_seen: None,
            last_step: None,
            last_step_at: None,
            last_line_at: None,
            silent_since: None,
            accepted_seq: 0,
            durable_seq: 0,
            rows: 0,
            points: 0,
            dropped: BTreeMap::new(),
            queued_bytes: 0,
            spooled_bytes: 0,
            reconnects: 0,
            last_error: None,
            failure: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_disk_does_not_wait() {
        let rank = |durable_seq| {
            vec![RankMeta {
                accepted_seq: 9,
                durable_seq,
                queued_bytes: 7,
                spooled_bytes: 8,
                ..RankMeta::default()
            }]
        };
        let mut meta = RunMeta {
            ranks: BTreeMap::from([(0, rank(9)), (1, rank(8))]),
            ..RunMeta::default()
        };
        meta.without_delivered();
        let waits = meta.ranks.values().flatten();
        let waits: Vec<_> = waits.map(|r| (r.queued_bytes, r.spooled_bytes)).collect();
        assert_eq!(waits, [(0, 0), (7, 8)]);
    }

    #[test]
    fn without_an_owner_nothing_is_under_way_and_what_ended_stays() {
        let rank = |state, status| {
            vec![RankMeta {
                state,
                status,
                ..RankMeta::default()
            }]
        };
        let mut meta = RunMeta {
            status: RunStatus::Running,
            ranks: BTreeMap::from([
                (0, rank(RankState::Live, RunStatus::Running)),
                (1, rank(RankState::Left, RunStatus::Finished)),
                (2, rank(RankState::Live, RunStatus::Failed)),
            ]),
            ..RunMeta::default()
        };
        meta.without_owner();
        assert_eq!(meta.status, RunStatus::Crashed);
        let told: Vec<_> = meta
            .ranks
            .values()
            .flatten()
            .map(|r| (r.state, r.status))
            .collect();
        assert_eq!(
            told,
            [
                (RankState::Lost, RunStatus::Crashed),
                (RankState::Left, RunStatus::Finished),
                (RankState::Lost, RunStatus::Failed),
            ]
        );
        let counts = meta.rank_counts();
        assert_eq!((counts.live, counts.left, counts.lost), (0, 1, 2));
        for status in RunStatus::ALL.into_iter().filter(|s| s.is_finished()) {
            let mut ended = RunMeta {
                status,
                ..RunMeta::default()
            };
            ended.without_owner();
            assert_eq!(ended.status, status);
        }
    }
}
