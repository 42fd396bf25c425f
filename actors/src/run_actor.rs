//! The RunActor: one per run, the only one that decides what is written to it.
//!
//! Owns the membership: which process holds which rank, over which link. Its commit thread owns the files.
//! Receives hellos, batches, markers and goodbyes from the links, and what became durable from the commit thread.
//! Sends acknowledgements to the links, membership and durability to the ClientActor.
//! Promises that nothing is acknowledged before it is durable, that a process which vanishes is given up after
//! its lease, and that the run is closed when its last rank is gone.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use expman_model::limits::{
    CREDIT_BYTES_MAX, CREDIT_BYTES_MIN, HEARTBEAT, LEASE, OWNER_BUDGET_BYTES,
};
use expman_model::time::now_us;
use expman_model::{RankOutcomeState, RankState, RunId, RunMeta, RunStatus, WriterId};
use expman_storage::run_writer::Progress;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{mpsc, oneshot, watch};

use crate::barrier::Standing;
use crate::client_actor::ClientMsg;
use crate::commit::{Command, Committed, SyncToken};
use crate::link::carrier::FrameSender;
use crate::link::frame::{FlushRequest, Frame, Hello, Marker, PROTOCOL, Welcome};

/// How long a run whose ranks have all left waits for announced ones that never came.
const LINGER: Duration = LEASE;

/// Tells two links apart.
pub(crate) type LinkId = u64;

/// What the actor is told.
#[derive(Debug)]
pub(crate) enum RunMsg {
    /// A process introduces itself on a link.
    Hello {
        link: LinkId,
        hello: Hello,
        to: FrameSender,
    },
    /// Whole records.
    Batch { link: LinkId, records: Bytes },
    /// Everything in front of a barrier's marker was sent.
    Marker { link: LinkId, marker: Marker },
    /// A process asks for a flush.
    Flush { link: LinkId, request: FlushRequest },
    /// A process closes in good order.
    Bye { link: LinkId, status: RunStatus },
    /// Its goodbye is on disk.
    Left { writer: WriterId, progress: Progress },
    /// A link ended; `dead` when its process is known to be gone.
    Gone { link: LinkId, dead: bool },
    /// A process said something.
    Heard { link: LinkId },
    /// A process without a link has used up its lease.
    LeaseOver { writer: WriterId, link: LinkId },
    /// No rank is left and nobody came for a while.
    LingerOver,
    /// From the commit thread.
    Committed(Committed),
    /// The files are closed.
    Finished(Result<(), String>),
    /// Spreads what was heard.
    Tick,
}

/// See the module.
pub(crate) struct RunActor;

/// What the actor starts with.
pub(crate) struct RunArgs {
    pub(crate) meta: RunMeta,
    pub(crate) run_id: RunId,
    pub(crate) rows: u64,
    /// Processes that the previous owner knew and that may come back.
    pub(crate) expected: Vec<(u32, WriterId, Progress)>,
    pub(crate) ranks: BTreeSet<u32>,
    pub(crate) commit: mpsc::Sender<Command>,
    pub(crate) client: ActorRef<ClientMsg>,
    /// Set when the run is closed, with the reason why it was not closed well.
    pub(crate) done: watch::Sender<Option<Result<(), String>>>,
    /// Set when no new link is welcome.
    pub(crate) closing: watch::Sender<bool>,
}

struct Member {
    index: u32,
    /// The link that speaks for it; 0 while it has none.
    link: LinkId,
    to: Option<FrameSender>,
    standing: Standing,
    leaving: bool,
}

/// What the actor keeps.
pub(crate) struct RunActorState {
    args: RunArgs,
    members: HashMap<WriterId, Member>,
    by_link: HashMap<LinkId, WriterId>,
    by_index: HashMap<u32, WriterId>,
    /// Links to tell when the run is closed.
    farewells: Vec<FrameSender>,
    finishing: bool,
}

