//! The book of barriers: who still owes which version. Plain data, no runtime.
//!
//! A version is owed by the writers that were live when it opened; an answer counts once,
//! by writer and version, so duplicates, stale and foreign ones change nothing.

use std::collections::{BTreeMap, HashMap};

use expman_model::{FlushReport, FlushScope, RankOutcome, RankOutcomeState, Version, WriterId};

/// What is known of a live writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Last durable sequence number.
    pub durable_seq: u64,
    /// Greatest step.
    pub last_step: Option<i64>,
    /// Wall clock of the last word from it, microseconds.
    pub last_seen_us: i64,
}

/// A caller that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiter<T> {
    /// How to answer it.
    pub to: T,
    /// When it asked, microseconds of a monotonic clock.
    pub asked_us: u64,
}

#[derive(Debug)]
struct Open<T> {
    owed: BTreeMap<WriterId, Option<RankOutcomeState>>,
    /// How many of them have no outcome yet.
    owing: usize,
    /// What was known of a writer when it answered, or when it was gone.
    at_done: HashMap<WriterId, Standing>,
    waiters: Vec<Waiter<T>>,
}

/// A version that ended.
#[derive(Debug, PartialEq)]
pub struct Closed<T> {
    /// Its report; `elapsed_secs` is that of the first caller.
    pub report: FlushReport,
    /// Everyone who waits for it.
    pub waiters: Vec<Waiter<T>>,
}

/// The book.
#[derive(Debug)]
pub struct BarrierBook<T> {
    epoch: u64,
    next: u64,
    live: BTreeMap<WriterId, Standing>,
    open: BTreeMap<Version, Open<T>>,
    /// Answers that changed nothing.
    pub ignored_answers: u64,
}

impl<T> BarrierBook<T> {
    /// The book of one owner.
    #[must_use]
    pub const fn new(epoch: u64) -> Self {
        Self {
            epoch,
            next: 1,
            live: BTreeMap::new(),
            open: BTreeMap::new(),
            ignored_answers: 0,
        }
    }

    /// A writer is live: it owes from the next version on.
    pub fn join(&mut self, writer: WriterId, standing: Standing) {
        self.live.insert(writer, standing);
    }

    /// What is known of a live writer changed.
    pub fn stand(&mut self, writer: WriterId, standing: Standing) {
        if let Some(known) = self.live.get_mut(&writer) {
            *known = standing;
        }
    }

    /// The live writers.
    pub fn live(&self) -> impl Iterator<Item = WriterId> {
        self.live.keys().copied()
    }

    /// How many versions have not ended.
    #[must_use]
    pub fn open_versions(&self) -> usize {
        self.open.len()
    }

    /// Opens the next version for these callers; returns it with the writers that owe it.
    ///
    /// With [`FlushScope::Rank`] only the asking writer owes.
    pub fn open(
        &mut self,
        scope: FlushScope,
        by: WriterId,
        waiters: Vec<Waiter<T>>,
    ) -> (Version, Vec<WriterId>) {
        let version = Version {
            epoch: self.epoch,
            number: self.next,
        };
        self.next += 1;
        let owed: BTreeMap<_, _> = match scope {
            FlushScope::Run => self.live.keys().map(|w| (*w, None)).collect(),
            FlushScope::Rank => std::iter::once((by, None)).collect(),
        };
        let who = owed.keys().copied().collect();
        self.open.insert(
            version,
            Open {
                owing: owed.len(),
                owed,
                at_done: HashMap::new(),
                waiters,
            },
        );
        (version, who)
    }

    /// Versions that a writer still owes, for a link that came back.
    pub fn owed_by(&self, writer: WriterId) -> Vec<Version> {
        self.open
            .iter()
            .filter(|(_, o)| o.owed.get(&writer) == Some(&None))
            .map(|(v, _)| *v)
            .collect()
    }

    /// A writer's data up to its marker is durable.
    pub fn durable(&mut self, version: Version, writer: WriterId, seq: u64) {
        let owed = self.open.get_mut(&version).and_then(|open| {
            let slot = open.owed.get_mut(&writer)?;
            Some((slot, &mut open.owing, &mut open.at_done))
        });
        match owed {
            Some((slot @ None, owing, at_done)) => {
                *slot = Some(RankOutcomeState::Durable);
                *owing -= 1;
                let known = self.live.get(&writer).copied().unwrap_or_default();
                at_done.insert(
                    writer,
                    Standing {
                        durable_seq: seq,
                        ..known
                    },
                );
            }
            _ => self.ignored_answers += 1,
        }
    }

