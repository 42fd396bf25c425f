//! The book of barriers inside a small mesh: processes that log, ask, answer, die and come back over links that
//! break, an owner that syncs, forgets and is replaced. Every step is checked against a model that knows the truth.
//!
//! `EXPMAN_CASES` multiplies how many such lives are tried.
#![expect(clippy::unwrap_used, reason = "only tests come here")]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use expman_actors::barrier::{BarrierBook, Standing, Waiter};
use expman_model::{
    FlushReport, FlushScope, Incarnation, RankOutcomeState as State, Version, WriterId,
};
use proptest::prelude::*;

const RANKS: usize = 4;

/// What may happen next; a step that is impossible now does nothing.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A process logs one record.
    Log(usize),
    /// It asks for a flush: of the run or of itself, within so many ticks.
    Ask(usize, bool, u64),
    /// It sends what it logged.
    Send(usize),
    /// It learns of the next barrier, and answers behind its data.
    Hear(usize),
    /// The owner takes the next frame of a link.
    Deliver(usize),
    /// The owner opens one version for all requests that wait.
    Open,
    /// The owner makes everything that it has durable.
    Sync,
    /// The link of a process breaks: what is under way is lost.
    Break(usize),
    /// The process has a link again.
    Connect(usize),
    /// The owner gives up a process that has no link; it may live.
    LeaseOver(usize),
    /// A process dies; with last words its frames still arrive.
    Die(usize, bool),
    /// It closes in good order.
    Leave(usize),
    /// The rank has a new process.
    Start(usize),
    /// Time goes on, and deadlines pass.
    Time(u64),
    /// An answer that nobody owes: of a former epoch, of a version that is closed or to come, from a stranger,
    /// or a second one.
    Stale(usize, u64, u64),
    /// The owner is killed, and another one takes over.
    OwnerDies,
}

fn step() -> impl Strategy<Value = Step> {
    let r = || 0..RANKS;
    prop_oneof![
        4 => r().prop_map(Step::Log),
        3 => (r(), prop::bool::weighted(0.2), 1u64..30).prop_map(|(r, own, t)| Step::Ask(r, own, t)),
        3 => r().prop_map(Step::Send),
        6 => r().prop_map(Step::Hear),
        10 => r().prop_map(Step::Deliver),
        4 => Just(Step::Open),
        4 => Just(Step::Sync),
        1 => r().prop_map(Step::Break),
        2 => r().prop_map(Step::Connect),
        1 => r().prop_map(Step::LeaseOver),
        1 => (r(), any::<bool>()).prop_map(|(r, words)| Step::Die(r, words)),
        1 => r().prop_map(Step::Leave),
        2 => r().prop_map(Step::Start),
        2 => (1u64..10).prop_map(Step::Time),
        2 => (r(), 0u64..3, 0u64..12).prop_map(|(r, e, n)| Step::Stale(r, e, n)),
        1 => Just(Step::OwnerDies),
    ]
}

/// A request as an owner holds it: one process may ask the same again over another link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Call {
    writer: WriterId,
    id: u64,
    /// The link it came over, and the only one that its answer can take.
    link: u64,
}

#[derive(Debug, Clone, Copy)]
enum Frame {
    Data(u64),
    Marker(Version),
    Flush { id: u64, own: bool, until: u64 },
    Bye,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    own: bool,
    until: u64,
    /// What it had logged by then.
    logged: u64,
}

/// A process of a rank.
#[derive(Debug)]
struct Process {
    writer: WriterId,
    alive: bool,
    leaving: bool,
    logged: u64,
    /// Which of its links; none while it has no link.
    link: Option<u64>,
    to_owner: VecDeque<Frame>,
    barriers: VecDeque<Version>,
    asked: BTreeMap<u64, Asked>,
    forwarded: BTreeSet<u64>,
}

/// What is true of an open version.
#[derive(Debug, Default)]
struct Truth {
    members: BTreeMap<WriterId, Option<State>>,
    /// What each member had logged when it answered.
    marks: HashMap<WriterId, u64>,
    calls: BTreeSet<Call>,
}

