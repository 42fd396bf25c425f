//! The bounded queue between `log_*` and the ForwardActor: whole records in one ring of bytes, in shared memory.
//!
//! A caller pays for one lock, one copy and two stores, and never waits for the consumer, unless it asked to.
//! A record keeps its place until the owner made it durable or until it stands in the spool, so that nothing that was
//! accepted is only in private memory. What does not fit is counted and becomes a gap record as soon as there is room.
//! A forked child has the same memory before it: nothing here touches it from there.

mod answers;
mod gaps;
mod inner;
pub mod layout;
pub mod leftover;
mod memory;
pub(crate) mod receipt;
mod waiting;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use expman_model::record::{RECORD_HEADER_BYTES, put_record};
use expman_model::time::now_us;
use expman_model::{RecordBody, RunStatus};
use tokio::sync::Notify;

pub use self::answers::{CONSOLE_FULL, Cut, RING_FULL, Refusal, RingStats, TOO_LARGE};
pub(crate) use self::gaps::gap;
use self::inner::Inner;
use crate::error::Result;
use crate::fork::Birth;

/// Bytes behind the last record whose pages are made beforehand, in steps of a quarter: 5 ms at 100 MB/s.
const WARM_BYTES: usize = 512 << 10;
/// Where a record's sequence number stands in its bytes.
const SEQ_AT: usize = 5;

/// See the module. It has one consumer, which cuts and releases.
#[derive(Debug)]
pub struct Ring {
    capacity: usize,
    inner: Mutex<Inner>,
    room: Condvar,
    wake: Notify,
    /// Whether the consumer sleeps until a first record comes; else it looks again by itself.
    sleeps: AtomicBool,
    /// Whether the consumer has something that it must look at again soon, though nothing more comes.
    watched: AtomicBool,
    /// Bytes at which the consumer is woken at once.
    urgent: usize,
    birth: Birth,
    is_shared: bool,
}

