//! The ForwardActor: one per process and run, between the ring and the owner.
//!
//! Owns the outbox and the spool. Receives records from the ring, frames from the link task, flushes and the close
//! from the face. Sends batches, markers, requests and its health over the link; answers the face.
//! Promises that what the ring accepted is sent in order and again until it is durable, over any number of links, that
//! it stands in a file 50 ms after it was accepted, the owner's or the spool's, and that a marker never overtakes the
//! data in front of it. When it ends with something undelivered, that is in the spool.

mod beat;
mod notices;
mod sending;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use expman_model::forwarding::{Forwarding, ForwardingChange};
use expman_model::limits::{HEALTH_EVERY, SPOOL_BYTES};
use expman_model::{FlushReport, Health, RunId, RunStatus, Version, WriterId};
use expman_storage::RunDir;
use expman_storage::spool::{SPOOL_FORMAT, Spool, SpoolHeader};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{oneshot, watch};

pub(crate) use self::beat::watch_ring;
pub(crate) use self::notices::{Notices, Source};
use crate::capture::Capture;
use crate::gate::Gate;
use crate::link::carrier::FrameSender;
use crate::link::frame::{Ack, FlushRequest, Frame, Hello, Marker, Welcome};
use crate::outbox::{Outbox, OutboxStats};
use crate::reply::{answer, cast};
use crate::ring::Ring;

/// What the actor is told.
#[derive(Debug)]
pub(crate) enum ForwardMsg {
    /// The ring has something, or the timer ran.
    Drain,
    /// A link stands.
    LinkUp { welcome: Welcome, to: FrameSender },
    /// It ended.
    LinkDown,
    /// A frame from the owner.
    Received(Frame),
    /// The face asks for a flush.
    Flush {
        request: FlushRequest,
        reply: oneshot::Sender<FlushReport>,
    },
    /// The face wants other text to be forwarded, in all ranks.
    Forward {
        change: ForwardingChange,
        reply: oneshot::Sender<Forwarding>,
    },
    /// The face closes: send everything, then goodbye.
    Close {
        status: RunStatus,
        reply: oneshot::Sender<bool>,
    },
    /// The captured output in front of a barrier is in the ring.
    Captured(Version),
    /// It is time to say how it goes.
    Tick,
}

/// What the face can see of the actor at any time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForwardStats {
    /// See [`OutboxStats`].
    pub outbox: OutboxStats,
    /// Whether a link stands.
    pub connected: bool,
    /// How often a link ended.
    pub reconnects: u64,
    /// What keeps records from the owner's disk now, or did last.
    pub last_error: Option<String>,
}

/// See the module.
pub(crate) struct ForwardActor;

/// What the actor starts with.
pub(crate) struct ForwardArgs {
    pub(crate) ring: Arc<Ring>,
    /// The run, for the spool.
    pub(crate) dir: RunDir,
    /// Who this process is, for the spool.
    pub(crate) hello: Hello,
    pub(crate) capture: Option<Arc<Capture>>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) stats: watch::Sender<ForwardStats>,
    pub(crate) notices: Arc<Notices>,
}

struct Asked {
    request: FlushRequest,
    at: Instant,
    reply: oneshot::Sender<FlushReport>,
}

struct Setting {
    change: ForwardingChange,
    told: bool,
    reply: oneshot::Sender<Forwarding>,
}

/// What the actor keeps.
pub(crate) struct ForwardState {
    args: ForwardArgs,
    outbox: Outbox,
    link: Option<FrameSender>,
    credit: usize,
    /// Markers to send, each behind the sequence number it stands for.
    markers: VecDeque<Marker>,
    asked: BTreeMap<u64, Asked>,
    /// Requests that the present owner has.
    forwarded: HashSet<u64>,
    /// Settings that are asked for, in turn: whether the present owner was told, and who waits.
    settings: Vec<Setting>,
    closing: Option<(RunStatus, oneshot::Sender<bool>)>,
    bye_sent: bool,
    stats: ForwardStats,
    /// What the present owner knows of this, and since when.
    told: Option<(Health, Instant)>,
    /// Where the last error came from.
    troubled: Option<Source>,
    /// The run that the owners so far wrote.
    run_id: Option<RunId>,
}

impl Actor for ForwardActor {
    type Msg = ForwardMsg;
    type State = ForwardState;
    type Arguments = ForwardArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<ForwardMsg>,
        args: ForwardArgs,
    ) -> Result<ForwardState, ActorProcessingErr> {
        drop(myself.send_interval(HEALTH_EVERY, || ForwardMsg::Tick));
        args.ring.warm();
        Ok(ForwardState {
            outbox: Outbox::new(Arc::clone(&args.ring)),
            args,
            link: None,
            credit: 0,
            markers: VecDeque::new(),
            asked: BTreeMap::new(),
            forwarded: HashSet::new(),
            settings: Vec::new(),
            closing: None,
            bye_sent: false,
            stats: ForwardStats::default(),
            told: None,
            run_id: None,
            troubled: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ForwardMsg>,
        msg: ForwardMsg,
        state: &mut ForwardState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            ForwardMsg::Drain => state.outbox.fill(),
            ForwardMsg::LinkUp { welcome, to } => state.link_up(&welcome, to),
            ForwardMsg::LinkDown => state.link_down(),
            ForwardMsg::Received(frame) => state.received(&myself, frame),
            ForwardMsg::Flush { request, reply } => state.flush(request, reply),
            ForwardMsg::Forward { change, reply } => state.settings.push(Setting {
                change,
                told: false,
                reply,
            }),
            ForwardMsg::Close { status, reply } => state.closing = Some((status, reply)),
            ForwardMsg::Captured(version) => state.mark(version),
            ForwardMsg::Tick => {}
        }
        state.pump();
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<ForwardMsg>,
        state: &mut ForwardState,
    ) -> Result<(), ActorProcessingErr> {
        state.end();
        Ok(())
    }
}