struct World {
    book: BarrierBook<Call>,
    epoch: u64,
    now: u64,
    processes: Vec<Process>,
    incarnations: u64,
    links: u64,
    requests: u64,
    /// What the disk has of each writer, and what the present owner has.
    durable: HashMap<WriterId, u64>,
    received: HashMap<WriterId, u64>,
    tokens: Vec<(Version, WriterId)>,
    unopened: Vec<(Call, bool)>,
    deadlines: BTreeSet<(u64, Version, Call)>,
    open: BTreeMap<Version, Truth>,
    live: BTreeSet<WriterId>,
    last_version: Option<Version>,
    /// Calls that the book took and gave back.
    given: HashSet<Call>,
    returned: HashSet<Call>,
    ignored: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            book: BarrierBook::new(1),
            epoch: 1,
            now: 0,
            processes: Vec::new(),
            incarnations: 0,
            links: 0,
            requests: 0,
            durable: HashMap::new(),
            received: HashMap::new(),
            tokens: Vec::new(),
            unopened: Vec::new(),
            deadlines: BTreeSet::new(),
            open: BTreeMap::new(),
            live: BTreeSet::new(),
            last_version: None,
            given: HashSet::new(),
            returned: HashSet::new(),
            ignored: 0,
        };
        for rank in 0..RANKS {
            let process = world.process(rank);
            world.processes.push(process);
            world.connect(rank);
        }
        world
    }

    fn process(&mut self, rank: usize) -> Process {
        self.incarnations += 1;
        Process {
            writer: WriterId {
                rank: u32::try_from(rank).unwrap(),
                incarnation: Incarnation(self.incarnations),
            },
            alive: true,
            leaving: false,
            logged: 0,
            link: None,
            to_owner: VecDeque::new(),
            barriers: VecDeque::new(),
            asked: BTreeMap::new(),
            forwarded: BTreeSet::new(),
        }
    }

    fn standing(&self, writer: WriterId) -> Standing {
        Standing {
            durable_seq: self.durable.get(&writer).copied().unwrap_or(0),
            ..Standing::default()
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Log(r) => self.processes[r].log(),
            Step::Ask(r, own, within) => self.ask(r, own, within),
            Step::Send(r) => self.processes[r].send(),
            Step::Hear(r) => self.hear(r),
            Step::Deliver(r) => self.deliver(r),
            Step::Open => self.open_waiting(),
            Step::Sync => self.sync(),
            Step::Break(r) => self.processes[r].cut(),
            Step::Connect(r) => self.connect(r),
            Step::LeaseOver(r) => self.lease_over(r),
            Step::Die(r, words) => self.die(r, words),
            Step::Leave(r) => self.processes[r].leave(),
            Step::Start(r) => self.start(r),
            Step::Time(ticks) => self.time(ticks),
            Step::Stale(r, epoch, number) => self.stale(r, epoch, number),
            Step::OwnerDies => self.owner_dies(),
        }
        self.settle();
        let live: BTreeSet<WriterId> = self.book.live().collect();
        assert_eq!(live, self.live, "the book knows others than there are");
        assert_eq!(self.book.ignored_answers, self.ignored, "ignored answers");
        assert_eq!(self.book.open_versions(), self.open.len(), "open versions");
    }

    fn ask(&mut self, r: usize, own: bool, within: u64) {
        let until = self.now + within;
        let process = &mut self.processes[r];
        if process.alive && !process.leaving {
            self.requests += 1;
            let logged = process.logged;
            let asked = Asked { own, until, logged };
            process.asked.insert(self.requests, asked);
            process.forward();
        }
    }

    fn hear(&mut self, r: usize) {
        let process = &mut self.processes[r];
        let Some(version) = process.barriers.pop_front().filter(|_| process.alive) else {
            return;
        };
        process.send();
        process.to_owner.push_back(Frame::Marker(version));
        if let Some(truth) = self.open.get_mut(&version) {
            truth.marks.entry(process.writer).or_insert(process.logged);
        }
    }

    fn deliver(&mut self, r: usize) {
        let process = &mut self.processes[r];
        let (writer, link) = (process.writer, process.link);
        let Some(frame) = process.to_owner.pop_front() else {
            return;
        };
        if !self.live.contains(&writer) {
            return;
        }
        match frame {
            Frame::Data(upto) => {
                let received = self.received.entry(writer).or_default();
                *received = upto.max(*received);
            }
            Frame::Marker(version) => self.tokens.push((version, writer)),
            Frame::Flush { id, own, until } => {
                let link = link.unwrap_or(0);
                let call = Call { writer, id, link };
                self.given.insert(call);
                self.unopened.push((call, own));
                // The deadline runs from when the version opens; here it is kept by the request.
                self.deadlines.insert((
                    until,
                    Version {
                        epoch: 0,
                        number: 0,
                    },
                    call,
                ));
            }
            Frame::Bye => {
                self.sync();
                self.part(writer, State::Durable);
            }
        }
    }

    fn open_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.unopened);
        let (own, run): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(_, own)| *own);
        if !run.is_empty() {
            self.open(
                FlushScope::Run,
                run.into_iter().map(|(call, _)| call).collect(),
            );
        }
        for (call, _) in own {
            self.open(FlushScope::Rank, vec![call]);
        }
    }

    fn open(&mut self, scope: FlushScope, calls: Vec<Call>) {
        let by = calls[0].writer;
        let now = self.now;
        let waiters = calls.iter().map(|&to| Waiter { to, asked_us: now });
        let (version, owed) = self.book.open(scope, by, waiters.collect());
        assert!(Some(version) > self.last_version, "versions rise");
        self.last_version = Some(version);
        let owed: BTreeSet<_> = owed.into_iter().collect();
        let expected = match scope {
            FlushScope::Run => self.live.clone(),
            FlushScope::Rank => [by].into(),
        };
        assert_eq!(owed, expected, "who owes {version}");
        for process in &mut self.processes {
            if owed.contains(&process.writer) && process.link.is_some() {
                process.barriers.push_back(version);
            }
        }
        let unopened = Version {
            epoch: 0,
            number: 0,
        };
        let mut deadlines = BTreeSet::new();
        for (until, at, call) in std::mem::take(&mut self.deadlines) {
            let at = if at == unopened && calls.contains(&call) {
                version
            } else {
                at
            };
            deadlines.insert((until, at, call));
        }
        self.deadlines = deadlines;
        let truth = Truth {
            members: owed.into_iter().map(|writer| (writer, None)).collect(),
            marks: HashMap::new(),
            calls: calls.into_iter().collect(),
        };
        self.open.insert(version, truth);
    }

    fn sync(&mut self) {
        for (writer, received) in &self.received {
            self.durable.insert(*writer, *received);
        }
        for (version, writer) in std::mem::take(&mut self.tokens) {
            let standing = self.standing(writer);
            self.book.stand(writer, standing);
            self.book.durable(version, writer, standing.durable_seq);
            let owed = self
                .open
                .get_mut(&version)
                .and_then(|truth| truth.members.get_mut(&writer));
            match owed {
                Some(state @ None) => *state = Some(State::Durable),
                _ => self.ignored += 1,
            }
        }
    }

    fn connect(&mut self, r: usize) {
        let process = &mut self.processes[r];
        if !process.alive || process.link.is_some() {
            return;
        }
        self.links += 1;
        process.link = Some(self.links);
        let writer = process.writer;
        process.barriers = self.book.owed_by(writer).into();
        process.forward();
        let standing = self.standing(writer);
        // What it sent over the link before is known; it sends the rest again.
        self.book.join(writer, standing);
        self.live.insert(writer);
    }

    fn lease_over(&mut self, r: usize) {
        let process = &self.processes[r];
        if process.link.is_none() && self.live.contains(&process.writer) {
            self.part(process.writer, State::Dead);
        }
    }

    fn die(&mut self, r: usize, words: bool) {
        if !self.processes[r].alive {
            return;
        }
        while words && self.processes[r].link.is_some() && !self.processes[r].to_owner.is_empty() {
            self.deliver(r);
        }
        let process = &mut self.processes[r];
        process.cut();
        process.alive = false;
        process.asked.clear();
        let writer = process.writer;
        if self.live.contains(&writer) {
            self.part(writer, State::Dead);
        }
    }

    /// The owner knows that a process is gone.
    fn part(&mut self, writer: WriterId, state: State) {
        let standing = self.standing(writer);
        self.book.leave(writer, state, standing);
        self.live.remove(&writer);
        for truth in self.open.values_mut() {
            if let Some(slot @ None) = truth.members.get_mut(&writer) {
                *slot = Some(state);
                let logged = standing.durable_seq;
                truth.marks.entry(writer).or_insert(logged);
            }
        }
        let process = &mut self.processes[writer.rank as usize];
        if state == State::Durable && process.writer == writer {
            assert_eq!(standing.durable_seq, process.logged, "it left with a debt");
            process.alive = false;
            process.cut();
            process.asked.clear();
        }
    }

    fn start(&mut self, r: usize) {
        if !self.processes[r].alive {
            self.processes[r] = self.process(r);
            self.connect(r);
        }
    }

    fn time(&mut self, ticks: u64) {
        self.now += ticks;
        let later = self.deadlines.split_off(&(
            self.now + 1,
            Version {
                epoch: 0,
                number: 0,
            },
            NOBODY,
        ));
        for (until, version, call) in std::mem::replace(&mut self.deadlines, later) {
            if version.epoch == 0 {
                // No version yet: it stays due.
                self.deadlines.insert((until, version, call));
                continue;
            }
            if let Some((waiter, report)) = self.book.expire(version, |c| *c == call, 0, self.now) {
                assert_eq!(waiter.to, call);
                self.check(&report, &[call], false);
                let truth = self.open.get_mut(&version).unwrap();
                assert!(truth.calls.remove(&call), "{call:?} was answered before");
                if truth.calls.is_empty() {
                    self.open.remove(&version);
                }
                self.answer(call);
            }
        }
    }

    fn stale(&mut self, r: usize, epoch: u64, number: u64) {
        let version = Version {
            epoch: (self.epoch + 1).saturating_sub(epoch),
            number,
        };
        let stranger = WriterId {
            rank: 99,
            incarnation: Incarnation(0),
        };
        let writer = if number.is_multiple_of(3) {
            stranger
        } else {
            self.processes[r].writer
        };
        let owed = self
            .open
            .get(&version)
            .is_some_and(|truth| truth.members.get(&writer) == Some(&None));
        if !owed {
            self.book.durable(version, writer, u64::MAX);
            self.ignored += 1;
        }
    }

    fn owner_dies(&mut self) {
        self.epoch += 1;
        self.book = BarrierBook::new(self.epoch);
        self.ignored = 0;
        self.received = self.durable.clone();
        self.tokens.clear();
        self.unopened.clear();
        self.deadlines.clear();
        self.open.clear();
        // What the former owner held it can't answer any more; the processes ask again.
        self.given = self.returned.clone();
        let live = std::mem::take(&mut self.live);
        for process in &mut self.processes {
            process.cut();
            if process.alive && live.contains(&process.writer) {
                self.live.insert(process.writer);
            }
        }
        for writer in self.live.clone() {
            let standing = self.standing(writer);
            self.book.join(writer, standing);
        }
    }

    fn settle(&mut self) {
        for closed in self.book.settled(0, self.now) {
            let truth = &self.open[&closed.report.version];
            let calls: BTreeSet<Call> = closed.waiters.iter().map(|w| w.to).collect();
            assert_eq!(
                calls.len(),
                closed.waiters.len(),
                "a caller stands there twice"
            );
            assert_eq!(calls, truth.calls, "callers of {}", closed.report.version);
            let calls: Vec<Call> = calls.into_iter().collect();
            self.check(&closed.report, &calls, true);
            self.open.remove(&closed.report.version);
            for call in calls {
                self.answer(call);
            }
        }
        let debtless = |truth: &Truth| truth.members.values().all(Option::is_some);
        assert!(!self.open.values().any(debtless), "it does not end");
    }

    /// The report says what is true, and `complete` means that the disk has it.
    fn check(&self, report: &FlushReport, calls: &[Call], settled: bool) {
        let truth = &self.open[&report.version];
        let mut expected: BTreeMap<u32, State> = BTreeMap::new();
        for (writer, state) in &truth.members {
            let state = state.unwrap_or(State::Timeout);
            let worst = expected.entry(writer.rank).or_insert(state);
            if weight(state) > weight(*worst) {
                *worst = state;
            }
        }
        let told: BTreeMap<u32, State> = report.ranks.iter().map(|(r, o)| (*r, o.state)).collect();
        assert_eq!(told, expected, "{}", report.version);
        let all = expected.values().all(|state| *state == State::Durable);
        assert_eq!(report.complete, all, "{}", report.version);
        assert!(!settled || !told.values().any(|s| *s == State::Timeout));
        if !report.complete {
            return;
        }
        for writer in truth.members.keys() {
            let durable = self.durable.get(writer).copied().unwrap_or(0);
            assert!(durable >= truth.marks[writer], "{writer} is not durable");
        }
        for (rank, outcome) in &report.ranks {
            let speaks = |writer: &&WriterId| {
                let durable = self.durable.get(writer).copied().unwrap_or(0);
                writer.rank == *rank && (truth.marks[writer]..=durable).contains(&outcome.seq)
            };
            assert!(
                truth.members.keys().any(|w| speaks(&w)),
                "rank {rank}: {outcome:?}"
            );
        }
        for call in calls {
            let process = &self.processes[call.writer.rank as usize];
            if let Some(asked) = process.asked.get(&call.id)
                && process.writer == call.writer
            {
                let durable = self.durable.get(&call.writer).copied().unwrap_or(0);
                assert!(durable >= asked.logged, "{call:?} was told too much");
            }
        }
    }

    fn answer(&mut self, call: Call) {
        assert!(self.given.contains(&call), "{call:?} never asked");
        assert!(self.returned.insert(call), "{call:?} is answered twice");
        let process = &mut self.processes[call.writer.rank as usize];
        if process.writer == call.writer && process.link == Some(call.link) {
            process.asked.remove(&call.id);
        }
    }

    /// Everybody gets a link and time: whoever lives is answered, and nothing is remembered of it.
    fn rest(&mut self) {
        for round in 0..3 {
            for r in 0..RANKS {
                self.step(Step::Connect(r));
                while !self.processes[r].to_owner.is_empty() {
                    self.step(Step::Deliver(r));
                }
            }
            self.step(Step::Open);
            self.step(Step::Time(if round == 2 { 100 } else { 1 }));
        }
        for process in &self.processes {
            assert!(process.asked.is_empty(), "{process:?} is not answered");
        }
        assert_eq!(self.given, self.returned, "a caller waits for ever");
        assert_eq!(self.book.open_versions(), 0, "a version stays open");
        assert!(self.live.iter().all(|w| self.book.owed_by(*w).is_empty()));
    }
}

