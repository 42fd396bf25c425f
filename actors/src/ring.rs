//! The bounded queue between `log_*` and the ForwardActor: whole records in one ring of bytes.
//!
//! A caller pays for one copy and never waits for the consumer, unless it asked to.
//! What does not fit is counted and becomes a gap record as soon as there is room.

pub mod layout;
pub mod leftover;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use expman_model::record::{RECORD_HEADER_BYTES, RecordHead, put_record};
use expman_model::time::now_us;
use expman_model::{Record, RecordBody};
use tokio::sync::Notify;

/// Where a record's sequence number stands in its bytes.
const SEQ_AT: usize = 5;

/// Whole records taken from the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Their bytes.
    pub bytes: Vec<u8>,
    /// Sequence number of the first.
    pub first_seq: u64,
    /// Sequence number of the last.
    pub last_seq: u64,
}

/// Why a record was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The ring is full; the record is part of a gap now.
    Full,
    /// The record is larger than the ring could ever hold.
    TooLarge,
    /// The run is closed.
    Closed,
}

/// Counts of a ring.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RingStats {
    /// Last sequence number given.
    pub last_seq: u64,
    /// Bytes waiting.
    pub queued_bytes: usize,
    /// Refused or dropped records by reason, since the start.
    pub dropped: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Inner {
    bytes: Box<[u8]>,
    head: usize,
    len: usize,
    next_seq: u64,
    /// Records lost for lack of room, not yet told: first, last, count.
    gap: Option<(u64, u64, u64)>,
    /// Refused values by reason, not yet told.
    refused: BTreeMap<String, u64>,
    dropped: BTreeMap<String, u64>,
    closed: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Ring {
    inner: Mutex<Inner>,
    room: Condvar,
    wake: Notify,
    /// Bytes at which the consumer is woken at once.
    urgent: usize,
    memory: Option<OwnedFd>,
}

impl Ring {
    /// A ring of `capacity` bytes whose consumer is woken at once when `urgent` bytes wait.
    #[must_use]
    pub fn new(capacity: usize, urgent: usize) -> Self {
        let inner = Inner {
            bytes: vec![0; capacity].into_boxed_slice(),
            head: 0,
            len: 0,
            next_seq: 1,
            gap: None,
            refused: BTreeMap::new(),
            dropped: BTreeMap::new(),
            closed: false,
        };
        Self {
            inner: Mutex::new(inner),
            room: Condvar::new(),
            wake: Notify::new(),
            urgent,
            memory: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory's descriptor, for the owner to read when this process is dead; none when it is private.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.memory.as_ref().map(AsFd::as_fd)
    }

    /// Numbers a record and takes it in.
    ///
    /// `record` holds one encoded record; its sequence number is overwritten.
    /// With `patience` the call waits that long for room before it gives up.
    ///
    /// # Errors
    /// When there is no room, or never could be.
    pub fn push(&self, record: &mut [u8], patience: Option<Duration>) -> Result<u64, Refusal> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(Refusal::Closed);
        }
        if let Some(patience) = patience
            && !inner.fits(record.len())
        {
            self.wake.notify_one();
            let (waited, _) = self
                .room
                .wait_timeout_while(inner, patience, |inner| {
                    !inner.fits(record.len()) && !inner.closed
                })
                .unwrap_or_else(PoisonError::into_inner);
            inner = waited;
        }
        inner.tell_gaps();
        let before = inner.len;
        let seq = inner.next_seq;
        let done = inner.push(record);
        let after = inner.len;
        drop(inner);
        if before == 0
            || (before < self.urgent && after >= self.urgent)
            || done == Err(Refusal::Full)
        {
            self.wake.notify_one();
        }
        done.map(|()| seq)
    }

    /// Counts values or records that were refused before they became records.
    pub fn refuse(&self, reason: &str, count: u64) {
        let mut inner = self.lock();
        *inner.refused.entry(reason.to_owned()).or_default() += count;
        *inner.dropped.entry(reason.to_owned()).or_default() += count;
    }

    /// Takes whole records of at most `max` bytes, at least one if there is any.
    pub fn take(&self, max: usize) -> Option<Taken> {
        let mut inner = self.lock();
        inner.tell_gaps();
        let taken = inner.take(max);
        if taken.is_some() {
            self.room.notify_all();
        }
        taken
    }

    /// Takes in nothing more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.room.notify_all();
        self.wake.notify_one();
    }

    /// Last sequence number given so far.
    pub fn last_seq(&self) -> u64 {
        self.lock().next_seq - 1
    }

    /// Bytes waiting.
    pub fn queued(&self) -> usize {
        self.lock().len
    }

    /// Counts for people.
    pub fn stats(&self) -> RingStats {
        let inner = self.lock();
        RingStats {
            last_seq: inner.next_seq - 1,
            queued_bytes: inner.len,
            dropped: inner.dropped.clone(),
        }
    }

    /// Waits until there is something to take, or soon will be.
    pub async fn ready(&self) {
        self.wake.notified().await;
    }
}

