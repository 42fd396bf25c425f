//! The ClientActor: the barriers of a run.
//!
//! Owns the [`BarrierBook`]. Receives membership and durability from the RunActor, requests from the links.
//! Sends barriers to every process that owes one, answers to every caller, and the outcome to the commit thread.
//! Promises that every request is answered once: when nobody owes any more, or at its deadline.

mod answers;
mod telling;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use expman_model::{FlushReport, FlushScope, RankOutcomeState, Version, WriterId};
use expman_storage::RunDir;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{mpsc, oneshot};

use self::answers::{Caller, Pending, reply, reply_after};
use self::telling::{OPEN_FOR, Telling};
use crate::barrier::{BarrierBook, Closed, Standing, Waiter};
use crate::commit::Command;
use crate::link::carrier::FrameSender;
use crate::link::frame::{FlushRequest, Frame};
use crate::reply::cast;

/// Requests that may wait at once; a process asks again for what it is not answered.
const REQUESTS_MAX: usize = 16_384;

/// What the actor is told.
#[derive(Debug)]
pub(crate) enum ClientMsg {
    /// A process joined, or its link came back.
    Joined {
        writer: WriterId,
        standing: Standing,
        link: FrameSender,
    },
    /// A process that the owner before this one knew: it has no link yet, and owes from the start.
    Expected {
        writer: WriterId,
        standing: Standing,
    },
    /// A process said something.
    Stand {
        writer: WriterId,
        standing: Standing,
    },
    /// A process is gone; `state` is durable when it closed in good order.
    Left {
        writer: WriterId,
        state: RankOutcomeState,
        standing: Standing,
    },
    /// A process asks for a flush.
    Request {
        writer: WriterId,
        link: FrameSender,
        request: FlushRequest,
    },
    /// Opens one version for all requests that wait.
    Open,
    /// A process's data in front of its marker is durable.
    Durable {
        version: Version,
        writer: WriterId,
        seq: u64,
        standing: Standing,
        rows: u64,
    },
    /// A version may still be open.
    IsLong { version: Version },
    /// A caller's deadline.
    Expire { version: Version, caller: Caller },
    /// The published file has everything of a version, or never will.
    Published { version: Version, done: bool },
}

/// See the module.
pub(crate) struct ClientActor;

/// What the actor starts with.
pub(crate) struct ClientArgs {
    pub(crate) dir: RunDir,
    pub(crate) epoch: u64,
    pub(crate) rows: u64,
    pub(crate) commit: mpsc::Sender<Command>,
}

/// What the actor keeps.
pub(crate) struct ClientState {
    book: BarrierBook<Pending>,
    links: HashMap<WriterId, FrameSender>,
    /// Requests for which no version was opened yet: they share the next one.
    unopened: Vec<Waiter<Pending>>,
    /// Versions that nobody owes any more, whose rows are on their way into the published file.
    publishing: BTreeMap<Version, Closed<Pending>>,
    /// Requests that were not answered yet.
    waiting: usize,
    rows: u64,
    started: Instant,
    dir: RunDir,
    telling: Telling,
}

impl Actor for ClientActor {
    type Msg = ClientMsg;
    type State = ClientState;
    type Arguments = ClientArgs;

    async fn pre_start(
        &self,
        _myself: ActorRef<ClientMsg>,
        args: ClientArgs,
    ) -> Result<ClientState, ActorProcessingErr> {
        Ok(ClientState {
            book: BarrierBook::new(args.epoch),
            links: HashMap::new(),
            unopened: Vec::new(),
            publishing: BTreeMap::new(),
            waiting: 0,
            rows: args.rows,
            started: Instant::now(),
            dir: args.dir,
            telling: Telling::new(args.commit),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ClientMsg>,
        msg: ClientMsg,
        state: &mut ClientState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            ClientMsg::Joined {
                writer,
                standing,
                link,
            } => state.joined(writer, standing, link),
            ClientMsg::Expected { writer, standing } => state.book.join(writer, standing),
            ClientMsg::Stand { writer, standing } => state.book.stand(writer, standing),
            ClientMsg::Left {
                writer,
                state: how,
                standing,
            } => state.left(writer, how, standing),
            ClientMsg::Request {
                writer,
                link,
                request,
            } => state.request(&myself, writer, link, request),
            ClientMsg::Open => state.open_waiting(&myself),
            ClientMsg::Durable {
                version,
                writer,
                seq,
                standing,
                rows,
            } => {
                state.rows = rows;
                state.book.stand(writer, standing);
                state.book.durable(version, writer, seq);
            }
            ClientMsg::IsLong { version } => state.telling.is_long(version).await,
            ClientMsg::Expire { version, caller } => state.expire(version, caller).await,
            ClientMsg::Published { version, done } => {
                if let Some(closed) = state.publishing.remove(&version) {
                    state.answer(closed, done).await;
                }
            }
        }
        state.settle(&myself).await;
        Ok(())
    }
}

impl ClientState {
    fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn joined(&mut self, writer: WriterId, standing: Standing, link: FrameSender) {
        for version in self.book.owed_by(writer) {
            link.tell(Frame::Barrier(version));
        }
        self.book.join(writer, standing);
        self.links.insert(writer, link);
    }

