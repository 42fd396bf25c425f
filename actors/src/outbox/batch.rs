//! A batch of the index.

use std::time::Instant;

use expman_model::limits::BATCH_BYTES;
use expman_storage::spool::Slot;

use super::SPOOL_LOST;
use crate::ring::{Cut, gap};

/// Where the bytes of a batch are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Ring {
        at: usize,
    },
    Spool(Slot),
    /// Nowhere any more: a gap is sent in its place.
    Lost,
}

#[derive(Debug)]
pub(super) struct Batch {
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    pub(super) len: usize,
    pub(super) since: Instant,
    pub(super) place: Place,
}

impl Batch {
    /// Whether what was cut lies right behind it and makes it no larger than a batch: then it belongs to it.
    pub(super) fn takes(&mut self, cut: Cut, capacity: usize) -> bool {
        let Place::Ring { at } = self.place else {
            return false;
        };
        let fits = (at + self.len) % capacity == cut.at && self.len + cut.len <= BATCH_BYTES;
        if fits {
            self.last_seq = cut.last_seq;
            self.len += cut.len;
        }
        fits
    }

    pub(super) const fn count(&self) -> u64 {
        self.last_seq - self.first_seq + 1
    }

    /// The gap that stands for it; it takes the last of its own numbers.
    pub(super) fn told_as_lost(&self) -> Vec<u8> {
        let range = (self.first_seq, self.last_seq);
        let mut bytes = Vec::new();
        gap(self.last_seq, range, self.count(), SPOOL_LOST).encode(&mut bytes);
        bytes
    }
}