impl Ring {
    /// A ring of `capacity` bytes whose consumer is woken at once when `urgent` bytes wait.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(capacity: usize, urgent: usize) -> Result<Self> {
        let inner = Inner::new(capacity)?;
        let is_shared = inner.shared.is_ok();
        Ok(Self {
            capacity,
            inner: Mutex::new(inner),
            room: Condvar::new(),
            wake: Notify::new(),
            sleeps: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            urgent,
            birth: Birth::here(),
            is_shared,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing in a forked child: the lock may be held by a thread that is not there.
    fn lock_here(&self) -> Option<MutexGuard<'_, Inner>> {
        self.birth.is_here().then(|| self.lock())
    }

    /// The memory's descriptor, for the owner to read when this process is dead; or why the memory is private.
    ///
    /// # Errors
    /// With that reason.
    pub fn shared(&self) -> Result<Arc<OwnedFd>, String> {
        match self.lock_here() {
            Some(inner) => inner.shared.clone(),
            None => Err("it belongs to another process".to_owned()),
        }
    }

    /// Bytes it can hold.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Numbers a record and takes it in.
    ///
    /// `record` holds one encoded record; its sequence number is overwritten.
    /// With `patience` the call waits that long for room before it gives up.
    ///
    /// # Errors
    /// When there is no room, or never could be.
    pub fn push(&self, record: &mut [u8], patience: Option<Duration>) -> Result<u64, Refusal> {
        self.take_in(record, patience, self.capacity(), RING_FULL)
    }

    /// [`Ring::push`] for captured output, which leaves the last quarter to everything else.
    ///
    /// # Errors
    /// As [`Ring::push`].
    pub fn push_console(
        &self,
        record: &mut [u8],
        patience: Option<Duration>,
    ) -> Result<u64, Refusal> {
        self.take_in(record, patience, self.capacity() / 4 * 3, CONSOLE_FULL)
    }

    /// Takes in many records of captured output under one lock, or none: when there is no room for all of them, or
    /// something is missing in front of them. `starts` are the places of the records in `records`.
    pub fn push_console_at_once(&self, records: &mut [u8], starts: &[usize]) -> bool {
        let Some(mut inner) = self.lock_here() else {
            return false;
        };
        let before = inner.len - inner.cut;
        inner.tell_gaps(self.capacity);
        let fits = inner.len + records.len() <= self.capacity() / 4 * 3;
        if inner.closed || inner.gaps.is_pending() || !fits {
            return false;
        }
        let first = inner.next_seq;
        for (seq, at) in (first..).zip(starts) {
            records[at + SEQ_AT..at + SEQ_AT + 8].copy_from_slice(&seq.to_le_bytes());
        }
        inner.put_some(records, starts.len() as u64);
        let after = inner.len - inner.cut;
        drop(inner);
        self.wake_for(before, after);
        true
    }

    /// [`Ring::push`] for when nothing stands in the way: `None`, and nothing is done, when the record would have to
    /// wait, or to be left out, or something is missing in front of it.
    pub fn push_at_once(&self, record: &mut [u8]) -> Option<u64> {
        let mut inner = self.lock_here()?;
        let fits = inner.len + record.len() <= self.capacity && record.len() <= self.capacity / 2;
        if inner.closed || !fits || !inner.gaps.is_told() {
            return None;
        }
        let before = inner.len - inner.cut;
        let seq = inner.next_seq;
        record
            .get_mut(SEQ_AT..SEQ_AT + 8)?
            .copy_from_slice(&seq.to_le_bytes());
        inner.put(record);
        drop(inner);
        self.wake_for(before, before + record.len());
        Some(seq)
    }

    /// Wakes the consumer when a batch waits, and when the first record does and it sleeps.
    #[inline]
    fn wake_for(&self, before: usize, after: usize) {
        let is_first = before == 0 && self.sleeps.load(Ordering::Relaxed);
        if is_first || (before < self.urgent && after >= self.urgent) {
            self.wake.notify_one();
        }
    }

    fn take_in(
        &self,
        record: &mut [u8],
        patience: Option<Duration>,
        limit: usize,
        reason: &'static str,
    ) -> Result<u64, Refusal> {
        let mut inner = self.lock_here().ok_or(Refusal::Forked)?;
        if inner.closed {
            return Err(Refusal::Closed);
        }
        if record.len() > self.capacity() / 2 || record.len() < RECORD_HEADER_BYTES {
            inner.gaps.refuse(TOO_LARGE, 1);
            return Err(Refusal::TooLarge);
        }
        let fits = |inner: &Inner| inner.len + record.len() <= limit;
        if let Some(patience) = patience
            && !fits(&inner)
        {
            self.wake.notify_one();
            let (waited, _) = self
                .room
                .wait_timeout_while(inner, patience, |inner| !fits(inner) && !inner.closed)
                .unwrap_or_else(PoisonError::into_inner);
            inner = waited;
            if inner.closed {
                return Err(Refusal::Closed);
            }
        }
        let before = inner.len - inner.cut;
        inner.tell_gaps(self.capacity);
        let seq = inner.next_seq;
        // Once something is missing, what follows waits until the gap is told, so that order holds.
        if !fits(&inner) || inner.gaps.is_pending() {
            inner.next_seq += 1;
            inner.gaps.add(seq, reason);
            if let Some(memory) = &inner.memory {
                memory.set_first_untold(inner.gaps.first());
                memory.set_last_seq(seq);
            }
            drop(inner);
            self.wake.notify_one();
            return Err(Refusal::Full);
        }
        record[SEQ_AT..SEQ_AT + 8].copy_from_slice(&seq.to_le_bytes());
        inner.put(record);
        let after = inner.len - inner.cut;
        drop(inner);
        self.wake_for(before, after);
        Ok(seq)
    }

    /// Counts values or records that were refused before they became records.
    pub fn refuse(&self, reason: &str, count: u64) {
        if let Some(mut inner) = self.lock_here() {
            inner.gaps.refuse(reason, count);
        }
    }

    /// Gives whole records of at most `max` bytes a place in a batch, at least one if there is any.
    pub fn cut(&self, max: usize) -> Option<Cut> {
        let (memory, at, waiting, since) = {
            let mut inner = self.lock_here()?;
            let memory = inner.memory.clone()?;
            inner.tell_gaps(self.capacity);
            let at = (inner.head + inner.cut) % self.capacity();
            let since = inner.oldest.unwrap_or_else(Instant::now);
            (memory, at, inner.len - inner.cut, since)
        };
        // What is published and not released does not change: no caller has to wait for this.
        let mut cut = Cut {
            first_seq: 0,
            last_seq: 0,
            at,
            len: 0,
            since,
        };
        let mut head = [0; SEQ_AT + 8];
        while cut.len < waiting {
            memory.read((at + cut.len) % self.capacity, &mut head);
            let [a, b, c, d, _kind, seq @ ..] = head;
            let bytes = 4 + u32::from_le_bytes([a, b, c, d]) as usize;
            let bytes = bytes.clamp(RECORD_HEADER_BYTES, waiting - cut.len);
            if cut.len > 0 && cut.len + bytes > max {
                break;
            }
            cut.len += bytes;
            cut.last_seq = u64::from_le_bytes(seq);
            if cut.first_seq == 0 {
                cut.first_seq = cut.last_seq;
            }
        }
        if cut.len == 0 {
            return None;
        }
        let mut inner = self.lock();
        inner.cut += cut.len;
        if inner.cut == inner.len {
            inner.oldest = None;
        }
        Some(cut)
    }

    /// Has the pages ready that the next records go into: whoever logs does not wait for the kernel to make them.
    pub fn warm(&self) {
        let place = self.lock_here().and_then(|inner| {
            let memory = inner.memory.clone()?;
            Some((memory, inner.head + inner.len))
        });
        if let Some((memory, tail)) = place {
            memory.warm((tail + WARM_BYTES).next_multiple_of(WARM_BYTES / 4));
        }
    }

    /// The bytes of records that were cut and not released.
    #[must_use]
    pub fn copy(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        if let Some(memory) = self.lock_here().and_then(|inner| inner.memory.clone()) {
            memory.read(at, &mut bytes);
        }
        bytes
    }

    /// The last sequence number that the owner of an epoch has in its file, as far as it says so here.
    #[must_use]
    pub fn written(&self, epoch: u64) -> Option<u64> {
        let receipt = self.lock_here()?.memory.as_ref()?.receipt();
        layout::receipt_of(epoch, receipt)
    }

    /// Gives up the room of the oldest `len` bytes that were cut.
    pub fn release(&self, len: usize) {
        let Some(mut inner) = self.lock_here() else {
            return;
        };
        inner.head = (inner.head + len) % self.capacity();
        inner.len -= len;
        inner.cut -= len;
        if inner.len == 0 {
            // A queue that is empty now and then stays in its first pages.
            inner.head = 0;
        }
        if let Some(memory) = &inner.memory {
            memory.set_place(inner.head, inner.len);
        }
        drop(inner);
        self.room.notify_all();
    }

    /// Takes in nothing more, and says how its process ended for whoever finds the ring when that is dead.
    pub fn close(&self, status: RunStatus) {
        if let Some(mut inner) = self.lock_here() {
            inner.closed = true;
            if let Some(memory) = &inner.memory {
                memory.set_end(status);
            }
            drop(inner);
            self.room.notify_all();
            self.wake.notify_one();
        }
    }

    /// Gives up the memory, behind the last word of the run: a program may keep what it has closed.
    pub fn retire(&self) {
        if let Some(mut inner) = self.lock_here() {
            inner.closed = true;
            inner.memory = None;
            inner.shared = Err("the run is over".to_owned());
            drop(inner);
            // Whoever still waits for something to cut learns that nothing comes.
            self.room.notify_all();
            self.wake.notify_one();
        }
    }

    /// Last sequence number given so far.
    pub fn last_seq(&self) -> u64 {
        self.lock_here().map_or(0, |inner| inner.next_seq - 1)
    }

    /// Bytes that were not cut.
    pub fn waiting(&self) -> usize {
        self.lock_here().map_or(0, |inner| inner.len - inner.cut)
    }

    /// Whether something is missing that no gap record tells of yet.
    pub fn has_untold(&self) -> bool {
        self.lock_here().is_some_and(|inner| !inner.gaps.is_told())
    }

    /// Counts for people.
    pub fn stats(&self) -> RingStats {
        let Some(inner) = self.lock_here() else {
            return RingStats::default();
        };
        RingStats {
            last_seq: inner.next_seq - 1,
            queued_bytes: inner.len,
            dropped: inner.gaps.dropped().clone(),
            is_shared: self.is_shared,
        }
    }
}

/// Encodes a body as a record without its number, ready for [`Ring::push`].
#[must_use]
pub fn encode(body: &RecordBody) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    put_record(&mut bytes, body.kind(), 0, now_us(), |out| body.encode(out));
    bytes
}
#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use expman_model::{Point, Record, Value};
    use proptest::prelude::*;

    use super::leftover::Leftover;
    use super::*;

    fn record(n: usize) -> Vec<u8> {
        encode(&RecordBody::Scalar(Point::new(
            "k",
            Value::Text("x".repeat(n)),
        )))
    }

    fn decode(mut bytes: &[u8]) -> Vec<Record> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let (record, used) = Record::decode(bytes).unwrap();
            records.push(record);
            bytes = &bytes[used..];
        }
        records
    }

    /// Cuts and releases at once, as the ring's consumer does over time.
    fn take(ring: &Ring, max: usize) -> Vec<Record> {
        let Some(cut) = ring.cut(max) else {
            return Vec::new();
        };
        let records = decode(&ring.copy(cut.at, cut.len));
        assert_eq!(records[0].seq, cut.first_seq);
        assert_eq!(records[records.len() - 1].seq, cut.last_seq);
        ring.release(cut.len);
        records
    }

    fn leftover(ring: &Ring) -> Leftover {
        Leftover::read(ring.shared().unwrap().as_fd()).unwrap()
    }

    /// Every number up to `last_seq` once: as a record, or in the count of the gap records over its range.
    fn balance(records: &[Record], pending: Option<(u64, u64, u64)>, last_seq: u64) -> (u64, u64) {
        let (mut covered, mut counted, mut next) = (0, 0, 1);
        for record in records {
            if let RecordBody::Gap {
                from_seq,
                to_seq,
                count,
                ..
            } = record.body
            {
                counted += count;
                if from_seq == next {
                    covered += to_seq - from_seq + 1;
                    next = to_seq + 1;
                }
            }
            assert_eq!(record.seq, next, "a number is missing or twice");
            next += 1;
        }
        if let Some((first, last, count)) = pending {
            assert_eq!((first, last - first + 1), (next, count));
            covered += count;
            counted += count;
            next = last + 1;
        }
        assert_eq!(next, last_seq + 1);
        (covered, counted)
    }

    proptest! {
        #[test]
        fn accepted_records_and_gaps_account_for_every_number(
            ops in prop::collection::vec((0u8..4, 0usize..300, 1usize..2000), 1..200)
        ) {
            let ring = Ring::new(2048, 512).unwrap();
            let (mut accepted, mut all, mut refused) = (Vec::new(), Vec::new(), 0);
            for (op, size, max) in ops {
                let pushed = match op {
                    0 | 1 => ring.push(&mut record(size), None),
                    2 => ring.push_console(&mut record(size), None),
                    _ => {
                        all.extend(take(&ring, max));
                        continue;
                    }
                };
                match pushed {
                    Ok(seq) => accepted.push(seq),
                    Err(_) => refused += 1,
                }
                // A process that is killed now leaves exactly this behind.
                let left = leftover(&ring);
                let mut seen = all.clone();
                seen.extend(decode(&left.records));
                let (covered, counted) = balance(&seen, left.gap, left.last_seq);
                prop_assert_eq!((covered, counted), (refused, refused));
                prop_assert_eq!(left.last_seq, ring.last_seq());
            }
            loop {
                let some = take(&ring, 1000);
                if some.is_empty() {
                    break;
                }
                all.extend(some);
            }
            prop_assert_eq!(balance(&all, None, ring.last_seq()), (refused, refused));
            let seen: Vec<u64> = all
                .iter()
                .filter(|r| !matches!(r.body, RecordBody::Gap { .. }))
                .map(|r| r.seq)
                .collect();
            prop_assert_eq!(accepted, seen);
            prop_assert_eq!(ring.stats().dropped.values().sum::<u64>(), refused);
        }

        #[test]
        fn no_bytes_in_a_ring_make_reading_it_panic(
            at in 0usize..960, noise in prop::collection::vec(any::<u8>(), 1..64), header: bool
        ) {
            let ring = Ring::new(1024, 512).unwrap();
            for n in [10, 50, 200] {
                ring.push(&mut record(n), None).unwrap();
            }
            let offset = if header { at % 256 } else { layout::HEADER_BYTES + at };
            rustix::io::pwrite(ring.shared().unwrap(), &noise, offset as u64).unwrap();
            if let Ok(left) = Leftover::read(ring.shared().unwrap().as_fd()) {
                decode(&left.records);
            }
        }
    }

    #[test]
    fn whoever_reads_the_memory_at_any_moment_sees_whole_records_only() {
        let ring = Arc::new(Ring::new(64 << 10, 1 << 10).unwrap());
        let fd = ring.shared().unwrap();
        let (done, writing) = (std::sync::atomic::AtomicBool::new(false), Arc::clone(&ring));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..20_000 {
                    writing.push(&mut record(n * 7 % 400), None).unwrap();
                    // Never released while it is read, or the reader would see what a dead process can't do any more.
                    if n % 50 == 49 {
                        std::thread::yield_now();
                    }
                    if writing.waiting() > 40 << 10 {
                        break;
                    }
                }
                done.store(true, std::sync::atomic::Ordering::Release);
            });
            let mut last = 0;
            loop {
                let is_over = done.load(std::sync::atomic::Ordering::Acquire);
                let left = Leftover::read(fd.as_fd()).unwrap();
                assert_eq!((left.problem, left.gap), (None, None));
                let records = decode(&left.records);
                assert_eq!(balance(&records, None, records.len() as u64), (0, 0));
                assert!(left.last_seq >= last && records.len() as u64 >= last);
                last = left.last_seq;
                if is_over {
                    assert_eq!(last, ring.last_seq());
                    break;
                }
            }
        });
    }

    #[test]
    fn a_queue_that_runs_empty_stays_in_its_first_pages() {
        let ring = Ring::new(64 << 10, 1 << 10).unwrap();
        for _ in 0..1000 {
            ring.push(&mut record(100), None).unwrap();
            assert_eq!(ring.cut(1 << 10).unwrap().at, 0);
            ring.release(ring.stats().queued_bytes);
        }
    }

    #[test]
    fn output_leaves_the_last_quarter_to_metrics_and_each_gap_has_its_reason() {
        let ring = Ring::new(4096, 512).unwrap();
        while ring.push_console(&mut record(100), None).is_ok() {}
        assert!(ring.stats().queued_bytes <= 3072);
        ring.push(&mut record(100), None).unwrap();
        while ring.push(&mut record(200), None).is_ok() {}
        assert_eq!(
            ring.push_console(&mut record(9), None),
            Err(Refusal::Full),
            "once something is missing, nothing overtakes the gap"
        );
        let dropped = ring.stats().dropped;
        assert_eq!(dropped[CONSOLE_FULL], 2);
        assert_eq!(dropped[RING_FULL], 1);
        let mut records = Vec::new();
        for _ in 0..100 {
            records.extend(take(&ring, 4096));
        }
        assert_eq!(balance(&records, None, ring.last_seq()), (3, 3));
    }

    #[test]
    fn a_patient_caller_gets_room() {
        let ring = Ring::new(1024, 512).unwrap();
        for _ in 0..6 {
            ring.push(&mut record(100), None).unwrap();
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while take(&ring, 200).is_empty() {
                    std::thread::yield_now();
                }
                take(&ring, 1024);
            });
            let patience = Some(Duration::from_secs(10));
            assert!(ring.push(&mut record(300), patience).is_ok());
        });
    }

    #[test]
    fn a_record_larger_than_half_of_the_ring_is_counted() {
        let ring = Ring::new(1024, 512).unwrap();
        assert_eq!(
            ring.push(&mut record(600), Some(Duration::from_secs(10))),
            Err(Refusal::TooLarge)
        );
        assert_eq!(ring.stats().dropped[TOO_LARGE], 1);
    }

    #[test]
    fn refused_values_become_one_gap_by_reason() {
        let ring = Ring::new(4096, 512).unwrap();
        ring.refuse("bad value", 3);
        let records = take(&ring, 4096);
        assert!(
            matches!(&records[0].body, RecordBody::Gap { count: 3, reason, .. } if reason == "bad value")
        );
        assert!(take(&ring, 4096).is_empty());
    }

    #[test]
    fn a_run_that_is_over_keeps_its_counts_and_no_memory() {
        let ring = Ring::new(1024, 512).unwrap();
        ring.push(&mut record(10), None).unwrap();
        ring.refuse("bad value", 2);
        ring.retire();
        assert!(ring.shared().is_err());
        assert_eq!(ring.push(&mut record(10), None), Err(Refusal::Closed));
        assert_eq!(ring.cut(512), None);
        let stats = ring.stats();
        assert_eq!((stats.last_seq, stats.dropped["bad value"]), (1, 2));
    }

    #[test]
    fn what_is_no_ring_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(Leftover::read(file.as_fd()).is_err());
        let (pipe, _write) = rustix::pipe::pipe().unwrap();
        assert!(Leftover::read(pipe.as_fd()).is_err());
        let flags = rustix::fs::MemfdFlags::ALLOW_SEALING;
        let empty = rustix::fs::memfd_create("x", flags).unwrap();
        assert!(Leftover::read(empty.as_fd()).is_err());
        let seals = rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW;
        rustix::fs::fcntl_add_seals(&empty, seals).unwrap();
        assert!(Leftover::read(empty.as_fd()).is_err());
    }
}