impl Inner {
    const fn fits(&self, n: usize) -> bool {
        self.len + n <= self.bytes.len()
    }

    fn push(&mut self, record: &mut [u8]) -> Result<(), Refusal> {
        if record.len() > self.bytes.len() / 2 || record.len() < RECORD_HEADER_BYTES {
            return Err(Refusal::TooLarge);
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        if !self.fits(record.len()) || self.gap.is_some() {
            // Once something is missing, what follows waits until the gap is told, so that order holds.
            let (from, _, count) = self.gap.unwrap_or((seq, seq, 0));
            self.gap = Some((from, seq, count + 1));
            *self.dropped.entry(RING_FULL.to_owned()).or_default() += 1;
            return Err(Refusal::Full);
        }
        record[SEQ_AT..SEQ_AT + 8].copy_from_slice(&seq.to_le_bytes());
        self.put(record);
        Ok(())
    }

    fn put(&mut self, record: &[u8]) {
        let capacity = self.bytes.len();
        let tail = (self.head + self.len) % capacity;
        let first = record.len().min(capacity - tail);
        self.bytes[tail..tail + first].copy_from_slice(&record[..first]);
        self.bytes[..record.len() - first].copy_from_slice(&record[first..]);
        self.len += record.len();
    }

    /// Puts what is missing into the ring as gap records, if they fit.
    fn tell_gaps(&mut self) {
        if let Some((from_seq, to_seq, count)) = self.gap {
            let body = RecordBody::Gap {
                from_seq,
                to_seq,
                count,
                reason: RING_FULL.to_owned(),
            };
            if self.put_own(&body) {
                self.gap = None;
            }
        }
        while let Some((reason, count)) = self.refused.pop_first() {
            let body = RecordBody::Gap {
                from_seq: 0,
                to_seq: 0,
                count,
                reason: reason.clone(),
            };
            if !self.put_own(&body) {
                self.refused.insert(reason, count);
                return;
            }
        }
    }

    fn put_own(&mut self, body: &RecordBody) -> bool {
        let mut bytes = Vec::new();
        Record {
            seq: self.next_seq,
            timestamp_us: now_us(),
            body: body.clone(),
        }
        .encode(&mut bytes);
        let fits = self.fits(bytes.len());
        if fits {
            self.next_seq += 1;
            self.put(&bytes);
        }
        fits
    }

    fn copy(&self, from: usize, n: usize) -> Vec<u8> {
        let capacity = self.bytes.len();
        let start = (self.head + from) % capacity;
        let first = n.min(capacity - start);
        let mut out = Vec::with_capacity(n);
        out.extend_from_slice(&self.bytes[start..start + first]);
        out.extend_from_slice(&self.bytes[..n - first]);
        out
    }

    fn take(&mut self, max: usize) -> Option<Taken> {
        if self.len == 0 {
            return None;
        }
        let mut bytes = self.copy(0, self.len.min(max.max(RECORD_HEADER_BYTES)));
        let (mut end, mut first_seq, mut last_seq) = (0, 0, 0);
        while let Ok((head, _)) = RecordHead::split(&bytes[end..]) {
            end += 4 + head.length;
            last_seq = head.seq;
            if first_seq == 0 {
                first_seq = head.seq;
            }
        }
        if end == 0 {
            // The first record alone is larger than `max`.
            let head = self.copy(0, 4);
            end = 4 + u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
            bytes = self.copy(0, end);
            last_seq = RecordHead::split(&bytes).map_or(0, |(head, _)| head.seq);
            first_seq = last_seq;
        }
        bytes.truncate(end);
        self.head = (self.head + end) % self.bytes.len();
        self.len -= end;
        Some(Taken {
            bytes,
            first_seq,
            last_seq,
        })
    }
}

/// Reason of gaps for lack of room.
pub const RING_FULL: &str = "queue full";

/// Encodes a body as a record without its number, ready for [`Ring::push`].
#[must_use]
pub fn encode(body: &RecordBody) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    put_record(&mut bytes, body.kind(), 0, now_us(), |out| body.encode(out));
    bytes
}