impl Actor for RunActor {
    type Msg = RunMsg;
    type State = RunActorState;
    type Arguments = RunArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<RunMsg>,
        mut args: RunArgs,
    ) -> Result<RunActorState, ActorProcessingErr> {
        let expected = std::mem::take(&mut args.expected);
        let mut state = RunActorState {
            args,
            members: HashMap::new(),
            by_link: HashMap::new(),
            by_index: HashMap::new(),
            farewells: Vec::new(),
            finishing: false,
        };
        for (index, writer, progress) in expected {
            state.insert(writer, index, standing(progress, 0));
            after(&myself, LEASE, RunMsg::LeaseOver { writer, link: 0 });
        }
        after(&myself, LINGER, RunMsg::LingerOver);
        drop(myself.send_interval(HEARTBEAT, || RunMsg::Tick));
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<RunMsg>,
        msg: RunMsg,
        state: &mut RunActorState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            RunMsg::Hello { link, hello, to } => state.hello(link, hello, to).await,
            RunMsg::Batch { link, records } => state.batch(link, records).await,
            RunMsg::Marker { link, marker } => state.marker(link, marker).await,
            RunMsg::Flush { link, request } => state.flush(link, request),
            RunMsg::Bye { link, status } => state.bye(&myself, link, status).await,
            RunMsg::Left { writer, progress } => state.left(&myself, writer, progress).await,
            RunMsg::Gone { link, dead } => state.gone(&myself, link, dead).await,
            RunMsg::Heard { link } => state.heard(link),
            RunMsg::LeaseOver { writer, link } => state.lease_over(&myself, writer, link).await,
            RunMsg::LingerOver => state.finish_if_empty(&myself, true).await,
            RunMsg::Committed(committed) => state.committed(committed),
            RunMsg::Finished(done) => state.finished(done),
            RunMsg::Tick => state.tick().await,
        }
        Ok(())
    }
}

impl RunActorState {
    fn insert(&mut self, writer: WriterId, index: u32, standing: Standing) {
        self.by_index.insert(index, writer);
        self.members.insert(
            writer,
            Member {
                index,
                link: 0,
                to: None,
                standing,
                leaving: false,
            },
        );
    }

    async fn tell(&self, command: Command) {
        if self.args.commit.send(command).await.is_err() {
            tracing::error!("the commit thread is gone");
        }
    }

    fn client(&self, msg: ClientMsg) {
        if self.args.client.cast(msg).is_err() {
            tracing::error!("the client actor is gone");
        }
    }

    /// Why a process may not join, if so.
    fn objection(&self, hello: &Hello) -> Option<String> {
        if hello.protocol != PROTOCOL {
            return Some(format!(
                "it speaks protocol {}, the run's owner speaks {PROTOCOL}: use one version of expman-mesh in all ranks",
                hello.protocol
            ));
        }
        if self.finishing {
            return Some(FINISHING.to_owned());
        }
        let known = self.args.meta.launch_key.as_ref();
        if !hello.resume && known.is_some_and(|key| *key != hello.launch_key) {
            return Some(FOREIGN.to_owned());
        }
        None
    }

    async fn hello(&mut self, link: LinkId, hello: Hello, to: FrameSender) {
        if let Some(why) = self.objection(&hello) {
            send(&to, Frame::Refused(why));
            return;
        }
        let rank = hello
            .rank
            .unwrap_or_else(|| self.args.ranks.last().map_or(0, |r| r + 1));
        let writer = WriterId {
            rank,
            incarnation: hello.incarnation,
        };
        let (reply, registered) = oneshot::channel();
        self.tell(Command::Register {
            id: writer,
            host: hello.host,
            pid: hello.pid,
            reply,
        })
        .await;
        let Ok(registered) = registered.await else {
            return;
        };
        if hello.world_size > self.args.meta.world_size
            && let Some(n) = hello.world_size
        {
            self.args.meta.world_size = Some(n);
            self.tell(Command::WorldSize(n)).await;
        }
        self.args.ranks.insert(rank);
        let known = self.members.remove(&writer);
        let mut standing = known.map_or_else(Standing::default, |m| m.standing);
        standing.durable_seq = registered.durable_seq;
        standing.last_seen_us = now_us();
        self.insert(writer, registered.index, standing);
        self.by_link.insert(link, writer);
        if let Some(member) = self.members.get_mut(&writer) {
            (member.link, member.to) = (link, Some(to.clone()));
        }
        self.client(ClientMsg::Joined {
            writer,
            standing,
            link: to.clone(),
        });
        let ranks = self
            .args
            .meta
            .world_size
            .unwrap_or(1)
            .max(u32::try_from(self.members.len()).unwrap_or(u32::MAX));
        let welcome = Welcome {
            run_id: self.args.run_id,
            rank,
            attempt: registered.attempt,
            world_size: self.args.meta.world_size,
            epoch: self.args.meta.owner_epoch,
            durable_seq: registered.durable_seq,
            credit: (OWNER_BUDGET_BYTES / ranks as usize).clamp(CREDIT_BYTES_MIN, CREDIT_BYTES_MAX),
        };
        send(&to, Frame::Welcome(welcome));
    }

