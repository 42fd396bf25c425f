//! What was accepted and is not durable yet: an index of batches, oldest first, whose bytes lie in the spool or, the
//! younger ones, in the ring. Nothing is kept a second time in memory; a frame is built from where the bytes are.

mod batch;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use expman_model::limits::{BATCH_BYTES, SPOOL_AFTER};
use expman_storage::spool::Spool;

use self::batch::{Batch, Place};
use crate::link::frame::Ack;
use crate::ring::Ring;

/// How long a spool that failed is left alone.
const SPOOL_REST: Duration = Duration::from_secs(1);
/// Reason of gaps for records that were in the spool and can't be read back.
pub const SPOOL_LOST: &str = "spool lost";

/// A batch ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Sequence number of its first record.
    pub first_seq: u64,
    /// Sequence number of its last record.
    pub last_seq: u64,
    /// Whole records.
    pub body: Bytes,
}

/// Counts of an outbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutboxStats {
    /// Bytes of the spool files.
    pub spooled_bytes: u64,
    /// Last sequence number that survives the death of this process and the owner, by the owner's word or in the spool.
    pub safe_seq: u64,
    /// Last durable sequence number.
    pub durable_seq: u64,
    /// Records that were in the spool and can't be read back.
    pub lost: u64,
}

/// See the module. It is the ring's one consumer.
#[derive(Debug)]
pub struct Outbox {
    ring: Arc<Ring>,
    batches: VecDeque<Batch>,
    /// How many of them are on the wire.
    sent: usize,
    sent_bytes: usize,
    /// How many of them are not in the ring any more; always the oldest.
    spooled: usize,
    /// Bytes of the others.
    in_ring: usize,
    spool: Option<Spool>,
    /// Set while the spool is left alone after it failed.
    rests_until: Option<Instant>,
    spooled_seq: u64,
    known: Ack,
    /// Of the present owner, whose receipt in the ring counts.
    epoch: u64,
    lost: u64,
}

impl Outbox {
    /// An outbox of what `ring` takes in; without a spool until the process knows its rank.
    #[must_use]
    pub const fn new(ring: Arc<Ring>) -> Self {
        Self {
            ring,
            batches: VecDeque::new(),
            sent: 0,
            sent_bytes: 0,
            spooled: 0,
            in_ring: 0,
            spool: None,
            rests_until: None,
            spooled_seq: 0,
            known: Ack {
                durable_seq: 0,
                written_seq: 0,
            },
            epoch: 0,
            lost: 0,
        }
    }

    /// Spools from now on, unless it does already.
    pub fn set_spool(&mut self, spool: impl FnOnce() -> Spool) {
        self.spool.get_or_insert_with(spool);
    }

    /// Makes batches of all that waits in the ring.
    pub fn fill(&mut self) {
        while let Some(cut) = self.ring.cut(BATCH_BYTES) {
            self.in_ring += cut.len;
            let capacity = self.ring.capacity();
            if self.sent < self.batches.len()
                && let Some(last) = self.batches.back_mut()
                && last.takes(cut, capacity)
            {
                continue;
            }
            self.batches.push_back(Batch {
                first_seq: cut.first_seq,
                last_seq: cut.last_seq,
                len: cut.len,
                since: cut.since,
                place: Place::Ring { at: cut.at },
            });
        }
        self.ring.warm();
    }

    /// The next batch to send while fewer than `credit` bytes are unacknowledged.
    ///
    /// What can't be read back from the spool is replaced by a gap, with the reason beside it.
    pub fn next(&mut self, credit: usize) -> (Option<Ready>, Option<String>) {
        let Some(batch) = self.batches.get_mut(self.sent) else {
            return (None, None);
        };
        if self.sent_bytes > 0 && self.sent_bytes + batch.len > credit {
            return (None, None);
        }
        let mut trouble = None;
        let body = match (batch.place, &self.spool) {
            (Place::Ring { at }, _) => self.ring.copy(at, batch.len),
            (Place::Spool(slot), Some(spool)) => match spool.read(slot) {
                Ok(bytes) => bytes,
                Err(e) => {
                    trouble = Some(format!("spooled records are lost: {e}"));
                    batch.place = Place::Lost;
                    self.lost += batch.count();
                    batch.told_as_lost()
                }
            },
            (Place::Spool(_) | Place::Lost, _) => batch.told_as_lost(),
        };
        self.sent += 1;
        self.sent_bytes += batch.len;
        let ready = Ready {
            first_seq: batch.first_seq,
            last_seq: batch.last_seq,
            body: body.into(),
        };
        (Some(ready), trouble)
    }

