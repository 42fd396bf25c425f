//! The ClientActor: the barriers of a run.
//!
//! Owns the [`BarrierBook`]. Receives membership and durability from the RunActor, requests from the links.
//! Sends barriers to every process that owes one, answers to every caller, and the outcome to the commit thread.
//! Promises that every request is answered once: when nobody owes any more, or at its deadline.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use expman_model::meta::LastFlush;
use expman_model::time::{now_us, rfc3339_us};
use expman_model::{EventBody, FlushReport, FlushScope, RankOutcomeState, Version, WriterId};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{mpsc, oneshot};

use crate::barrier::{BarrierBook, Closed, Standing, Waiter};
use crate::commit::Command;
use crate::link::carrier::FrameSender;
use crate::link::frame::{FlushDone, FlushRequest, Frame};
use crate::reply::cast;

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
    /// A caller's deadline.
    Expire { version: Version, caller: Caller },
    /// The published file has everything of a version.
    Published { closed: Box<Closed<Pending>> },
}

/// Identifies a request in the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Caller {
    writer: WriterId,
    id: u64,
}

/// A request and the way back to it.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    caller: Caller,
    link: FrameSender,
    request: FlushRequest,
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.caller == other.caller
    }
}

/// See the module.
pub(crate) struct ClientActor;

/// What the actor starts with.
pub(crate) struct ClientArgs {
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
    rows: u64,
    started: Instant,
    commit: mpsc::Sender<Command>,
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
            rows: args.rows,
            started: Instant::now(),
            commit: args.commit,
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
            ClientMsg::Open => state.open_waiting(&myself).await,
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
            ClientMsg::Expire { version, caller } => state.expire(version, caller).await,
            ClientMsg::Published { closed } => state.answer(*closed).await,
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
        if self.unopened.is_empty() {
            cast(myself, ClientMsg::Open);
        }
        self.unopened.push(waiter);
    }

    /// Requests of the whole run share one version; a request for one rank only has its own.
    async fn open_waiting(&mut self, myself: &ActorRef<ClientMsg>) {
        let (run, rank): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unopened)
            .into_iter()
            .partition(|w| w.to.request.scope == FlushScope::Run);
        if let Some(first) = run.first() {
            let by = first.to.caller.writer;
            self.open(myself, FlushScope::Run, by, run).await;
        }
        for waiter in rank {
            let by = waiter.to.caller.writer;
            self.open(myself, FlushScope::Rank, by, vec![waiter]).await;
        }
    }

    async fn open(
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
        self.tell(Command::Event(EventBody::FlushOpened { version, ranks }))
            .await;
        for writer in owed {
            if let Some(link) = self.links.get(&writer) {
                link.tell(Frame::Barrier(version));
            }
        }
    }

    async fn expire(&mut self, version: Version, caller: Caller) {
        let now = self.now_us();
        if let Some((waiter, report)) =
            self.book
                .expire(version, |p| p.caller == caller, self.rows, now)
        {
            let told = self.closed(&report, waiter.to.request.tag.clone()).await;
            reply_after(told, vec![waiter], report, now);
        }
    }

    async fn settle(&mut self, myself: &ActorRef<ClientMsg>) {
        let now = self.now_us();
        for closed in self.book.settled(self.rows, now) {
            if closed.waiters.iter().any(|w| w.to.request.publish) {
                self.publish(myself, closed).await;
            } else {
                self.answer(closed).await;
            }
        }
    }

    /// Answers when it is published, or at the first caller's deadline: then the report is not complete.
    async fn publish(&self, myself: &ActorRef<ClientMsg>, mut closed: Closed<Pending>) {
        let (done, published) = oneshot::channel();
        self.tell(Command::Publish(done)).await;
        let myself = myself.clone();
        let now = self.now_us();
        let left = |w: &Waiter<Pending>| {
            let waited = Duration::from_micros(now.saturating_sub(w.asked_us));
            Duration::from_millis(w.to.request.timeout_ms).saturating_sub(waited)
        };
        let within = closed.waiters.iter().map(left).min().unwrap_or_default();
        tokio::spawn(async move {
            if !matches!(tokio::time::timeout(within, published).await, Ok(Ok(()))) {
                tracing::warn!("{} was not published in time", closed.report.version);
                closed.report.complete = false;
            }
            cast(
                &myself,
                ClientMsg::Published {
                    closed: Box::new(closed),
                },
            );
        });
    }

    async fn answer(&self, closed: Closed<Pending>) {
        let now = self.now_us();
        let tag = closed.waiters.iter().find_map(|w| w.to.request.tag.clone());
        let told = self.closed(&closed.report, tag).await;
        reply_after(told, closed.waiters, closed.report, now);
    }

    /// Has the end of a version written down.
    async fn closed(&self, report: &FlushReport, tag: Option<String>) -> oneshot::Receiver<()> {
        let missing = report
            .ranks
            .iter()
            .filter(|(_, r)| r.state != RankOutcomeState::Durable)
            .map(|(rank, _)| *rank)
            .collect();
        let flush = LastFlush {
            version: report.version,
            complete: report.complete,
            at: rfc3339_us(now_us()),
            elapsed_secs: report.elapsed_secs,
            missing,
            tag,
        };
        let (done, told) = oneshot::channel();
        self.tell(Command::Flushed(flush, done)).await;
        told
    }

    async fn tell(&self, command: Command) {
        if self.commit.send(command).await.is_err() {
            tracing::warn!("the commit thread is gone");
        }
    }
}

/// Who is answered finds the end of the version in the run's files.
fn reply_after(
    told: oneshot::Receiver<()>,
    waiters: Vec<Waiter<Pending>>,
    report: FlushReport,
    now_us: u64,
) {
    tokio::spawn(async move {
        if told.await.is_err() {
            tracing::debug!("the commit thread ended before");
        }
        for waiter in &waiters {
            reply(waiter, report.clone(), now_us);
        }
    });
}

#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds of a flush are far below 2^53"
)]
fn reply(waiter: &Waiter<Pending>, report: FlushReport, now_us: u64) {
    let elapsed_secs = now_us.saturating_sub(waiter.asked_us) as f64 / 1e6;
    let done = FlushDone {
        id: waiter.to.request.id,
        report: FlushReport {
            elapsed_secs,
            ..report
        },
    };
    waiter.to.link.tell(Frame::FlushDone(done));
}