    fn left(&mut self, writer: WriterId, how: RankOutcomeState, standing: Standing) {
        self.links.remove(&writer);
        self.book.leave(writer, how, standing);
    }

    fn request(
        &mut self,
        myself: &ActorRef<ClientMsg>,
        writer: WriterId,
        link: FrameSender,
        request: FlushRequest,
    ) {
        let caller = Caller {
            writer,
            id: request.id,
        };
        let waiter = Waiter {
            to: Pending {
                caller,
                link,
                request,
            },
            asked_us: self.now_us(),
        };
        if self.waiting >= REQUESTS_MAX {
            self.turn_away(writer, waiter);
            return;
        }
        self.waiting += 1;
        if self.unopened.is_empty() {
            cast(myself, ClientMsg::Open);
        }
        self.unopened.push(waiter);
    }

    /// One request too many is answered at once: nothing was done for it.
    fn turn_away(&mut self, writer: WriterId, waiter: Waiter<Pending>) {
        tracing::warn!("{writer} asks for a flush, and {REQUESTS_MAX} requests wait already");
        let caller = waiter.to.caller;
        let (version, _) = self.book.open(FlushScope::Rank, writer, vec![waiter]);
        if let Some((waiter, report)) = self.owed(version, caller) {
            reply(&waiter, report, self.now_us());
        }
    }

    /// Requests of the whole run share one version; a request for one rank only has its own.
    fn open_waiting(&mut self, myself: &ActorRef<ClientMsg>) {
        let (run, rank): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unopened)
            .into_iter()
            .partition(|w| w.to.request.scope == FlushScope::Run);
        if let Some(first) = run.first() {
            let by = first.to.caller.writer;
            self.open(myself, FlushScope::Run, by, run);
        }
        for waiter in rank {
            let by = waiter.to.caller.writer;
            self.open(myself, FlushScope::Rank, by, vec![waiter]);
        }
    }

    fn open(
        &mut self,
        myself: &ActorRef<ClientMsg>,
        scope: FlushScope,
        by: WriterId,
        waiters: Vec<Waiter<Pending>>,
    ) {
        let deadlines: Vec<_> = waiters
            .iter()
            .map(|w| (w.to.caller, Duration::from_millis(w.to.request.timeout_ms)))
            .collect();
        let (version, owed) = self.book.open(scope, by, waiters);
        for (caller, after) in deadlines {
            drop(myself.send_after(after, move || ClientMsg::Expire { version, caller }));
        }
        let ranks = owed.iter().map(|w| w.rank).collect();
        self.telling.opened(version, ranks);
        drop(myself.send_after(OPEN_FOR, move || ClientMsg::IsLong { version }));
        for writer in owed {
            if let Some(link) = self.links.get(&writer) {
                link.tell(Frame::Barrier(version));
            }
        }
    }

    async fn expire(&mut self, version: Version, caller: Caller) {
        let expired = self.owed(version, caller);
        if let Some((waiter, report)) = expired.or_else(|| self.unpublished(version, caller)) {
            self.waiting = self.waiting.saturating_sub(1);
            let told = self
                .telling
                .closed(&report, waiter.to.request.tag.clone())
                .await;
            reply_after(told, &self.dir, vec![(waiter, report)], self.now_us());
        }
    }

    /// A caller whose version is still owed by somebody.
    fn owed(&mut self, version: Version, caller: Caller) -> Option<(Waiter<Pending>, FlushReport)> {
        let now = self.now_us();
        self.book
            .expire(version, |p| p.caller == caller, self.rows, now)
    }

    /// A caller whose rows are durable and not published at its deadline: not all that it asked for was done.
    fn unpublished(
        &mut self,
        version: Version,
        caller: Caller,
    ) -> Option<(Waiter<Pending>, FlushReport)> {
        let closed = self.publishing.get_mut(&version)?;
        let at = closed.waiters.iter().position(|w| w.to.caller == caller)?;
        let waiter = closed.waiters.remove(at);
        let report = FlushReport {
            complete: closed.report.complete && !waiter.to.request.publish,
            ..closed.report.clone()
        };
        if closed.waiters.is_empty() {
            self.publishing.remove(&version);
        }
        Some((waiter, report))
    }

    async fn settle(&mut self, myself: &ActorRef<ClientMsg>) {
        let now = self.now_us();
        for closed in self.book.settled(self.rows, now) {
            if closed.waiters.iter().any(|w| w.to.request.publish) {
                self.publish(myself, closed).await;
            } else {
                self.answer(closed, false).await;
            }
        }
    }

