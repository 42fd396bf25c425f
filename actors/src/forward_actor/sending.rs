//! What the actor does after every message: spool what must be, send what may be, say how it goes.

use std::time::Instant;

use expman_model::Health;
use expman_model::limits::HEALTH_EVERY;

use super::{ForwardState, Source};
use crate::link::carrier::FrameSender;
use crate::link::frame::{Data, FlushRequest, Frame};
use crate::outbox::SPOOL_LOST;

impl ForwardState {
    /// Requests at once, data within the credit, markers and the goodbye in their place.
    pub(super) fn pump(&mut self) {
        self.outbox.look();
        // A batch gathers until it is due; but what was left out is told as soon as there is room, and a close waits for nothing.
        if self.closing.is_some() || self.args.ring.has_untold() {
            self.outbox.fill();
        }
        if let Some(link) = self.link.clone() {
            self.send_requests(&link);
            self.send_settings(&link);
            self.send_data(&link);
            self.send_health(&link);
            self.send_goodbye(&link);
        }
        self.spool();
        self.tell_stats();
    }

    fn tell_stats(&mut self) {
        self.stats.outbox = self.outbox.stats();
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

    fn send_settings(&mut self, link: &FrameSender) {
        self.settings.retain(|setting| !setting.reply.is_closed());
        for setting in self.settings.iter_mut().filter(|setting| !setting.told) {
            setting.told = link.control(Frame::Forward(setting.change)).is_ok();
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
            let (ready, trouble) = self.outbox.next(self.credit);
            if let Some(what) = trouble {
                tracing::error!("{what}");
                self.trouble(Source::SpoolLost, what);
            }
            let Some(ready) = ready else { return };
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
    }

    /// Whether everything in front of the next marker is on the wire; data behind it may wait.
    fn marker_is_due(&self) -> bool {
        let unsent = self.outbox.next_seq();
        self.markers
            .front()
            .is_some_and(|marker| unsent.is_none_or(|seq| seq > marker.upto_seq))
    }

    fn send_goodbye(&mut self, link: &FrameSender) {
        let Some((status, _)) = &self.closing else {
            return;
        };
        let is_all_sent = self.outbox.all_sent() && self.args.ring.waiting() == 0;
        if self.bye_sent || !is_all_sent || self.args.ring.has_untold() {
            return;
        }
        let health = Frame::Health(self.health());
        if link.ordered(health).is_ok() && link.ordered(Frame::Bye(*status)).is_ok() {
            self.bye_sent = true;
        }
    }

    /// Says how it goes: at once on a new link, then now and then, when something changed.
    fn send_health(&mut self, link: &FrameSender) {
        if let Some((_, at)) = &self.told
            && at.elapsed() < HEALTH_EVERY.mul_f64(0.9)
        {
            return;
        }
        let health = self.health();
        let is_news = self.told.as_ref().is_none_or(|(told, _)| *told != health);
        if is_news && link.control(Frame::Health(health.clone())).is_ok() {
            self.told = Some((health, Instant::now()));
        }
    }

    fn health(&self) -> Health {
        let (ring, outbox) = (self.args.ring.stats(), self.outbox.stats());
        let mut dropped = ring.dropped;
        if outbox.lost > 0 {
            dropped.insert(SPOOL_LOST.to_owned(), outbox.lost);
        }
        Health {
            accepted_seq: ring.last_seq,
            durable_seq: outbox.durable_seq,
            queued_bytes: ring.queued_bytes as u64,
            spooled_bytes: outbox.spooled_bytes,
            dropped,
            reconnects: self.stats.reconnects,
            last_error: self.stats.last_error.clone(),
        }
    }

    /// Keeps the promise that what was accepted is in a file soon, whatever the owner does.
    fn spool(&mut self) {
        let now = Instant::now();
        let is_left_alone = self.closing.is_some() && self.link.is_none();
        let spooled = if is_left_alone {
            // The process may end any moment, and nobody holds its ring.
            blocking(|| self.outbox.spool_all())
        } else if self.outbox.is_due(now) {
            blocking(|| self.outbox.spool_due(now))
        } else {
            Ok(())
        };
        if let Err(what) = spooled {
            self.spool_failed(&what);
        }
        self.args.ring.watch(self.outbox.has_unwritten());
    }

    fn spool_failed(&mut self, what: &str) {
        tracing::warn!("not spooled: {what}");
        self.trouble(Source::Spool, format!("records can't be spooled: {what}"));
    }

    /// The last act: what nobody has confirmed is left in the spool, for the next owner.
    pub(super) fn end(&mut self) {
        self.outbox.fill();
        if let Err(what) = blocking(|| self.outbox.spool_all()) {
            self.spool_failed(&what);
        }
        self.outbox.tidy();
        self.args.ring.retire();
        self.tell_stats();
    }
}

/// Files may be slow: meanwhile the runtime's timers and sockets go on without this thread.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}