    /// A writer is gone; one that closed in good order left everything durable.
    pub fn leave(&mut self, writer: WriterId, state: RankOutcomeState, standing: Standing) {
        self.live.remove(&writer);
        for open in self.open.values_mut() {
            if let Some(slot @ None) = open.owed.get_mut(&writer) {
                *slot = Some(state);
                open.owing -= 1;
                open.at_done.insert(writer, standing);
            }
        }
    }

    /// Every version that nobody owes any more.
    pub fn settled(&mut self, rows: u64, now_us: u64) -> Vec<Closed<T>> {
        let done: Vec<Version> = self
            .open
            .iter()
            .filter(|(_, o)| o.owing == 0)
            .map(|(v, _)| *v)
            .collect();
        done.into_iter()
            .filter_map(|v| self.close(v, rows, now_us))
            .collect()
    }

    /// Ends a version now; who still owes is reported as timed out.
    pub fn close(&mut self, version: Version, rows: u64, now_us: u64) -> Option<Closed<T>> {
        let open = self.open.remove(&version)?;
        let report = self.report(version, &open, rows, now_us);
        Some(Closed {
            report,
            waiters: open.waiters,
        })
    }

    /// One caller stops waiting before the version ends; returns its report.
    pub fn expire(
        &mut self,
        version: Version,
        is: impl Fn(&T) -> bool,
        rows: u64,
        now_us: u64,
    ) -> Option<(Waiter<T>, FlushReport)> {
        let open = self.open.get(&version)?;
        let at = open.waiters.iter().position(|w| is(&w.to))?;
        let report = self.report(version, open, rows, now_us);
        let open = self.open.get_mut(&version)?;
        let waiter = open.waiters.remove(at);
        if open.waiters.is_empty() {
            self.open.remove(&version);
        }
        Some((waiter, report))
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "microseconds of a flush are far below 2^53"
    )]
    fn report(&self, version: Version, open: &Open<T>, rows: u64, now_us: u64) -> FlushReport {
        let mut ranks: BTreeMap<u32, RankOutcome> = BTreeMap::new();
        for (writer, state) in &open.owed {
            let standing = open
                .at_done
                .get(writer)
                .or_else(|| self.live.get(writer))
                .copied()
                .unwrap_or_default();
            let outcome = RankOutcome {
                state: state.unwrap_or(RankOutcomeState::Timeout),
                seq: standing.durable_seq,
                last_step: standing.last_step,
                last_seen_us: standing.last_seen_us,
                last_lines: Vec::new(),
            };
            // Of two incarnations of a rank the one that is worse off speaks for it.
            let worse = ranks
                .get(&writer.rank)
                .is_none_or(|known| severity(known.state) <= severity(outcome.state));
            if worse {
                ranks.insert(writer.rank, outcome);
            }
        }
        let complete = ranks.values().all(|r| r.state == RankOutcomeState::Durable);
        let asked = open
            .waiters
            .iter()
            .map(|w| w.asked_us)
            .min()
            .unwrap_or(now_us);
        FlushReport {
            version,
            complete,
            ranks,
            rows,
            elapsed_secs: now_us.saturating_sub(asked) as f64 / 1e6,
            forwarding: true,
        }
    }
}

