//! When the actor looks at the ring: at once when much waits, else at a beat that lets a batch gather.
//!
//! As long as records come, or what was sent is not written, the beat goes on by itself: whoever logs has to wake nobody.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use expman_model::limits::BATCH_BYTES;
use ractor::ActorRef;
use rustix::io::read;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use super::ForwardMsg;
use crate::ring::Ring;

/// Tells the actor to look until it is gone.
pub(crate) async fn watch_ring(ring: Arc<Ring>, actor: ActorRef<ForwardMsg>, batch_age: Duration) {
    let beat = Beat::new(batch_age);
    loop {
        ring.first().await;
        beat.start();
        // What woke this is passed on in any case: it may be the end.
        let mut is_first = true;
        loop {
            let is_urgent = is_first && ring.waiting() >= BATCH_BYTES
                || tokio::select! {
                    () = beat.next() => false,
                    () = ring.urgent() => true,
                };
            if !is_urgent && !is_first && ring.waiting() == 0 && !ring.is_watched() {
                break;
            }
            if actor.cast(ForwardMsg::Drain).is_err() {
                return;
            }
            is_first = false;
        }
        beat.stop();
    }
}

/// Comes again and again, by a timer of the kernel: the runtime's own wakes the thread a second time for many of its
/// sleeps, when one crosses a boundary of its wheel.
struct Beat {
    every: Duration,
    /// None where there is no descriptor left: then the runtime's timer serves.
    timer: Option<AsyncFd<OwnedFd>>,
}

impl Beat {
    fn new(every: Duration) -> Self {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)
            .map_err(std::io::Error::from)
            .and_then(registered);
        Self {
            // A timer of 0 would never come.
            every: every.max(Duration::from_millis(1)),
            timer: timer
                .inspect_err(|e| tracing::debug!("a timer for the queue: {e}"))
                .ok(),
        }
    }

    /// The next beat comes one period from now.
    fn start(&self) {
        self.set(self.every);
    }

    fn stop(&self) {
        self.set(Duration::ZERO);
    }

    fn set(&self, every: Duration) {
        let Some(timer) = &self.timer else { return };
        let every = Timespec {
            tv_sec: i64::try_from(every.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: every.subsec_nanos().into(),
        };
        let spec = Itimerspec {
            it_interval: every,
            it_value: every,
        };
        if let Err(e) = timerfd_settime(timer, TimerfdTimerFlags::empty(), &spec) {
            tracing::error!("the timer of the queue: {e}");
        }
    }

    async fn next(&self) {
        let Some(timer) = &self.timer else {
            return sleep(self.every).await;
        };
        loop {
            let Ok(mut ready) = timer.readable().await else {
                return sleep(self.every).await;
            };
            let mut beats = [0; 8];
            let came = read(timer, &mut beats).is_ok();
            // One that comes in between is not seen; the next one is.
            ready.clear_ready();
            if came {
                return;
            }
        }
    }
}

#[expect(
    unsafe_code,
    reason = "the descriptor is owned, so it stays open and the same as long as it is registered"
)]
fn registered(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_beat_comes_until_it_is_stopped_and_again_when_it_is_started() {
        let beat = Beat::new(Duration::from_millis(5));
        assert!(beat.timer.is_some());
        for _ in 0..2 {
            beat.start();
            let start = Instant::now();
            for _ in 0..4 {
                beat.next().await;
            }
            assert!(start.elapsed() >= Duration::from_millis(15));
            beat.stop();
            let none = timeout(Duration::from_millis(50), beat.next()).await;
            assert!(none.is_err(), "it was stopped");
        }
    }

    #[tokio::test]
    async fn without_a_descriptor_the_runtime_serves() {
        let beat = Beat {
            every: Duration::from_millis(5),
            timer: None,
        };
        beat.start();
        let start = Instant::now();
        beat.next().await;
        beat.stop();
        assert!(start.elapsed() >= Duration::from_millis(5));
    }
}
