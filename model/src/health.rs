//! How a rank's way to its owner is doing: what waits, what was dropped, what went wrong.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a rank's process knows about its own sending, told to the owner when it changed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Last sequence number that was given, gaps included.
    pub accepted_seq: u64,
    /// Last sequence number that the owner called durable.
    pub durable_seq: u64,
    /// Bytes in the queue that are not durable yet.
    pub queued_bytes: u64,
    /// Bytes in the spool files.
    pub spooled_bytes: u64,
    /// Refused or dropped records by reason.
    pub dropped: BTreeMap<String, u64>,
    /// How often the link was made again.
    pub reconnects: u64,
    /// What keeps records from the owner's disk now, or did last; none when nothing ever did.
    pub last_error: Option<String>,
}

impl Health {
    /// Whether the two differ in something a person should be told of, not only in how much waits.
    #[must_use]
    pub fn differs_in_trouble(&self, other: &Self) -> bool {
        self.dropped != other.dropped || self.last_error != other.last_error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_queue_is_no_trouble_and_a_drop_is() {
        let calm = Health::default();
        let mut now = Health {
            queued_bytes: 7,
            reconnects: 1,
            ..Health::default()
        };
        assert!(!now.differs_in_trouble(&calm));
        now.dropped.insert("queue full".to_owned(), 1);
        assert!(now.differs_in_trouble(&calm));
    }
}
