//! What waits to be said in front of all data, to a peer that may be slow.
//!
//! Nothing is dropped for a peer that lives: of acknowledgements, health and trouble only the newest counts, and the
//! rest waits. A peer that leaves more than [`FRAMES_MAX`] unread loses its link, so that the session starts over on
//! the next one instead of missing a word.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use expman_model::Health;
use tokio::sync::Notify;

use crate::link::carrier::NotSent;
use crate::link::frame::{Ack, Frame};

/// Frames that may wait, besides those of which only the newest counts.
pub const FRAMES_MAX: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Control {
    waiting: Mutex<Waiting>,
    wake: Notify,
    snap: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    ack: Option<Ack>,
    trouble: Option<String>,
    health: Option<Health>,
    frames: VecDeque<Frame>,
    gone: bool,
}

impl Waiting {
    fn next(&mut self) -> Option<Frame> {
        self.ack
            .take()
            .map(Frame::Ack)
            .or_else(|| self.trouble.take().map(Frame::Trouble))
            .or_else(|| self.health.take().map(Frame::Health))
            .or_else(|| self.frames.pop_front())
    }
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, frame: Frame) -> Result<(), NotSent> {
        self.put(frame)?;
        self.wake();
        Ok(())
    }

    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// [`Control::push`] without a word to who writes.
    pub(super) fn put(&self, frame: Frame) -> Result<(), NotSent> {
        let mut waiting = self.lock();
        if waiting.gone {
            return Err(NotSent);
        }
        match frame {
            Frame::Ack(ack) => waiting.ack = Some(waiting.ack.unwrap_or_default().and(ack)),
            Frame::Trouble(what) => waiting.trouble = Some(what),
            Frame::Health(health) => waiting.health = Some(health),
            frame if waiting.frames.len() < FRAMES_MAX => waiting.frames.push_back(frame),
            _ => {
                tracing::warn!("a peer does not read: its link is given up");
                waiting.gone = true;
                drop(waiting);
                self.snap.notify_one();
                return Err(NotSent);
            }
        }
        Ok(())
    }

    /// Takes all that waits.
    pub(super) fn drain(&self, mut each: impl FnMut(&Frame)) {
        while let Some(frame) = { self.lock().next() } {
            each(&frame);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let waiting = self.lock();
        waiting.frames.is_empty()
            && waiting.ack.is_none()
            && waiting.trouble.is_none()
            && waiting.health.is_none()
    }

    /// Waits until something was pushed.
    pub(super) async fn ready(&self) {
        self.wake.notified().await;
    }

    /// Waits until the link is given up.
    pub(super) async fn broken(&self) {
        self.snap.notified().await;
    }

    /// The link is gone.
    pub(super) fn end(&self) {
        let mut waiting = self.lock();
        *waiting = Waiting {
            gone: true,
            ..Waiting::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use expman_model::Version;
    use tokio::io::duplex;

    use super::*;
    use crate::link::carrier::{FrameReader, FrameSender};

    fn barrier(number: u64) -> Frame {
        Frame::Barrier(Version { epoch: 1, number })
    }

    fn ack(durable_seq: u64, written_seq: u64) -> Frame {
        Frame::Ack(Ack {
            durable_seq,
            written_seq,
        })
    }

    /// A peer whose socket takes next to nothing while it does not read.
    fn slow_peer() -> (FrameSender, FrameReader) {
        let (ours, theirs) = duplex(64);
        let to = FrameSender::start(Box::new(tokio::io::split(ours).1));
        (to, FrameReader::new(Box::new(tokio::io::split(theirs).0)))
    }

    #[tokio::test]
    async fn a_slow_peer_gets_every_barrier_in_order_and_the_newest_of_the_rest() {
        let (to, mut reader) = slow_peer();
        let last = FRAMES_MAX as u64;
        for n in 1..=last {
            to.control(barrier(n)).unwrap();
            to.control(ack(n, n + 1)).unwrap();
            to.control(Frame::Trouble(n.to_string())).unwrap();
            let health = Health {
                accepted_seq: n,
                ..Health::default()
            };
            to.control(Frame::Health(health)).unwrap();
        }
        drop(to);
        let (mut barriers, mut newest) = (Vec::new(), [0; 3]);
        let mut rest = 0;
        while let Ok(Some(frame)) = reader.next().await {
            match frame {
                Frame::Barrier(version) => barriers.push(version.number),
                Frame::Ack(ack) => newest[0] = ack.durable_seq,
                Frame::Trouble(what) => newest[1] = what.parse().unwrap(),
                Frame::Health(health) => newest[2] = health.accepted_seq,
                other => panic!("{other:?}"),
            }
            rest += 1;
        }
        assert_eq!(barriers, (1..=last).collect::<Vec<_>>());
        assert_eq!(newest, [last; 3]);
        assert!(
            rest < FRAMES_MAX + 20,
            "acknowledgements do not pile up: {rest}"
        );
    }

    #[tokio::test]
    async fn a_peer_that_never_reads_loses_its_link_and_no_frame_silently() {
        let (to, mut reader) = slow_peer();
        let mut taken = 0;
        while to.control(barrier(taken + 1)).is_ok() {
            taken += 1;
            tokio::task::yield_now().await;
        }
        assert!(taken >= FRAMES_MAX as u64);
        assert_eq!(to.control(ack(1, 1)), Err(NotSent));
        let mut read = 0;
        while let Ok(Some(_)) = reader.next().await {
            read += 1;
        }
        assert!(read < taken, "the link ended, so the session starts over");
    }

    #[test]
    fn an_older_acknowledgement_takes_nothing_back() {
        let control = Control::default();
        control.push(ack(5, 9)).unwrap();
        control.push(ack(7, 8)).unwrap();
        let mut seen = Vec::new();
        control.drain(|frame| seen.push(frame.clone()));
        assert_eq!(seen, [ack(7, 9)]);
    }

    #[tokio::test]
    async fn what_is_left_goes_with_the_next_frame_or_when_the_peer_is_nudged() {
        let (ours, theirs) = duplex(1 << 16);
        let (to, mut from) = (
            FrameSender::start(Box::new(ours)),
            FrameReader::new(Box::new(theirs)),
        );
        let ack = |seq| Ack {
            durable_seq: seq,
            written_seq: seq,
        };
        // Once this is read the writer waits.
        to.control(barrier(1)).unwrap();
        assert_eq!(from.next().await.unwrap(), Some(barrier(1)));
        to.leave(Frame::Ack(ack(7)));
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), from.next()).await;
        assert!(early.is_err(), "{early:?}");
        to.control(barrier(2)).unwrap();
        assert_eq!(from.next().await.unwrap(), Some(Frame::Ack(ack(7))));
        assert_eq!(from.next().await.unwrap(), Some(barrier(2)));
        to.leave(Frame::Ack(ack(8)));
        to.nudge();
        assert_eq!(from.next().await.unwrap(), Some(Frame::Ack(ack(8))));
    }
}
