//! The ForwardActor: one per process and run, between the ring and the owner.
//!
//! Owns the outbox. Receives records from the ring, frames from the link task, flushes and the close from the face.
//! Sends batches, markers and requests over the link; answers the face.
//! Promises that what the ring accepted is sent in order and again until it is durable, over any number of links,
//! and that a marker never overtakes the data in front of it.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use expman_model::limits::BATCH_BYTES;
use expman_model::{FlushReport, RunStatus, Version};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{oneshot, watch};

use crate::capture::Capture;
use crate::link::carrier::FrameSender;
use crate::link::frame::{Data, FlushRequest, Frame, Marker, Welcome};
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
    /// The face closes: send everything, then goodbye.
    Close {
        status: RunStatus,
        reply: oneshot::Sender<bool>,
    },
    /// The captured output in front of a barrier is in the ring.
    Captured(Version),
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
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}

/// See the module.
pub(crate) struct ForwardActor;

/// What the actor starts with.
pub(crate) struct ForwardArgs {
    pub(crate) ring: Arc<Ring>,
    pub(crate) outbox: Outbox,
    pub(crate) capture: Option<Arc<Capture>>,
    pub(crate) stats: watch::Sender<ForwardStats>,
}

struct Asked {
    request: FlushRequest,
    at: Instant,
    reply: oneshot::Sender<FlushReport>,
}

/// What the actor keeps.
pub(crate) struct ForwardState {
    args: ForwardArgs,
    link: Option<FrameSender>,
    credit: usize,
    /// Markers to send, each behind the sequence number it stands for.
    markers: VecDeque<Marker>,
    asked: BTreeMap<u64, Asked>,
    /// Requests that the present owner has.
    forwarded: HashSet<u64>,
    closing: Option<(RunStatus, oneshot::Sender<bool>)>,
    bye_sent: bool,
    stats: ForwardStats,
}

impl Actor for ForwardActor {
    type Msg = ForwardMsg;
    type State = ForwardState;
    type Arguments = ForwardArgs;