    fn member(&mut self, link: LinkId) -> Option<(WriterId, &mut Member)> {
        let writer = *self.by_link.get(&link)?;
        let member = self.members.get_mut(&writer).filter(|m| m.link == link)?;
        Some((writer, member))
    }

    async fn batch(&mut self, link: LinkId, records: Bytes) {
        if let Some((_, member)) = self.member(link) {
            member.standing.last_seen_us = now_us();
            let writer = member.index;
            self.tell(Command::Batch { writer, records }).await;
        }
    }

    async fn marker(&mut self, link: LinkId, marker: Marker) {
        if let Some((writer, member)) = self.member(link) {
            let index = member.index;
            self.tell(Command::Sync(SyncToken {
                writer,
                index,
                version: marker.version,
            }))
            .await;
        }
    }

    fn flush(&mut self, link: LinkId, request: FlushRequest) {
        let asking = self
            .member(link)
            .and_then(|(writer, member)| Some((writer, member.to.clone()?)));
        if let Some((writer, link)) = asking {
            self.client(ClientMsg::Request {
                writer,
                link,
                request,
            });
        }
    }

    async fn bye(&mut self, myself: &ActorRef<RunMsg>, link: LinkId, status: RunStatus) {
        let Some((writer, member)) = self.member(link) else {
            return;
        };
        member.leaving = true;
        let index = member.index;
        let (done, left) = oneshot::channel();
        self.tell(Command::Leave {
            writer: index,
            state: RankState::Left,
            status,
            reason: String::new(),
            done: Some(done),
        })
        .await;
        let myself = myself.clone();
        tokio::spawn(async move {
            if let Ok(progress) = left.await {
                cast(&myself, RunMsg::Left { writer, progress });
            }
        });
    }

    async fn left(&mut self, myself: &ActorRef<RunMsg>, writer: WriterId, progress: Progress) {
        let Some(member) = self.remove(writer) else {
            return;
        };
        self.client(ClientMsg::Left {
            writer,
            state: RankOutcomeState::Durable,
            standing: member.standing,
        });
        let Some(to) = member.to else { return };
        // Closing the run may take longer than the process waits; that its own records are safe it learns now.
        send(&to, Frame::Ack(progress.durable_seq));
        self.farewells.push(to);
        self.finish_if_empty(myself, false).await;
        if !self.finishing {
            // Others go on: this one need not wait for the end of the run.
            for to in self.farewells.drain(..) {
                send(&to, Frame::Farewell(false));
            }
        }
    }

    fn remove(&mut self, writer: WriterId) -> Option<Member> {
        let member = self.members.remove(&writer)?;
        self.by_link.remove(&member.link);
        self.by_index.remove(&member.index);
        Some(member)
    }

    async fn gone(&mut self, myself: &ActorRef<RunMsg>, link: LinkId, dead: bool) {
        let Some((writer, member)) = self.member(link) else {
            self.by_link.remove(&link);
            return;
        };
        if member.leaving {
            return;
        }
        member.to = None;
        if dead {
            self.lose(myself, writer, "its process is gone").await;
        } else {
            after(myself, LEASE, RunMsg::LeaseOver { writer, link });
        }
    }

    async fn lease_over(&mut self, myself: &ActorRef<RunMsg>, writer: WriterId, link: LinkId) {
        if self
            .members
            .get(&writer)
            .is_some_and(|m| m.link == link && m.to.is_none())
        {
            self.lose(myself, writer, "no word from it within its lease")
                .await;
        }
    }