const fn severity(state: RankOutcomeState) -> u8 {
    match state {
        RankOutcomeState::Durable => 0,
        RankOutcomeState::Timeout => 1,
        RankOutcomeState::Dead => 2,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use expman_model::Incarnation;
    use proptest::prelude::*;

    use super::*;

    fn w(rank: u32) -> WriterId {
        WriterId {
            rank,
            incarnation: Incarnation(7),
        }
    }

    fn waiter(to: u32) -> Vec<Waiter<u32>> {
        vec![Waiter { to, asked_us: 0 }]
    }

    fn book(ranks: u32) -> BarrierBook<u32> {
        let mut book = BarrierBook::new(3);
        for rank in 0..ranks {
            book.join(w(rank), Standing::default());
        }
        book
    }

    #[test]
    fn a_version_ends_when_every_rank_answered_once() {
        let mut book = book(2);
        let (v, owed) = book.open(FlushScope::Run, w(0), waiter(1));
        assert_eq!(
            (v, owed.len()),
            (
                Version {
                    epoch: 3,
                    number: 1
                },
                2
            )
        );
        book.durable(v, w(0), 5);
        book.durable(v, w(0), 6);
        assert_eq!(book.ignored_answers, 1);
        assert!(book.settled(0, 1).is_empty());
        book.durable(v, w(1), 9);
        let closed = book.settled(14, 2_000_000);
        assert!(closed[0].report.complete);
        assert_eq!(closed[0].report.ranks[&0].seq, 5);
        assert!((closed[0].report.elapsed_secs - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_dead_rank_is_named_and_a_late_joiner_owes_the_next_version() {
        let mut book = book(2);
        let (v, _) = book.open(FlushScope::Run, w(0), waiter(1));
        book.join(w(2), Standing::default());
        book.durable(v, w(0), 5);
        book.leave(
            w(1),
            RankOutcomeState::Dead,
            Standing {
                durable_seq: 3,
                last_step: Some(9),
                last_seen_us: 77,
            },
        );
        let closed = book.settled(0, 1);
        let report = &closed[0].report;
        assert!(!report.complete);
        assert_eq!(
            (report.ranks[&1].state, report.ranks[&1].seq),
            (RankOutcomeState::Dead, 3)
        );
        assert!(!report.ranks.contains_key(&2));
        assert_eq!(
            (report.ranks[&1].last_step, report.ranks[&1].last_seen_us),
            (Some(9), 77)
        );
        let (_, owed) = book.open(FlushScope::Run, w(0), waiter(2));
        assert_eq!(owed, [w(0), w(2)]);
    }

    #[test]
    fn foreign_and_stale_answers_are_counted_and_ignored() {
        let mut book = book(1);
        let (v, _) = book.open(FlushScope::Run, w(0), waiter(1));
        book.durable(v, w(9), 1);
        book.durable(
            Version {
                epoch: 1,
                number: 1,
            },
            w(0),
            1,
        );
        assert_eq!(book.ignored_answers, 2);
        assert!(book.settled(0, 0).is_empty());
    }

    #[test]
    fn an_expired_caller_learns_who_owes_and_the_others_go_on() {
        let mut book = book(2);
        let callers = vec![Waiter { to: 1, asked_us: 0 }, Waiter { to: 2, asked_us: 0 }];
        let (v, _) = book.open(FlushScope::Run, w(0), callers);
        book.durable(v, w(0), 5);
        let (_, report) = book.expire(v, |to| *to == 1, 0, 0).unwrap();
        assert_eq!(report.ranks[&1].state, RankOutcomeState::Timeout);
        book.durable(v, w(1), 5);
        assert_eq!(book.settled(0, 0)[0].waiters.len(), 1);
    }

    #[derive(Debug, Clone)]
    enum Op {
        Join(u32),
        Die(u32),
        Open(u32),
        Answer(u32, u64),
        Expire(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0u32..5).prop_map(Op::Join),
            (0u32..5).prop_map(Op::Die),
            (0u32..5).prop_map(Op::Open),
            (0u32..5, 1u64..8).prop_map(|(r, v)| Op::Answer(r, v)),
            (1u64..8).prop_map(Op::Expire),
        ]
    }

    proptest! {
        #[test]
        fn every_caller_is_answered_once_and_complete_means_every_member_answered(ops in prop::collection::vec(op(), 1..120)) {
            let mut book = BarrierBook::new(1);
            let mut members: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
            let mut answered: HashSet<(u64, u32)> = HashSet::new();
            let mut live = BTreeSet::new();
            let (mut asked, mut replied) = (0u32, Vec::new());
            for op in ops {
                match op {
                    Op::Join(r) => {
                        book.join(w(r), Standing::default());
                        live.insert(r);
                    }
                    Op::Die(r) => {
                        book.leave(w(r), RankOutcomeState::Dead, Standing::default());
                        live.remove(&r);
                    }
                    Op::Open(r) => {
                        asked += 1;
                        let (v, _) = book.open(FlushScope::Run, w(r), waiter(asked));
                        members.insert(v.number, live.clone());
                    }
                    Op::Answer(r, n) => {
                        if live.contains(&r) {
                            answered.insert((n, r));
                            book.durable(Version { epoch: 1, number: n }, w(r), 1);
                        }
                    }
                    Op::Expire(n) => {
                        let version = Version { epoch: 1, number: n };
                        if let Some(closed) = book.close(version, 0, 0) {
                            prop_assert!(!closed.report.complete || members[&n].is_empty());
                            replied.extend(closed.waiters.into_iter().map(|w| w.to));
                        }
                    }
                }
                for closed in book.settled(0, 0) {
                    let n = closed.report.version.number;
                    let all = members[&n].iter().all(|r| answered.contains(&(n, *r)));
                    prop_assert!(!closed.report.complete || all);
                    prop_assert_eq!(closed.report.ranks.keys().copied().collect::<BTreeSet<_>>(), members[&n].clone());
                    replied.extend(closed.waiters.into_iter().map(|w| w.to));
                }
            }
            let unique: HashSet<_> = replied.iter().collect();
            prop_assert_eq!(unique.len(), replied.len());
        }
    }
}
