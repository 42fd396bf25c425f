//! The writer as a state machine: random work, crashes, power cuts and failing calls, against a ledger.

use std::collections::{BTreeMap, BTreeSet};

use expman_model::record::Level;
use expman_model::{
    Incarnation, Point, RankState, Record, RecordBody, RunMeta, RunStatus, Value, WriterId,
};
use proptest::prelude::*;
use rustix::io::Errno;

use crate::faults::{self, Call, Fault};
use crate::text::LogKind;
use crate::{Filter, OwnerLock, RunDir, RunWriter, Tail, TextTail, snapshot};

const WRITERS: u32 = 3;
/// After a few messages a text is rolled.
const ROLL_BYTES: u64 = 200;

#[derive(Debug, Clone)]
enum Op {
    /// A batch of so many new records, which begins with so many that were sent before.
    Append(u32, u64, u64),
    /// Numbers that never come.
    Skip(u32, u64),
    Write,
    Sync,
    Save,
    Publish,
    Tick,
    /// A rank leaves, or is given up.
    Leave(u32, bool),
    Look,
    /// The process dies; what it wrote stays.
    Crash,
    /// The power goes; of what was not synced a part stays.
    PowerCut(Vec<u8>),
    Finish,
    Fail(Fault),
    Mend,
}

fn op() -> impl Strategy<Value = Op> {
    let writer = || 0..WRITERS;
    let call = prop_oneof![
        3 => Just(Call::Write),
        4 => Just(Call::Sync),
        1 => Just(Call::Rename)
    ];
    let error = prop_oneof![Just(Errno::IO), Just(Errno::NOSPC), Just(Errno::DQUOT)];
    prop_oneof![
        12 => (writer(), 1u64..6, 0u64..4).prop_map(|(writer, new, again)| Op::Append(writer, new, again)),
        1 => (writer(), 1u64..4).prop_map(|(writer, n)| Op::Skip(writer, n)),
        5 => Just(Op::Write),
        5 => Just(Op::Sync),
        1 => Just(Op::Save),
        1 => Just(Op::Publish),
        2 => Just(Op::Tick),
        2 => (writer(), any::<bool>()).prop_map(|(writer, lost)| Op::Leave(writer, lost)),
        2 => Just(Op::Look),
        1 => Just(Op::Crash),
        1 => prop::collection::vec(any::<u8>(), 1..8).prop_map(Op::PowerCut),
        1 => Just(Op::Finish),
        4 => (call, 0u32..3, 1u32..4, error)
            .prop_map(|(call, after, times, error)| Op::Fail(Fault { call, after, times, error })),
        2 => Just(Op::Mend),
    ]
}

/// What one writer has sent, and what it was told of it.
#[derive(Debug, Default)]
struct Sender {
    /// The next number it sends.
    next: u64,
    /// The last one that it ever used.
    last: u64,
    skipped: BTreeSet<u64>,
    written: u64,
    durable: u64,
    /// Its goodbye was answered, and it said nothing since.
    left: bool,
}

struct Machine {
    dir: RunDir,
    open: Option<(OwnerLock, RunWriter)>,
    senders: Vec<Sender>,
    tail: Tail,
    /// What the tail returned; a power cut takes back rows that it saw, so then nothing is expected of it.
    seen: Option<BTreeSet<(u32, u64, String)>>,
}

fn id(rank: u32) -> WriterId {
    WriterId {
        rank,
        incarnation: Incarnation(7),
    }
}

/// Every fifth record is a message, every seventh a scalar, the others are calls of two metrics.
fn record(rank: u32, seq: u64) -> RecordBody {
    match seq {
        n if n % 5 == 0 => RecordBody::Message {
            level: Level::INFO,
            logger: String::new(),
            file: String::new(),
            line: 0,
            text: format!("{rank}/{n}"),
        },
        n if n % 7 == 0 => RecordBody::Scalar(Point::new("s", Value::Int(n.cast_signed()))),
        n => RecordBody::Metrics {
            step: Some(n.cast_signed()),
            points: vec![
                Point::new(format!("m{}", n % 3), Value::Int(n.cast_signed())),
                Point::new("text", Value::Text(format!("{rank}/{n}"))),
            ],
        },
    }
}

impl Machine {
    fn new(root: &std::path::Path) -> Self {
        let dir = RunDir::at(root.join("run"));
        faults::watch(dir.root());
        let mut machine = Self {
            tail: Tail::new(dir.clone()),
            dir,
            open: None,
            senders: (0..WRITERS)
                .map(|_| Sender {
                    next: 1,
                    ..Sender::default()
                })
                .collect(),
            seen: Some(BTreeSet::new()),
        };
        machine.reopen(false);
        machine
    }