    /// Sequence number of the first record that is not on the wire.
    #[must_use]
    pub fn next_seq(&self) -> Option<u64> {
        self.batches.get(self.sent).map(|b| b.first_seq)
    }

    /// Forgets what is durable, and learns what need not be spooled.
    pub fn acknowledge(&mut self, ack: Ack) {
        self.known = self.known.and(ack);
        let mut released = 0;
        while self
            .batches
            .front()
            .is_some_and(|b| b.last_seq <= ack.durable_seq)
            && let Some(batch) = self.batches.pop_front()
        {
            match batch.place {
                Place::Ring { .. } => released += batch.len,
                Place::Spool(_) | Place::Lost => self.spooled -= 1,
            }
            if self.sent > 0 {
                self.sent -= 1;
                self.sent_bytes -= batch.len;
            }
        }
        if released > 0 {
            self.in_ring -= released;
            self.ring.release(released);
        }
        if let Some(spool) = &mut self.spool {
            spool.release(ack.durable_seq);
        }
    }

    /// Looks how far the owner has written, where it says so in the ring.
    pub fn look(&mut self) {
        if let Some(seq) = self.ring.written(self.epoch) {
            self.known.written_seq = self.known.written_seq.max(seq);
        }
    }

    /// After a new link: what its owner does not call durable is sent again. What a former owner had written
    /// counts no more: the next one may have found it unreadable.
    pub fn relink(&mut self, epoch: u64, durable_seq: u64) {
        self.epoch = epoch;
        self.known.written_seq = durable_seq;
        self.acknowledge(Ack {
            durable_seq,
            written_seq: durable_seq,
        });
        self.rewind();
    }

    const fn rewind(&mut self) {
        self.sent = 0;
        self.sent_bytes = 0;
    }

    /// How many batches must be in the spool by now: up to the last that the owner did not write in time, and so
    /// many that half of the ring is free.
    fn due(&self, now: Instant) -> usize {
        if self.spool.is_none() || self.rests_until.is_some_and(|until| now < until) {
            return 0;
        }
        let mut upto = self.spooled;
        let mut left = self.in_ring;
        for (i, batch) in self.batches.iter().enumerate().skip(self.spooled) {
            let is_late = now.saturating_duration_since(batch.since) >= SPOOL_AFTER;
            let is_unwritten = batch.last_seq > self.known.written_seq;
            let is_crowded = left > self.ring.capacity() / 2;
            if !is_late && !is_crowded {
                break;
            }
            if (is_late && is_unwritten) || is_crowded {
                upto = i + 1;
            }
            left -= batch.len;
        }
        upto - self.spooled
    }