#[cfg(test)]
mod tests {
    use expman_model::{Point, Value};
    use proptest::prelude::*;

    use super::*;

    fn record(n: usize) -> Vec<u8> {
        encode(&RecordBody::Scalar(Point::new(
            "k",
            Value::Text("x".repeat(n)),
        )))
    }

    fn decode(taken: &Taken) -> Vec<Record> {
        let mut rest = &taken.bytes[..];
        let mut records = Vec::new();
        while !rest.is_empty() {
            let (record, used) = Record::decode(rest).unwrap();
            records.push(record);
            rest = &rest[used..];
        }
        records
    }

    proptest! {
        #[test]
        fn accepted_records_and_gaps_account_for_every_number(
            ops in prop::collection::vec((any::<bool>(), 0usize..300, 1usize..2000), 1..200)
        ) {
            let ring = Ring::new(2048, 512);
            let (mut accepted, mut seen, mut gaps) = (Vec::new(), Vec::new(), 0);
            let mut refused = 0;
            let mut collect = |taken: Option<Taken>, seen: &mut Vec<u64>| {
                for r in taken.iter().flat_map(decode) {
                    match r.body {
                        RecordBody::Gap { from_seq, to_seq, count, .. } => {
                            assert_eq!(to_seq - from_seq + 1, count);
                            gaps += count;
                        }
                        _ => seen.push(r.seq),
                    }
                }
            };
            for (push, size, max) in ops {
                if push {
                    match ring.push(&mut record(size), None) {
                        Ok(seq) => accepted.push(seq),
                        Err(_) => refused += 1,
                    }
                } else {
                    collect(ring.take(max), &mut seen);
                }
            }
            while let Some(taken) = ring.take(1000) {
                collect(Some(taken), &mut seen);
            }
            prop_assert_eq!(accepted, seen);
            prop_assert_eq!(gaps, refused);
        }
    }

    #[test]
    fn a_patient_caller_gets_room() {
        let ring = std::sync::Arc::new(Ring::new(1024, 512));
        while ring.push(&mut record(100), None).is_ok() {}
        while ring.take(4096).is_some() {}
        for _ in 0..6 {
            ring.push(&mut record(100), None).unwrap();
        }
        let taker = std::sync::Arc::clone(&ring);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while taker.take(200).is_none() {
                    std::thread::yield_now();
                }
            });
            assert!(
                ring.push(&mut record(300), Some(Duration::from_secs(10)))
                    .is_ok()
            );
        });
    }

    #[test]
    fn refused_values_become_one_gap_by_reason() {
        let ring = Ring::new(4096, 512);
        ring.refuse("bad value", 3);
        let records = decode(&ring.take(4096).unwrap());
        assert!(
            matches!(&records[0].body, RecordBody::Gap { count: 3, reason, .. } if reason == "bad value")
        );
        assert!(ring.take(4096).is_none());
    }
}