    async fn publish(&mut self, myself: &ActorRef<ClientMsg>, closed: Closed<Pending>) {
        let (done, published) = oneshot::channel();
        self.telling.tell(Command::Publish(done)).await;
        let (version, myself) = (closed.report.version, myself.clone());
        self.publishing.insert(version, closed);
        tokio::spawn(async move {
            let done = published.await.is_ok();
            if !done {
                tracing::warn!("the run ended before it was published");
            }
            cast(&myself, ClientMsg::Published { version, done });
        });
    }

    /// Answers everyone who waits for a version; `published` says whether its rows are in the published file.
    async fn answer(&mut self, closed: Closed<Pending>, published: bool) {
        let now = self.now_us();
        self.waiting = self.waiting.saturating_sub(closed.waiters.len());
        let tag = closed.waiters.iter().find_map(|w| w.to.request.tag.clone());
        let told = self.telling.closed(&closed.report, tag).await;
        let answers = closed.waiters.into_iter().map(|waiter| {
            let report = FlushReport {
                complete: closed.report.complete && (published || !waiter.to.request.publish),
                ..closed.report.clone()
            };
            (waiter, report)
        });
        reply_after(told, &self.dir, answers.collect(), now);
    }
}

#[cfg(test)]
mod tests {
    use expman_model::Incarnation;

    use super::*;
    use crate::link::carrier::FrameReader;

    const WRITER: WriterId = WriterId {
        rank: 0,
        incarnation: Incarnation(1),
    };

    /// An actor with one live process, and what that process hears.
    async fn mesh() -> (
        ActorRef<ClientMsg>,
        FrameSender,
        FrameReader,
        mpsc::Receiver<Command>,
    ) {
        let (commit, commands) = mpsc::channel(1 << 16);
        let args = ClientArgs {
            dir: RunDir::at("nowhere"),
            epoch: 1,
            rows: 0,
            commit,
        };
        let (actor, _) = Actor::spawn(None, ClientActor, args).await.unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let link = FrameSender::start(Box::new(ours));
        let joined = ClientMsg::Joined {
            writer: WRITER,
            standing: Standing::default(),
            link: link.clone(),
        };
        cast(&actor, joined);
        (actor, link, FrameReader::new(Box::new(theirs)), commands)
    }

    fn ask(actor: &ActorRef<ClientMsg>, link: &FrameSender, id: u64, publish: bool) {
        let request = FlushRequest {
            id,
            scope: FlushScope::Run,
            publish,
            tag: None,
            timeout_ms: 5_000,
        };
        let msg = ClientMsg::Request {
            writer: WRITER,
            link: link.clone(),
            request,
        };
        cast(actor, msg);
    }

    async fn next(reader: &mut FrameReader) -> Frame {
        loop {
            match reader.next().await.unwrap().unwrap() {
                Frame::Ping => {}
                frame => return frame,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_is_answered_at_its_deadline_though_nothing_is_published() {
        let (actor, link, mut reader, mut commands) = mesh().await;
        ask(&actor, &link, 1, true);
        ask(&actor, &link, 2, false);
        let Frame::Barrier(version) = next(&mut reader).await else {
            panic!("no barrier");
        };
        let durable = ClientMsg::Durable {
            version,
            writer: WRITER,
            seq: 9,
            standing: Standing::default(),
            rows: 9,
        };
        cast(&actor, durable);
        // The disk stands still: the request to publish is kept and never answered.
        let asked_to_publish = async {
            loop {
                if let Some(Command::Publish(done)) = commands.recv().await {
                    return done;
                }
            }
        };
        let minute = Duration::from_secs(60);
        let _kept = tokio::time::timeout(minute, asked_to_publish)
            .await
            .expect("nobody asks to publish");
        let asked = tokio::time::Instant::now();
        let mut complete = HashMap::new();
        for _ in 0..2 {
            let Frame::FlushDone(done) = next(&mut reader).await else {
                panic!("no answer");
            };
            assert_eq!(done.report.ranks[&0].state, RankOutcomeState::Durable);
            complete.insert(done.id, done.report.complete);
        }
        assert_eq!(complete, HashMap::from([(1, false), (2, true)]));
        assert!(asked.elapsed() <= Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_too_many_is_answered_at_once_and_the_others_keep_waiting() {
        let (actor, link, mut reader, _commands) = mesh().await;
        let last = REQUESTS_MAX as u64 + 1;
        for id in 1..=last {
            ask(&actor, &link, id, false);
        }
        let mut barriers = 0;
        let done = loop {
            match next(&mut reader).await {
                Frame::Barrier(_) => barriers += 1,
                Frame::FlushDone(done) => break done,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((done.id, done.report.complete), (last, false));
        assert!(barriers <= 2, "requests of one run share a version");
    }
}
