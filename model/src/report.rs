//! The answer to a flush.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::Version;

/// Whom a flush waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlushScope {
    /// Every live rank.
    Run,
    /// Only the asking rank.
    Rank,
}

/// How one rank answered a barrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RankOutcomeState {
    /// Everything up to the sequence number is on disk and readable.
    Durable,
    /// The rank is gone; its last durable sequence number is told.
    Dead,
    /// The rank did not answer in time; its last durable sequence number is told.
    Timeout,
}

/// One rank's line of a [`FlushReport`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankOutcome {
    /// How it answered.
    pub state: RankOutcomeState,
    /// Last durable sequence number.
    pub seq: u64,
    /// Last step it logged.
    pub last_step: Option<i64>,
    /// Wall clock of the last word from it, microseconds since 1970 UTC.
    pub last_seen_us: i64,
    /// What it said last, when it is not durable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
}

/// What a flush achieved, rank by rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlushReport {
    /// Which barrier.
    pub version: Version,
    /// Whether every rank is durable, and published if that was asked for.
    pub complete: bool,
    /// Every rank that was live when the barrier opened.
    pub ranks: BTreeMap<u32, RankOutcome>,
    /// Metric rows of the run that are durable now.
    pub rows: u64,
    /// Seconds from the request to the answer.
    pub elapsed_secs: f64,
    /// Whether captured output and Python logging are forwarded at all; if not, none of it is in the run.
    pub forwarding: bool,
}