    fn writer(&mut self) -> &mut RunWriter {
        &mut self.open.as_mut().unwrap().1
    }

    /// Only a power cut may leave what looks like damage: bytes that were never synced.
    fn reopen(&mut self, after_power_cut: bool) {
        self.open = None;
        let open = |dir: &RunDir| {
            let lock = OwnerLock::take(dir)?;
            let (writer, recovery) = RunWriter::open(&lock, dir, RunMeta::default())?;
            Ok::<_, crate::StorageError>((lock, writer, recovery))
        };
        let opened = open(&self.dir).unwrap_or_else(|_| {
            faults::mend(self.dir.root());
            open(&self.dir).unwrap()
        });
        assert!(
            after_power_cut || opened.2.problems.is_empty(),
            "{:?}",
            opened.2.problems
        );
        self.open = Some((opened.0, opened.1));
        self.writer().roll_bytes = ROLL_BYTES;
        for rank in 0..WRITERS {
            if self.senders[rank as usize].left {
                let at = self.writer().find(id(rank)).unwrap();
                assert!(self.writer().has_left(at), "rank {rank} left");
            }
            let known = self.writer().register(id(rank), "h", 1).durable_seq;
            let sender = &mut self.senders[rank as usize];
            assert!(
                known >= sender.durable,
                "rank {rank}: {known} < {}",
                sender.durable
            );
            assert!(known <= sender.last);
            sender.next = known + 1;
            (sender.durable, sender.written) = (known, known);
        }
    }

    /// Every stored row once, of each writer what it sent from its first to its last stored number.
    fn check(&self, recovered: bool, exact: impl Fn(&Sender) -> (u64, u64)) {
        let mut stored: BTreeMap<u32, BTreeMap<u64, u32>> = BTreeMap::new();
        for row in snapshot(&self.dir, &Filter::default()).unwrap().rows.iter() {
            *stored
                .entry(row.rank)
                .or_default()
                .entry(row.seq)
                .or_default() += 1;
        }
        let mut text = TextTail::new(&self.dir, LogKind::Run, 0);
        let mut messages: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        loop {
            let from = text.offset();
            for line in text.poll().unwrap() {
                let line = String::from_utf8(line.text).unwrap();
                let (rank, seq) = line.split_once('/').unwrap();
                messages
                    .entry(rank.parse().unwrap())
                    .or_default()
                    .push(seq.parse().unwrap());
            }
            if text.offset() == from {
                break;
            }
        }
        for (rank, sender) in (0u32..).zip(&self.senders) {
            let (at_least, at_most) = exact(sender);
            let none = BTreeMap::new();
            let calls = stored.get(&rank).unwrap_or(&none);
            assert!(
                calls.values().all(|&points| points == 2),
                "rank {rank} has calls twice or in part: {calls:?}"
            );
            let told = messages.get(&rank).map_or(&[][..], Vec::as_slice);
            assert!(
                told.is_sorted_by(|a, b| a < b),
                "rank {rank} has messages twice or out of order: {told:?}"
            );
            // Text is written in front of its frame, so without a recovery it may be ahead.
            let ahead = told.last().filter(|_| recovered);
            let upto = calls.keys().last().max(ahead).copied().unwrap_or(0);
            assert!(
                upto <= at_most,
                "rank {rank}: {upto} is more than {at_most}"
            );
            for seq in (1..=upto.max(at_least)).filter(|seq| !sender.skipped.contains(seq)) {
                let there = match record(rank, seq) {
                    RecordBody::Metrics { .. } => calls.contains_key(&seq),
                    RecordBody::Message { .. } => told.contains(&seq),
                    _ => true,
                };
                assert!(
                    there,
                    "rank {rank} lacks {seq} of {upto}, at least {at_least}"
                );
            }
        }
    }

    fn look(&mut self) {
        let rows = self.tail.poll().unwrap();
        if let Some(seen) = &mut self.seen {
            for row in rows.iter() {
                let new = seen.insert((row.rank, row.seq, row.key.to_owned()));
                assert!(new, "the tail returned {row:?} twice");
            }
        }
    }

