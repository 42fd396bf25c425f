//! What a person at the logging process should hear of, once for each kind.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Where trouble comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// The ring is in private memory.
    Ring,
    /// The spool can't be written.
    Spool,
    /// The spool can't be read back.
    SpoolLost,
    /// The owner can't write.
    Owner,
    /// The owner does not take a batch.
    Refused,
    /// The run's folder is gone.
    Folder,
}

/// See the module. Looking costs one load.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    waiting: AtomicBool,
    texts: Mutex<(BTreeSet<Source>, Vec<String>)>,
}

impl Notices {
    /// Has a text told, unless one of this source was.
    pub(crate) fn tell(&self, source: Source, text: &str) {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if texts.0.insert(source) {
            texts.1.push(text.to_owned());
            self.waiting.store(true, Ordering::Release);
        }
    }

    /// Whether there is something to tell.
    #[inline]
    pub(crate) fn are_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    /// What is to be told, if anything; each text once.
    pub(crate) fn take(&self) -> Vec<String> {
        if !self.are_waiting() || !self.waiting.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut texts.1)
    }
}