    async fn pre_start(
        &self,
        _myself: ActorRef<ForwardMsg>,
        args: ForwardArgs,
    ) -> Result<ForwardState, ActorProcessingErr> {
        Ok(ForwardState {
            args,
            link: None,
            credit: 0,
            markers: VecDeque::new(),
            asked: BTreeMap::new(),
            forwarded: HashSet::new(),
            closing: None,
            bye_sent: false,
            stats: ForwardStats::default(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ForwardMsg>,
        msg: ForwardMsg,
        state: &mut ForwardState,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            ForwardMsg::Drain => {}
            ForwardMsg::LinkUp { welcome, to } => state.link_up(&welcome, to),
            ForwardMsg::LinkDown => state.link_down(),
            ForwardMsg::Received(frame) => state.received(&myself, frame),
            ForwardMsg::Flush { request, reply } => state.flush(request, reply),
            ForwardMsg::Close { status, reply } => state.closing = Some((status, reply)),
            ForwardMsg::Captured(version) => state.mark(version),
        }
        state.pump();
        Ok(())
    }
}

impl ForwardState {
    fn link_up(&mut self, welcome: &Welcome, to: FrameSender) {
        self.args.outbox.acknowledge(welcome.durable_seq);
        self.args.outbox.rewind();
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
            Frame::Ack(ack) => self.args.outbox.acknowledge(ack.durable_seq),
            Frame::Barrier(version) => self.barrier(myself, version),
            Frame::FlushDone(done) => {
                if let Some(asked) = self.asked.remove(&done.id) {
                    let elapsed_secs = asked.at.elapsed().as_secs_f64();
                    answer(
                        asked.reply,
                        FlushReport {
                            elapsed_secs,
                            ..done.report
                        },
                    );
                }
            }
            Frame::Farewell(sealed) => {
                self.args.outbox.acknowledge(self.args.ring.last_seq());
                if let Some((_, reply)) = self.closing.take() {
                    answer(reply, sealed);
                }
            }
            Frame::Refused(why) => {
                tracing::error!("the run's owner refused data: {why}");
                self.stats.last_error = Some(why);
            }
            Frame::Ping => {}
            other => tracing::warn!("unexpected {other:?}"),
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
        self.fill_outbox(true);
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

    /// Moves records from the ring to the outbox as long as there is room, or to the last one if `all`.
    fn fill_outbox(&mut self, all: bool) {
        while all || self.args.outbox.has_room() {
            match self.args.ring.take(BATCH_BYTES) {
                Some(taken) => self.args.outbox.push(taken),
                None => return,
            }
        }
    }

    /// Sends what may be sent: requests at once, data within the credit, markers and the goodbye in their place.
    fn pump(&mut self) {
        self.fill_outbox(self.closing.is_some());
        if let Some(link) = self.link.clone() {
            self.send_requests(&link);
            self.send_data(&link);
            self.send_goodbye(&link);
        }
        self.stats.outbox = self.args.outbox.stats();
        let stats = &self.stats;
        self.args.stats.send_if_modified(|known| {
            let changed = known != stats;
            if changed {
                known.clone_from(stats);
            }
            changed
        });
    }

    fn send_requests(&mut self, link: &FrameSender) {
        for (id, asked) in &self.asked {
            if self.forwarded.contains(id) || asked.reply.is_closed() {
                continue;
            }
            let waited = u64::try_from(asked.at.elapsed().as_millis()).unwrap_or(u64::MAX);
            let timeout_ms = asked.request.timeout_ms.saturating_sub(waited);
            let request = FlushRequest {
                timeout_ms,
                ..asked.request.clone()
            };
            if link.control(Frame::Flush(request)).is_ok() {
                self.forwarded.insert(*id);
            }
        }
    }

    fn send_data(&mut self, link: &FrameSender) {
        while link.has_room() {
            if self.marker_is_due() {
                let Some(marker) = self.markers.pop_front() else {
                    return;
                };
                if link.ordered(Frame::Marker(marker)).is_err() {
                    return;
                }
                continue;
            }
            match self.args.outbox.next(self.credit) {
                Ok(Some(ready)) => {
                    let data = Data {
                        first_seq: ready.first_seq,
                        last_seq: ready.last_seq,
                        records: ready.body,
                    };
                    if link.ordered(Frame::Data(data)).is_err() {
                        // Only a link that is gone refuses after `has_room`: everything is sent again on the next.
                        return;
                    }
                }
                Ok(None) => return,
                Err(e) => {
                    tracing::error!("a spooled batch is lost: {e}");
                    self.stats.last_error = Some(e.to_string());
                    return;
                }
            }
        }
    }

    /// Whether everything in front of the next marker is on the wire; data behind it may wait.
    fn marker_is_due(&self) -> bool {
        let unsent = self.args.outbox.next_seq();
        self.markers
            .front()
            .is_some_and(|marker| unsent.is_none_or(|seq| seq > marker.upto_seq))
    }

    fn send_goodbye(&mut self, link: &FrameSender) {
        if let Some((status, _)) = &self.closing
            && !self.bye_sent
            && self.args.outbox.all_sent()
            && self.args.ring.queued() == 0
            && link.ordered(Frame::Bye(*status)).is_ok()
        {
            self.bye_sent = true;
        }
    }
}

/// Wakes the actor when the ring has something: at once when much waits, else after a pause that lets a batch gather.
pub(crate) async fn watch_ring(ring: Arc<Ring>, actor: ActorRef<ForwardMsg>, batch_age: Duration) {
    loop {
        ring.ready().await;
        if ring.queued() < BATCH_BYTES {
            tokio::select! {
                () = tokio::time::sleep(batch_age) => {}
                () = ring.ready() => {}
            }
        }
        if actor.cast(ForwardMsg::Drain).is_err() {
            return;
        }
    }
}
