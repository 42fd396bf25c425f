//! Lines on their way into a queue, many under one lock.

use expman_model::limits::CONSOLE_PATIENCE;
use expman_model::record::{Stream, put_console};
use expman_model::time::now_us;

use crate::ring::Ring;

/// Encoded lines.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    records: Vec<u8>,
    /// Where each begins.
    starts: Vec<usize>,
    /// When the first came: what was read at once has one time.
    at_us: i64,
}

impl Batch {
    /// Adds a line, or a piece of one.
    pub(crate) fn add(&mut self, stream: Stream, line: &[u8], ends_line: bool) {
        if self.starts.is_empty() {
            self.at_us = now_us();
        }
        self.starts.push(self.records.len());
        put_console(&mut self.records, self.at_us, stream, line, ends_line);
    }

    /// Puts all lines into the queue; whether there was room for all of them. One that finds the queue full is waited
    /// with if `is_patient`; once that was in vain the others are not. The queue counts what it refuses; saying so
    /// here would only make more output.
    pub(crate) fn push(&mut self, ring: &Ring, mut is_patient: bool) -> bool {
        if self.starts.is_empty() {
            return is_patient;
        }
        let all = ring.push_console_at_once(&mut self.records, &self.starts);
        if !all {
            let mut rest = self.records.as_mut_slice();
            let mut from = 0;
            let ends = self.starts.iter().skip(1).copied().chain([rest.len()]);
            for end in ends {
                let (record, behind) = rest.split_at_mut(end - from);
                let patience = is_patient.then_some(CONSOLE_PATIENCE);
                is_patient = ring.push_console(record, patience).is_ok();
                (rest, from) = (behind, end);
            }
        }
        self.clear();
        all || is_patient
    }

    /// Forgets them.
    pub(crate) fn clear(&mut self) {
        self.records.clear();
        self.starts.clear();
    }
}