impl ForwardState {
    fn link_up(&mut self, welcome: &Welcome, to: FrameSender) {
        let former = self.run_id.replace(welcome.run_id);
        if former.is_some_and(|former| former != welcome.run_id) {
            let what = format!(
                "{} was removed or renamed while the run went on: a new run begins there, \
                 and what was stored before is not in it",
                self.args.dir.root().display()
            );
            self.trouble(Source::Folder, what);
        }
        self.outbox.relink(welcome.epoch, welcome.durable_seq);
        let (dir, hello) = (&self.args.dir, &self.args.hello);
        self.outbox.set_spool(|| {
            let header = SpoolHeader {
                format: SPOOL_FORMAT,
                id: WriterId {
                    rank: welcome.rank,
                    incarnation: hello.incarnation,
                },
                host: hello.host.clone(),
                pid: hello.pid,
                launch_key: hello.launch_key.clone(),
            };
            Spool::new(dir.clone(), header, SPOOL_BYTES)
        });
        self.set_forwarding(welcome.forwarding);
        for setting in &mut self.settings {
            setting.told = false;
        }
        self.told = None;
        self.credit = welcome.credit;
        self.link = Some(to);
        // The owner opens its barriers for this link again; what an earlier owner asked for is void.
        self.markers.clear();
        self.forwarded.clear();
        self.bye_sent = false;
        self.stats.connected = true;
    }

    fn link_down(&mut self) {
        self.link = None;
        self.stats.connected = false;
        self.stats.reconnects += 1;
    }

    fn received(&mut self, myself: &ActorRef<ForwardMsg>, frame: Frame) {
        match frame {
            Frame::Ack(ack) => self.outbox.acknowledge(ack),
            Frame::Barrier(version) => self.barrier(myself, version),
            Frame::FlushDone(done) => {
                if let Some(asked) = self.asked.remove(&done.id) {
                    let elapsed_secs = asked.at.elapsed().as_secs_f64();
                    answer(
                        asked.reply,
                        FlushReport {
                            elapsed_secs,
                            forwarding: self.args.gate.is_on(),
                            ..done.report
                        },
                    );
                }
            }
            Frame::Farewell(sealed) => {
                let all = self.args.ring.last_seq();
                self.outbox.acknowledge(Ack {
                    durable_seq: all,
                    written_seq: all,
                });
                self.outbox.tidy();
                if let Some((_, reply)) = self.closing.take() {
                    answer(reply, sealed);
                }
            }
            Frame::Refused(why) => {
                tracing::error!("the run's owner refused data: {why}");
                self.trouble(
                    Source::Refused,
                    format!("the run's owner refused data: {why}"),
                );
            }
            Frame::Trouble(what) if what.is_empty() => {
                tracing::info!("the run's owner writes again");
                // The spool is on the same disk.
                if matches!(self.troubled, Some(Source::Owner | Source::Spool)) {
                    (self.troubled, self.stats.last_error) = (None, None);
                }
            }
            Frame::Trouble(what) => {
                let what = format!("the run's owner can't write: {what}");
                tracing::warn!("{what}");
                self.trouble(Source::Owner, what);
            }
            Frame::Forwarding(forwarding) => self.set_forwarding(forwarding),
            Frame::Ping => {}
            other => tracing::warn!("unexpected {other:?}"),
        }
    }

    fn set_forwarding(&mut self, forwarding: Forwarding) {
        self.args.gate.set(forwarding);
        let done = |setting: &mut Setting| setting.told && setting.change.is_done(forwarding);
        for setting in self.settings.extract_if(.., done) {
            answer(setting.reply, forwarding);
        }
    }

    /// Captured output first: the pipe is emptied into the ring before the marker takes its place.
    fn barrier(&mut self, myself: &ActorRef<ForwardMsg>, version: Version) {
        match &self.args.capture {
            Some(capture) => {
                let (capture, myself) = (Arc::clone(capture), myself.clone());
                tokio::spawn(async move {
                    capture.drained().await;
                    cast(&myself, ForwardMsg::Captured(version));
                });
            }
            None => self.mark(version),
        }
    }

    fn mark(&mut self, version: Version) {
        self.outbox.fill();
        self.markers.push_back(Marker {
            version,
            upto_seq: self.args.ring.last_seq(),
        });
    }

    fn flush(&mut self, request: FlushRequest, reply: oneshot::Sender<FlushReport>) {
        self.asked.retain(|_, asked| !asked.reply.is_closed());
        self.asked.insert(
            request.id,
            Asked {
                request,
                at: Instant::now(),
                reply,
            },
        );
    }

    /// Remembers what is wrong, and has each kind of it told once to whoever logs.
    fn trouble(&mut self, source: Source, what: String) {
        self.args.notices.tell(source, &what);
        (self.troubled, self.stats.last_error) = (Some(source), Some(what));
    }
}
