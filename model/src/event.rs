//! Entries of `events.jsonl`: what happened to the run itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{Incarnation, RunId, Version};
use crate::level::Level;
use crate::status::RunStatus;

/// One line of `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Unique in the run: the owner's epoch and a number.
    pub id: String,
    /// RFC 3339, UTC, microseconds.
    pub timestamp: String,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBody,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are the documentation")]
pub enum EventBody {
    RunStarted {
        run_id: RunId,
        epoch: u64,
    },
    OwnerChanged {
        epoch: u64,
        recovered_rows: u64,
        torn_bytes: u64,
    },
    RankJoined {
        rank: u32,
        incarnation: Incarnation,
        attempt: u32,
        host: String,
        pid: u32,
    },
    RankLeft {
        rank: u32,
        incarnation: Incarnation,
        status: RunStatus,
        seq: u64,
    },
    RankLost {
        rank: u32,
        incarnation: Incarnation,
        seq: u64,
        last_step: Option<i64>,
        reason: String,
    },
    /// A rank fell silent while others advanced, or all others wait for it.
    RankSilent {
        rank: u32,
        incarnation: Incarnation,
        last_step: Option<i64>,
        silent_secs: f64,
        others_step: i64,
        last_lines: Vec<String>,
    },
    /// It logs again.
    RankBack {
        rank: u32,
        incarnation: Incarnation,
        silent_secs: f64,
    },
    /// A rank dropped records, or what keeps them from the disk changed.
    RankHealth {
        rank: u32,
        incarnation: Incarnation,
        dropped: BTreeMap<String, u64>,
        queued_bytes: u64,
        spooled_bytes: u64,
        last_error: Option<String>,
    },
    /// Somebody changed which text of the ranks is forwarded.
    Forwarding {
        rank: u32,
        enabled: bool,
        level: Level,
    },
    FlushOpened {
        version: Version,
        ranks: Vec<u32>,
    },
    FlushClosed {
        version: Version,
        complete: bool,
        missing: Vec<u32>,
        elapsed_secs: f64,
        tag: Option<String>,
    },
    Params {
        rank: u32,
        keys: Vec<String>,
    },
    Artifact {
        rank: u32,
        name: String,
        size: u64,
        hash: String,
    },
    Status {
        from: RunStatus,
        to: RunStatus,
        message: Option<String>,
    },
    Gap {
        rank: u32,
        from_seq: u64,
        to_seq: u64,
        count: u64,
        reason: String,
    },
    Problem {
        what: String,
    },
}
