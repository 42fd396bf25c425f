//! The RunActor: one per run, the only one that decides what is written to it.
//!
//! Owns the membership: which process holds which rank, over which link. Its commit thread owns the files.
//! Receives hellos, batches, markers and goodbyes from the links, and what became durable from the commit thread.
//! Sends acknowledgements to the links, membership and durability to the ClientActor.
//! Promises that nothing is acknowledged before it is durable, that a process which vanishes is given up after
//! its lease, and that the run is closed when its last rank is gone.

mod forwarding;
mod joining;
mod leaving;
mod reporting;
mod silence;

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use expman_model::forwarding::{Forwarding, ForwardingChange};
use expman_model::limits::{HEARTBEAT, LEASE};
use expman_model::time::now_us;
use expman_model::{Health, RankState, RunId, RunMeta, RunStatus, WriterId};
use expman_storage::run_writer::{LiveWriter, Progress};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use self::silence::Pace;
use crate::barrier::Standing;
use crate::client_actor::ClientMsg;
use crate::commit::{Command, Remains, Report, SyncToken};
use crate::link::carrier::FrameSender;
use crate::link::frame::{FlushRequest, Hello, Marker};
use crate::reply::cast;

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
        /// The queue that it shares with us, to be read when it is dead.
        ring: Option<OwnedFd>,
        to: FrameSender,
    },
    /// Whole records.
    Batch {
        link: LinkId,
        records: Bytes,
        /// Given back when they are durable.
        allowed: Option<OwnedSemaphorePermit>,
    },
    /// Everything in front of a barrier's marker was sent.
    Marker { link: LinkId, marker: Marker },
    /// A process wants other text to be forwarded.
    Forward {
        link: LinkId,
        change: ForwardingChange,
    },
    /// A process asks for a flush.
    Flush { link: LinkId, request: FlushRequest },
    /// A process closes in good order.
    Bye { link: LinkId, status: RunStatus },
    /// Its goodbye is on disk.
    Left {
        writer: WriterId,
        progress: Progress,
    },
    /// A link ended; `dead` when its process is known to be gone.
    Gone { link: LinkId, dead: bool },
    /// A process said something.
    Heard { link: LinkId },
    /// What it tells of its sending.
    Health { link: LinkId, health: Health },
    /// A process without a link has used up its lease.
    LeaseOver { writer: WriterId, link: LinkId },
    /// No rank is left and nobody came for a while.
    LingerOver,
    /// From the commit thread.
    Commit(Report),
    /// The files are closed.
    Finished(Result<(), String>),
    /// The commit thread gave up: this owner is none any more.
    Ended,
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
    pub(crate) expected: Vec<LiveWriter>,
    /// Processes that it knew and that ended meanwhile, by index.
    pub(crate) gone: Vec<u32>,
    pub(crate) ranks: BTreeSet<u32>,
    /// How long a rank may be silent while others advance.
    pub(crate) silent_after: Duration,
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
    pace: Pace,
    process: Process,
}

/// Where a member runs, and what it shares with us.
#[derive(Debug)]
struct Process {
    host: String,
    pid: u32,
    /// When it joined.
    lived: SystemTime,
    ring: Option<Arc<OwnedFd>>,
}

impl Process {
    fn is_gone(&self) -> bool {
        crate::host::is_gone(&self.host, self.pid, self.lived)
    }
}

