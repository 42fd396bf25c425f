//! How the ring's consumer waits.

use std::sync::atomic::Ordering;

use super::Ring;

impl Ring {
    /// Whether what was cut is to be looked at again soon.
    pub fn watch(&self, on: bool) {
        self.watched.store(on, Ordering::Relaxed);
    }

    /// See [`Ring::watch`].
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    /// Waits for more than can wait: a full batch, a full ring, the end.
    pub async fn urgent(&self) {
        self.wake.notified().await;
    }

    /// Waits for the first record, or what is [`Ring::urgent`]; nobody looks at the ring meanwhile.
    pub async fn first(&self) {
        self.sleeps.store(true, Ordering::Relaxed);
        // Whoever pushed before this look was not told to wake anybody; whoever pushes behind it is, by the lock.
        if self.waiting() == 0 {
            self.wake.notified().await;
        }
        self.sleeps.store(false, Ordering::Relaxed);
    }
}
