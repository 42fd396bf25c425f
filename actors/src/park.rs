//! Waiting in a thread that is no runtime's, with a limit: the runtime's timers would wake another thread each time.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// Unparks the thread that it was made in.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What the future gives; `None` when the limit came first. The future must not need a runtime's timers or sockets.
pub fn wait<F: Future>(future: F, limit: Duration) -> Option<F::Output> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let start = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        match limit.checked_sub(start.elapsed()) {
            Some(left) if !left.is_zero() => std::thread::park_timeout(left),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn what_comes_from_another_thread_ends_the_wait() {
        let (tell, told) = oneshot::channel();
        let start = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                tell.send(7).unwrap();
            });
            assert_eq!(wait(told, Duration::from_secs(60)), Some(Ok(7)));
        });
        assert!(
            start.elapsed() < Duration::from_secs(50),
            "the limit ended it"
        );
    }

    #[test]
    fn the_limit_ends_it_too() {
        let (_tell, told) = oneshot::channel::<()>();
        let start = Instant::now();
        assert_eq!(wait(told, Duration::from_millis(20)), None);
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert_eq!(wait(std::future::ready(7), Duration::ZERO), Some(7));
    }
}
