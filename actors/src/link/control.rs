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
        drop(waiting);
        self.wake.notify_one();
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