/// In front of every caller.
const NOBODY: Call = Call {
    writer: WriterId {
        rank: 0,
        incarnation: Incarnation(0),
    },
    id: 0,
    link: 0,
};

const fn weight(state: State) -> u8 {
    match state {
        State::Durable => 0,
        State::Timeout => 1,
        State::Dead => 2,
    }
}

impl Process {
    fn log(&mut self) {
        if self.alive && !self.leaving {
            self.logged += 1;
        }
    }

    fn send(&mut self) {
        if self.alive && self.link.is_some() {
            self.to_owner.push_back(Frame::Data(self.logged));
        }
    }

    /// Requests that the present link has not carried.
    fn forward(&mut self) {
        if self.link.is_none() {
            return;
        }
        for (&id, asked) in &self.asked {
            if self.forwarded.insert(id) {
                let (own, until) = (asked.own, asked.until);
                self.to_owner.push_back(Frame::Flush { id, own, until });
            }
        }
    }

    fn cut(&mut self) {
        self.link = None;
        self.leaving = false;
        self.to_owner.clear();
        self.barriers.clear();
        self.forwarded.clear();
    }

    fn leave(&mut self) {
        if self.alive && self.link.is_some() && !self.leaving {
            self.leaving = true;
            self.send();
            self.to_owner.push_back(Frame::Bye);
        }
    }
}

fn cases() -> u32 {
    let times = std::env::var("EXPMAN_CASES")
        .ok()
        .and_then(|n| n.parse().ok());
    600 * times.unwrap_or(1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_caller_is_answered_once_and_complete_is_true(steps in prop::collection::vec(step(), 1..250)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.rest();
    }
}
