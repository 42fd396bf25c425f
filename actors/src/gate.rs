//! What of this process's text goes into its queue, as the run wants it now: one load for whoever asks.

use std::sync::atomic::{AtomicU16, Ordering};

use expman_model::forwarding::Forwarding;
use expman_model::record::UNCAUGHT;
use expman_model::{Level, RecordBody};
use tokio::sync::watch;

const ON: u16 = 1 << 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct Gate {
    /// The level, and [`ON`].
    now: AtomicU16,
    told: watch::Sender<Forwarding>,
}

impl Gate {
    /// Lets everything through.
    pub(crate) fn new() -> Self {
        let gate = Self {
            now: AtomicU16::new(0),
            told: watch::Sender::new(Forwarding::default()),
        };
        gate.store(Forwarding::default());
        gate
    }

    fn store(&self, forwarding: Forwarding) {
        let on = if forwarding.on { ON } else { 0 };
        self.now
            .store(on | u16::from(forwarding.level.0), Ordering::Relaxed);
    }

    /// Takes in the run's setting, unless a later one is known.
    pub(crate) fn set(&self, forwarding: Forwarding) {
        self.told.send_if_modified(|known| {
            let is_news = forwarding.version > known.version;
            if is_news {
                *known = forwarding;
                self.store(forwarding);
            }
            is_news
        });
    }

    /// The setting.
    pub(crate) fn forwarding(&self) -> Forwarding {
        *self.told.borrow()
    }

    /// Whether text is forwarded at all.
    pub(crate) fn is_on(&self) -> bool {
        self.now.load(Ordering::Relaxed) & ON != 0
    }

    /// Whether a record of Python logging is.
    pub(crate) fn wants(&self, level: Level) -> bool {
        let now = self.now.load(Ordering::Relaxed);
        now & ON != 0 && u16::from(level.0) >= now & !ON
    }

    /// Whether a record goes into the queue: what is no text of others always does, and so does why a program failed.
    pub(crate) fn passes(&self, body: &RecordBody) -> bool {
        match body {
            RecordBody::Message { level, logger, .. }
                if !logger.is_empty() && logger != UNCAUGHT =>
            {
                self.wants(*level)
            }
            _ => true,
        }
    }
}