    fn append(&mut self, writer: u32, new: u64, again: u64) {
        let sender = &mut self.senders[writer as usize];
        let first = sender.next.saturating_sub(again).max(1);
        let mut bytes = Vec::new();
        for seq in (first..sender.next + new).filter(|seq| !sender.skipped.contains(seq)) {
            Record {
                seq,
                timestamp_us: 1,
                body: record(writer, seq),
            }
            .encode(&mut bytes);
        }
        sender.left = false;
        sender.next += new;
        sender.last = sender.last.max(sender.next - 1);
        self.writer().append(writer, &bytes).unwrap();
    }

    /// It leaves, or is given up; who was given up comes back at once.
    fn leave(&mut self, rank: u32, lost: bool) {
        let states = [RankState::Left, RankState::Lost];
        let state = states[usize::from(lost)];
        let writer = self.writer();
        writer.leave(rank, state, RunStatus::Finished, "");
        let kept = writer.try_keep_ends(std::iter::once(rank)).unwrap();
        writer.register(id(rank), "h", 1);
        let sender = &mut self.senders[rank as usize];
        sender.left = !lost && (kept || sender.left);
        if kept {
            self.told(true);
        }
    }

    fn told(&mut self, durable: bool) {
        let writer = &self.open.as_ref().unwrap().1;
        for (rank, sender) in (0u32..).zip(&mut self.senders) {
            let progress = writer.progress(rank);
            sender.written = progress.applied_seq;
            if durable {
                sender.durable = progress.durable_seq;
            }
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Append(writer, new, again) => self.append(writer, new, again),
            Op::Skip(writer, n) => {
                let sender = &mut self.senders[writer as usize];
                // Only numbers that were never used can be lost.
                if sender.next == sender.last + 1 {
                    sender.skipped.extend(sender.next..sender.next + n);
                    sender.next += n;
                }
            }
            Op::Write => {
                if self.writer().write().is_ok() {
                    self.told(false);
                }
            }
            Op::Sync | Op::Save => {
                let save = matches!(op, Op::Save);
                let writer = self.writer();
                let done = if save { writer.save() } else { writer.sync() };
                if done.is_ok() {
                    self.told(true);
                }
            }
            Op::Publish => {
                self.writer().want_published();
                self.writer().tick().unwrap();
            }
            Op::Tick => self.writer().tick().unwrap(),
            Op::Leave(writer, lost) => self.leave(writer, lost),
            Op::Look => self.look(),
            Op::Crash => {
                self.open = None;
                self.check(false, |s| (s.written, s.last));
                self.reopen(false);
                self.check(true, |s| (s.durable, s.durable));
            }
            Op::PowerCut(luck) => {
                self.open = None;
                self.seen = None;
                let mut luck = luck.into_iter().cycle();
                faults::power_cut(self.dir.root(), || luck.next().unwrap_or(0)).unwrap();
                self.reopen(true);
                self.check(true, |s| (s.durable, s.durable));
            }
            Op::Finish => {
                if self.writer().finish().is_ok() {
                    self.told(true);
                    self.check(true, |s| (s.durable, s.durable));
                    assert!(
                        self.dir.wals().unwrap().is_empty()
                            && self.dir.segments().unwrap().is_empty()
                    );
                }
                self.reopen(false);
            }
            Op::Fail(fault) => faults::fail(self.dir.root(), fault),
            Op::Mend => faults::mend(self.dir.root()),
        }
    }
}

fn cases() -> u32 {
    let asked = std::env::var("EXPMAN_CASES")
        .ok()
        .and_then(|n| n.parse().ok());
    asked.unwrap_or(60)
}

/// In memory where that is possible: the syncs are watched here, not waited for.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 2_000, ..ProptestConfig::default() })]
    #[test]
    fn whatever_fails_and_whenever_it_dies_what_was_called_durable_is_stored_once(
        ops in prop::collection::vec(op(), 1..80)
    ) {
        let tmp = folder();
        let mut machine = Machine::new(tmp.path());
        for op in ops {
            machine.apply(op);
        }
        machine.look();
        faults::mend(machine.dir.root());
        machine.writer().finish().unwrap();
        machine.told(true);
        machine.check(true, |s| (s.durable, s.durable));
        machine.look();
        let meta = crate::catalog::open_run(machine.dir.root()).unwrap().meta;
        let lost: u64 = machine
            .senders
            .iter()
            .map(|s| s.skipped.range(..=s.durable).count() as u64)
            .sum();
        assert_eq!(meta.dropped, lost, "numbers that never came");
        if let Some(seen) = machine.seen {
            assert_eq!(seen.len() as u64, meta.rows, "rows that the tail returned");
        }
    }
}