/// What the actor keeps.
pub(crate) struct RunActorState {
    args: RunArgs,
    members: HashMap<WriterId, Member>,
    by_link: HashMap<LinkId, WriterId>,
    by_index: HashMap<u32, WriterId>,
    /// Processes that were given up while they lived, by index: they may have died since.
    estranged: HashMap<u32, Process>,
    /// What keeps the files from being written; empty when nothing does.
    trouble: String,
    /// Which text is forwarded.
    forwarding: Forwarding,
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
            forwarding: args.meta.forwarding.unwrap_or_default(),
            args,
            members: HashMap::new(),
            by_link: HashMap::new(),
            by_index: HashMap::new(),
            estranged: HashMap::new(),
            trouble: String::new(),
            farewells: Vec::new(),
            finishing: false,
        };
        for live in expected {
            let standing = standing(live.progress, now_us());
            let writer = live.id;
            let process = Process {
                host: live.host,
                pid: live.pid,
                lived: live.joined,
                ring: None,
            };
            state.insert(writer, live.index, standing, process);
            state.client(ClientMsg::Expected { writer, standing });
            after(&myself, LEASE, RunMsg::LeaseOver { writer, link: 0 });
        }
        for writer in std::mem::take(&mut state.args.gone) {
            let remains = Some(Remains::default());
            state.tell(lost(writer, GONE, remains)).await;
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
            RunMsg::Hello {
                link,
                hello,
                ring,
                to,
            } => state.hello(link, hello, ring, to).await,
            RunMsg::Batch {
                link,
                records,
                allowed,
            } => state.batch(link, records, allowed).await,
            RunMsg::Marker { link, marker } => state.marker(link, marker).await,
            RunMsg::Forward { link, change } => state.forward(link, change).await,
            RunMsg::Flush { link, request } => state.flush(link, request),
            RunMsg::Bye { link, status } => state.bye(&myself, link, status).await,
            RunMsg::Left { writer, progress } => state.left(&myself, writer, progress).await,
            RunMsg::Gone { link, dead } => state.gone(&myself, link, dead).await,
            RunMsg::Heard { link } => state.heard(link),
            RunMsg::LeaseOver { writer, link } => state.lease_over(&myself, writer, link).await,
            RunMsg::LingerOver => state.finish_if_empty(&myself, true).await,
            RunMsg::Health { link, health } => state.health(link, health).await,
            RunMsg::Commit(report) => state.reported(report),
            RunMsg::Finished(done) => state.finished(done),
            RunMsg::Ended => state.ended(&myself),
            RunMsg::Tick => state.tick().await,
        }
        Ok(())
    }
}

impl RunActorState {
    fn insert(&mut self, writer: WriterId, index: u32, standing: Standing, process: Process) {
        self.by_index.insert(index, writer);
        self.members.insert(
            writer,
            Member {
                index,
                link: 0,
                to: None,
                standing,
                leaving: false,
                pace: Pace::new(Instant::now()),
                process,
            },
        );
    }

    async fn tell(&self, command: Command) {
        if self.args.commit.send(command).await.is_err() {
            tracing::debug!("the commit thread is gone, and said why");
        }
    }

    fn client(&self, msg: ClientMsg) {
        if self.args.client.cast(msg).is_err() {
            tracing::error!("the client actor is gone");
        }
    }

    fn member(&mut self, link: LinkId) -> Option<(WriterId, &mut Member)> {
        let writer = *self.by_link.get(&link)?;
        let member = self.members.get_mut(&writer).filter(|m| m.link == link)?;
        Some((writer, member))
    }

    async fn batch(&mut self, link: LinkId, records: Bytes, allowed: Option<OwnedSemaphorePermit>) {
        if let Some((_, member)) = self.member(link) {
            member.standing.last_seen_us = now_us();
            let writer = member.index;
            let now = Instant::now();
            let silent = member.pace.silence(now);
            if member.pace.heard(now) {
                self.tell(Command::Back { writer, silent }).await;
            }
            let batch = Command::Batch {
                writer,
                records,
                allowed,
            };
            self.tell(batch).await;
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

    fn heard(&mut self, link: LinkId) {
        if let Some((_, member)) = self.member(link) {
            member.standing.last_seen_us = now_us();
        }
    }

    async fn health(&mut self, link: LinkId, health: Health) {
        if let Some((_, member)) = self.member(link) {
            member.standing.last_seen_us = now_us();
            let writer = member.index;
            self.tell(Command::Health { writer, health }).await;
        }
    }

    async fn tick(&mut self) {
        self.look_for_silence().await;
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

/// Why a process is given up at once.
const GONE: &str = "its process is gone";

/// What the commit thread is told of a process that vanished.
fn lost(writer: u32, reason: &str, remains: Option<Remains>) -> Command {
    Command::Leave {
        writer,
        state: RankState::Lost,
        status: RunStatus::Crashed,
        reason: reason.to_owned(),
        remains,
        done: None,
    }
}

const fn standing(progress: Progress, last_seen_us: i64) -> Standing {
    Standing {
        durable_seq: progress.durable_seq,
        last_step: progress.last_step,
        last_seen_us,
    }
}

fn after(to: &ActorRef<RunMsg>, delay: Duration, msg: RunMsg) {
    let to = to.clone();
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        cast(&to, msg);
    });
}