    async fn lose(&mut self, myself: &ActorRef<RunMsg>, writer: WriterId, reason: &str) {
        let Some(member) = self.remove(writer) else {
            return;
        };
        tracing::warn!("{writer} is lost: {reason}");
        let leave = Command::Leave {
            writer: member.index,
            state: RankState::Lost,
            status: RunStatus::Crashed,
            reason: reason.to_owned(),
            done: None,
        };
        self.tell(leave).await;
        self.client(ClientMsg::Left {
            writer,
            state: RankOutcomeState::Dead,
            standing: member.standing,
        });
        self.finish_if_empty(myself, false).await;
    }

    /// Closes the run when no rank is left; unless `anyway`, announced ranks that never came are waited for.
    async fn finish_if_empty(&mut self, myself: &ActorRef<RunMsg>, anyway: bool) {
        if self.finishing || !self.members.is_empty() {
            return;
        }
        let all_came = self
            .args
            .meta
            .world_size
            .is_none_or(|n| (0..n).all(|rank| self.args.ranks.contains(&rank)));
        if !all_came && !anyway {
            after(myself, LINGER, RunMsg::LingerOver);
            return;
        }
        self.finishing = true;
        self.args.closing.send_replace(true);
        let (reply, finished) = oneshot::channel();
        self.tell(Command::Finish(reply)).await;
        let myself = myself.clone();
        tokio::spawn(async move {
            let done = finished
                .await
                .unwrap_or_else(|_gone| Err("the commit thread ended".to_owned()));
            cast(&myself, RunMsg::Finished(done));
        });
    }

    fn finished(&mut self, done: Result<(), String>) {
        if let Err(e) = &done {
            tracing::error!("closing the run failed: {e}");
        }
        for to in self.farewells.drain(..) {
            send(&to, Frame::Farewell(done.is_ok()));
        }
        self.args.done.send_replace(Some(done));
    }

    fn heard(&mut self, link: LinkId) {
        if let Some((_, member)) = self.member(link) {
            member.standing.last_seen_us = now_us();
        }
    }

    fn committed(&mut self, committed: Committed) {
        self.args.rows = committed.rows;
        for (index, progress) in committed.writers {
            if let Some(member) = self
                .by_index
                .get(&index)
                .and_then(|w| self.members.get_mut(w))
            {
                member.standing = standing(progress, member.standing.last_seen_us);
                if let Some(to) = &member.to {
                    send(to, Frame::Ack(progress.durable_seq));
                }
            }
        }
        for (token, progress) in committed.tokens {
            let seen = self
                .members
                .get(&token.writer)
                .map_or_else(now_us, |m| m.standing.last_seen_us);
            let msg = ClientMsg::Durable {
                version: token.version,
                writer: token.writer,
                seq: progress.durable_seq,
                standing: standing(progress, seen),
                rows: committed.rows,
            };
            self.client(msg);
        }
        for (index, why) in committed.rejected {
            tracing::error!("batch refused: {why}");
            if let Some(to) = self
                .by_index
                .get(&index)
                .and_then(|w| self.members.get(w))
                .and_then(|m| m.to.as_ref())
            {
                send(to, Frame::Refused(why));
            }
        }
    }

    async fn tick(&mut self) {
        for (writer, member) in &self.members {
            self.client(ClientMsg::Stand {
                writer: *writer,
                standing: member.standing,
            });
            if member.to.is_some() {
                let seen = Command::Seen {
                    writer: member.index,
                    at_us: member.standing.last_seen_us,
                };
                self.tell(seen).await;
            }
        }
    }
}

/// Why a process that comes while the run is being closed has to come again.
pub(crate) const FINISHING: &str = "the run is being closed";
/// Why a process of another launch may not join.
pub(crate) const FOREIGN: &str = "the run belongs to another launch";

const fn standing(progress: Progress, last_seen_us: i64) -> Standing {
    Standing {
        durable_seq: progress.durable_seq,
        last_step: progress.last_step,
        last_seen_us,
    }
}

fn send(to: &FrameSender, frame: Frame) {
    if to.control(frame).is_err() {
        tracing::debug!("a link went away before its frame");
    }
}

fn cast(to: &ActorRef<RunMsg>, msg: RunMsg) {
    if to.cast(msg).is_err() {
        tracing::debug!("the run actor is gone");
    }
}

fn after(to: &ActorRef<RunMsg>, delay: Duration, msg: RunMsg) {
    let to = to.clone();
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        cast(&to, msg);
    });
}
