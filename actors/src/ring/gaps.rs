//! What a ring had no room for: counted at once, told in gap records as soon as there is room again.

use std::collections::BTreeMap;

use expman_model::time::now_us;
use expman_model::{Record, RecordBody};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// Numbered records that are missing and not told of: first, last, and how many for which reason.
    pending: Option<(u64, u64, BTreeMap<&'static str, u64>)>,
    /// Values that were refused before they had a number, by reason, not told of.
    refused: BTreeMap<String, u64>,
    /// Everything by reason, since the start.
    dropped: BTreeMap<String, u64>,
}

impl Gaps {
    /// A numbered record is missing; `seq` is the one behind the last that was missing, if any is pending.
    pub(super) fn add(&mut self, seq: u64, reason: &'static str) {
        let (_, last, counts) = self
            .pending
            .get_or_insert_with(|| (seq, seq, BTreeMap::new()));
        *last = seq;
        *counts.entry(reason).or_default() += 1;
        self.count(reason, 1);
    }

    pub(super) fn refuse(&mut self, reason: &str, count: u64) {
        match self.refused.get_mut(reason) {
            Some(known) => *known += count,
            None => drop(self.refused.insert(reason.to_owned(), count)),
        }
        self.count(reason, count);
    }

    fn count(&mut self, reason: &str, count: u64) {
        match self.dropped.get_mut(reason) {
            Some(known) => *known += count,
            None => drop(self.dropped.insert(reason.to_owned(), count)),
        }
    }

    pub(super) const fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    pub(super) fn is_told(&self) -> bool {
        self.pending.is_none() && self.refused.is_empty()
    }

    /// First missing number; 0 when none is pending.
    pub(super) fn first(&self) -> u64 {
        self.pending.as_ref().map_or(0, |(first, ..)| *first)
    }

    /// The pending gap as one record for each reason, all of the whole range and each with its own count,
    /// numbered from `seq` on; and how many these are.
    pub(super) fn encode(&self, seq: u64) -> (Vec<u8>, u64) {
        let mut bytes = Vec::new();
        let mut next = seq;
        if let Some((from_seq, to_seq, counts)) = &self.pending {
            for (reason, &count) in counts {
                put(&mut bytes, next, (*from_seq, *to_seq), count, reason);
                next += 1;
            }
        }
        (bytes, next - seq)
    }

    pub(super) fn told(&mut self) {
        self.pending = None;
    }

    /// The refused values of one reason as a record.
    pub(super) fn encode_refused(&self, seq: u64) -> Option<Vec<u8>> {
        let (reason, &count) = self.refused.first_key_value()?;
        let mut bytes = Vec::new();
        put(&mut bytes, seq, (0, 0), count, reason);
        Some(bytes)
    }

    pub(super) fn told_refused(&mut self) {
        self.refused.pop_first();
    }

    pub(super) const fn dropped(&self) -> &BTreeMap<String, u64> {
        &self.dropped
    }
}

fn put(out: &mut Vec<u8>, seq: u64, (from_seq, to_seq): (u64, u64), count: u64, reason: &str) {
    gap(seq, (from_seq, to_seq), count, reason).encode(out);
}

/// A gap record.
pub(crate) fn gap(seq: u64, (from_seq, to_seq): (u64, u64), count: u64, reason: &str) -> Record {
    Record {
        seq,
        timestamp_us: now_us(),
        body: RecordBody::Gap {
            from_seq,
            to_seq,
            count,
            reason: reason.to_owned(),
        },
    }
}