    /// Whether [`Outbox::spool_due`] would write.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.due(now) > 0
    }

    /// Moves to the spool what must be there by now. Writes files.
    ///
    /// # Errors
    /// With what is wrong with the spool; what it did not take stays in the ring.
    pub fn spool_due(&mut self, now: Instant) -> Result<(), String> {
        let due = self.due(now);
        self.spool_some(due, now)
    }

    /// Moves everything to the spool that the owner has not written.
    ///
    /// # Errors
    /// As [`Outbox::spool_due`].
    pub fn spool_all(&mut self) -> Result<(), String> {
        if self.spool.is_none() {
            return Ok(());
        }
        let is_unwritten = |b: &Batch| b.last_seq > self.known.written_seq;
        let upto = self
            .batches
            .iter()
            .rposition(is_unwritten)
            .map_or(0, |i| i + 1);
        self.spool_some(upto.saturating_sub(self.spooled), Instant::now())
    }

    fn spool_some(&mut self, batches: usize, now: Instant) -> Result<(), String> {
        for _ in 0..batches {
            self.spool_next()
                .inspect_err(|_| self.rests_until = Some(now + SPOOL_REST))?;
        }
        Ok(())
    }

    /// Moves the oldest batch of the ring to the spool.
    fn spool_next(&mut self) -> Result<(), String> {
        let at = self.spooled;
        let (Some(spool), Some(batch)) = (&mut self.spool, self.batches.get_mut(at)) else {
            return Err("there is no spool yet".to_owned());
        };
        let Place::Ring { at: from } = batch.place else {
            return Ok(());
        };
        let bytes = self.ring.copy(from, batch.len);
        let slot = spool
            .append(batch.first_seq, batch.last_seq, &bytes)
            .map_err(|e| e.to_string())?
            .ok_or_else(|| format!("the spool is full ({} bytes)", spool.bytes()))?;
        batch.place = Place::Spool(slot);
        self.spooled_seq = batch.last_seq;
        self.rests_until = None;
        self.in_ring -= batch.len;
        self.ring.release(batch.len);
        self.spooled += 1;
        self.join_spooled(at);
        Ok(())
    }

    /// A long time without an owner must not make a long index: small neighbours in the spool become one batch.
    fn join_spooled(&mut self, at: usize) {
        let Some(before) = at.checked_sub(1).filter(|&before| before >= self.sent) else {
            return;
        };
        let (Place::Spool(a), Place::Spool(b)) =
            (self.batches[before].place, self.batches[at].place)
        else {
            return;
        };
        if self.batches[before].len + self.batches[at].len <= BATCH_BYTES
            && let Some(slot) = a.joined(b)
            && let Some(second) = self.batches.remove(at)
        {
            let first = &mut self.batches[before];
            first.place = Place::Spool(slot);
            first.last_seq = second.last_seq;
            first.len += second.len;
            self.spooled -= 1;
        }
    }

    /// Whether something is in the ring alone, as far as is known: then it is to be looked at again.
    #[must_use]
    pub fn has_unwritten(&self) -> bool {
        let in_ring = self.batches.iter().skip(self.spooled);
        in_ring.rev().any(|b| b.last_seq > self.known.written_seq)
    }

    /// Whether everything is durable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Whether everything is on the wire.
    #[must_use]
    pub fn all_sent(&self) -> bool {
        self.sent == self.batches.len()
    }

    /// Leaves nothing behind that nobody needs.
    pub fn tidy(&self) {
        if let Some(spool) = &self.spool {
            spool.tidy();
        }
    }

    /// Counts for people.
    #[must_use]
    pub fn stats(&self) -> OutboxStats {
        OutboxStats {
            spooled_bytes: self.spool.as_ref().map_or(0, Spool::bytes),
            safe_seq: self.known.written_seq.max(self.spooled_seq),
            durable_seq: self.known.durable_seq,
            lost: self.lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use expman_model::{Incarnation, Point, Record, RecordBody, Value, WriterId};
    use expman_storage::RunDir;
    use expman_storage::spool::{SPOOL_FORMAT, SpoolHeader, SpoolReader, files};
    use proptest::prelude::*;

    use super::*;
    use crate::ring::encode;

    const CREDIT: usize = 1 << 20;

    struct Bench {
        _tmp: tempfile::TempDir,
        dir: RunDir,
        ring: Arc<Ring>,
        outbox: Outbox,
    }

    fn bench(capacity: usize, spool_max: u64) -> Bench {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(tmp.path());
        std::fs::create_dir_all(dir.hidden()).unwrap();
        let ring = Arc::new(Ring::new(capacity, 512).unwrap());
        let mut outbox = Outbox::new(Arc::clone(&ring));
        let header = SpoolHeader {
            format: SPOOL_FORMAT,
            id: WriterId {
                rank: 0,
                incarnation: Incarnation(7),
            },
            host: "here".to_owned(),
            pid: 1,
            launch_key: "k".to_owned(),
        };
        outbox.set_spool(|| Spool::new(dir.clone(), header, spool_max));
        Bench {
            _tmp: tmp,
            dir,
            ring,
            outbox,
        }
    }

    impl Bench {
        fn log(&self, n: usize) -> u64 {
            let text = Value::Text("x".repeat(n));
            let body = RecordBody::Scalar(Point::new("k", text));
            self.ring.push(&mut encode(&body), None).unwrap()
        }

        /// What is on disk, as whoever comes after both processes finds it.
        fn on_disk(&self) -> Vec<u64> {
            let mut seqs = Vec::new();
            for file in files(&self.dir).unwrap() {
                let mut reader = SpoolReader::open(&file.path).unwrap();
                while let Some(frame) = reader.next().unwrap() {
                    seqs.extend(seqs_of(&frame.records));
                }
                assert!(reader.problem().is_none());
            }
            seqs
        }

        fn send_all(&mut self) -> Vec<u64> {
            let mut seqs = Vec::new();
            while let (Some(ready), trouble) = self.outbox.next(CREDIT) {
                assert_eq!(trouble, None);
                seqs.extend(seqs_of(&ready.body));
                assert_eq!(seqs.last(), Some(&ready.last_seq));
            }
            seqs
        }
    }

    fn late() -> Instant {
        Instant::now() + SPOOL_AFTER
    }

    fn seqs_of(mut bytes: &[u8]) -> Vec<u64> {
        let mut seqs = Vec::new();
        while !bytes.is_empty() {
            let (record, used) = Record::decode(bytes).unwrap();
            seqs.push(record.seq);
            bytes = &bytes[used..];
        }
        seqs
    }

    fn durable(seq: u64) -> Ack {
        Ack {
            durable_seq: seq,
            written_seq: seq,
        }
    }

    #[test]
    fn what_the_owner_did_not_write_in_time_is_in_the_spool_and_is_sent_from_there() {
        let mut b = bench(64 << 10, 1 << 20);
        for _ in 0..10 {
            b.log(50);
        }
        b.outbox.fill();
        assert_eq!(b.send_all(), (1..=10).collect::<Vec<_>>());
        assert!(!b.outbox.is_due(Instant::now()), "it is too young");
        b.outbox.acknowledge(Ack {
            durable_seq: 0,
            written_seq: 10,
        });
        assert!(!b.outbox.is_due(late()), "the owner has it in its file");
        assert!(!b.outbox.has_unwritten());
        for _ in 0..5 {
            b.log(50);
        }
        b.outbox.fill();
        assert!(b.outbox.has_unwritten());
        b.outbox.spool_due(late()).unwrap();
        assert_eq!(b.on_disk(), (1..=15).collect::<Vec<_>>());
        assert_eq!(b.ring.stats().queued_bytes, 0);
        b.outbox.rewind();
        assert_eq!(b.send_all(), (1..=15).collect::<Vec<_>>());
        assert_eq!(b.outbox.stats().safe_seq, 15);
        b.outbox.acknowledge(durable(15));
        assert!(b.outbox.is_empty() && b.outbox.stats().spooled_bytes == 0);
        assert!(files(&b.dir).unwrap().is_empty());
    }

    #[test]
    fn what_a_former_owner_had_written_is_sent_again_and_spooled_unless_the_next_one_has_it() {
        let mut b = bench(64 << 10, 1 << 20);
        for _ in 0..10 {
            b.log(50);
            b.outbox.fill();
            b.send_all();
        }
        b.outbox.acknowledge(Ack {
            durable_seq: 2,
            written_seq: 10,
        });
        b.outbox.relink(1, 4);
        assert_eq!(b.send_all(), (5..=10).collect::<Vec<_>>());
        assert!(b.outbox.is_due(late()));
        b.outbox.acknowledge(durable(10));
        assert!(b.outbox.is_empty());
    }

    #[test]
    fn a_crowded_ring_is_emptied_to_its_half_though_the_owner_has_written_it() {
        let mut b = bench(64 << 10, 1 << 20);
        while b.ring.stats().queued_bytes < 50 << 10 {
            b.log(1000);
            b.outbox.fill();
            b.send_all();
        }
        let last = b.ring.last_seq();
        b.outbox.acknowledge(Ack {
            durable_seq: 0,
            written_seq: last,
        });
        b.outbox.spool_due(Instant::now()).unwrap();
        assert!(b.ring.stats().queued_bytes <= 32 << 10);
        b.outbox.rewind();
        assert_eq!(b.send_all(), (1..=last).collect::<Vec<_>>());
    }

    #[test]
    fn a_spool_that_can_not_be_written_leaves_everything_in_the_ring() {
        let mut b = bench(64 << 10, 1 << 20);
        std::fs::remove_dir_all(b.dir.hidden()).unwrap();
        b.log(50);
        b.outbox.fill();
        let late = self::late();
        let failed = b.outbox.spool_due(late);
        assert!(failed.unwrap_err().contains("spool"));
        assert!(!b.outbox.is_due(late), "it rests");
        assert!(!b.dir.hidden().exists(), "a deleted run does not come back");
        assert_eq!(b.send_all(), [1]);
        std::fs::create_dir_all(b.dir.hidden()).unwrap();
        b.outbox.spool_due(late + SPOOL_REST).unwrap();
        assert_eq!(b.on_disk(), [1]);
    }

    #[test]
    fn a_full_spool_says_so_and_the_ring_keeps_the_rest() {
        let mut b = bench(64 << 10, 5000);
        for _ in 0..20 {
            b.log(1000);
            b.outbox.fill();
            // On the wire: batches that were sent do not grow.
            b.send_all();
        }
        let failed = b.outbox.spool_due(late());
        assert!(failed.unwrap_err().contains("full"));
        assert!(b.outbox.stats().spooled_bytes <= 5000);
        b.outbox.rewind();
        assert_eq!(b.send_all(), (1..=20).collect::<Vec<_>>());
    }

    #[test]
    fn records_that_can_not_be_read_back_become_a_gap() {
        let mut b = bench(64 << 10, 1 << 20);
        for _ in 0..3 {
            b.log(50);
        }
        b.outbox.fill();
        b.outbox.spool_due(late()).unwrap();
        let path = files(&b.dir).unwrap()[0].path.clone();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_len(200).unwrap();
        let (ready, trouble) = b.outbox.next(CREDIT);
        assert!(trouble.unwrap().contains("lost"));
        let (record, _) = Record::decode(&ready.unwrap().body).unwrap();
        assert_eq!(record.seq, 3);
        assert!(
            matches!(record.body, RecordBody::Gap { from_seq: 1, to_seq: 3, count: 3, reason } if reason == SPOOL_LOST)
        );
        assert_eq!(b.outbox.stats().lost, 3);
    }

    #[test]
    fn a_long_time_without_an_owner_makes_a_short_index() {
        let mut b = bench(64 << 10, 64 << 20);
        for _ in 0..2000 {
            b.log(10);
            b.outbox.fill();
            b.outbox.spool_due(late()).unwrap();
        }
        assert!(b.outbox.batches.len() < 5, "{}", b.outbox.batches.len());
        assert_eq!(b.send_all(), (1..=2000).collect::<Vec<_>>());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whatever_happens_every_record_is_in_the_ring_the_spool_or_durable(
            ops in prop::collection::vec((0u8..8, 0usize..3000), 1..80)
        ) {
            let mut b = bench(32 << 10, 1 << 20);
            let (mut durable_to, mut sent_to) = (0, 0);
            for (op, n) in ops {
                match op {
                    0..=2 => {
                        b.log(n);
                    }
                    3 => {
                        b.outbox.fill();
                        if let (Some(ready), _) = b.outbox.next(n + 1) {
                            sent_to = sent_to.max(ready.last_seq);
                        }
                    }
                    4 => {
                        durable_to = durable_to.max(sent_to.min(durable_to + n as u64 % 5));
                        b.outbox.acknowledge(durable(durable_to));
                    }
                    5 => b.outbox.rewind(),
                    6 => b.outbox.acknowledge(Ack { durable_seq: 0, written_seq: sent_to }),
                    _ => {
                        b.outbox.fill();
                        b.outbox.spool_due(late()).unwrap();
                    }
                }
                b.outbox.fill();
                b.outbox.spool_due(Instant::now()).unwrap();
                let memory = b.ring.shared().unwrap();
                let left = crate::ring::leftover::Leftover::read(memory.as_fd()).unwrap();
                let mut there = b.on_disk();
                there.extend(seqs_of(&left.records));
                let needed: Vec<u64> = (durable_to + 1..=b.ring.last_seq()).collect();
                there.retain(|seq| *seq > durable_to);
                prop_assert_eq!(there, needed);
            }
            b.outbox.rewind();
            let sent: Vec<u64> = b.send_all().into_iter().filter(|s| *s > durable_to).collect();
            prop_assert_eq!(sent, (durable_to + 1..=b.ring.last_seq()).collect::<Vec<_>>());
        }
    }
}
