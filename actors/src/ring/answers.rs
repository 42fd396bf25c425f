//! What a ring answers: refusals and their reasons, counts, and what was cut from it.

use std::collections::BTreeMap;
use std::time::Instant;

/// Reason of gaps for lack of room.
pub const RING_FULL: &str = "queue full";
/// Reason of gaps in captured output, which is left out first.
pub const CONSOLE_FULL: &str = "queue full: console";
/// Reason for records that fit nowhere.
pub const TOO_LARGE: &str = "record too large";

/// Why a record was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The ring is full; the record is part of a gap now.
    Full,
    /// The record is larger than the ring could ever hold.
    TooLarge,
    /// The run is closed.
    Closed,
    /// This is a forked child of the process that joined.
    Forked,
}

/// Counts of a ring.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RingStats {
    /// Last sequence number given.
    pub last_seq: u64,
    /// Bytes held.
    pub queued_bytes: usize,
    /// Refused or dropped records by reason, since the start.
    pub dropped: BTreeMap<String, u64>,
    /// Whether what it holds survives the death of the process.
    pub is_shared: bool,
}

/// Whole records that were given a place in a batch; they stay in the ring until they are released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Sequence number of the first.
    pub first_seq: u64,
    /// Sequence number of the last.
    pub last_seq: u64,
    /// Where they start.
    pub at: usize,
    /// Their bytes.
    pub len: usize,
    /// No later than when the first was accepted, as far as is known.
    pub since: Instant,
}
