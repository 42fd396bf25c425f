//! What keeps the writer from writing, and when it tries again.

use std::time::{Duration, Instant};

use crate::error::{Result, StorageError};

/// First and last pause between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// One kind of work that can fail for a while without an end to the rest.
#[derive(Debug, Default)]
pub(crate) struct Chore {
    what: Option<String>,
    pause: Duration,
    again: Option<Instant>,
}

impl Chore {
    /// Whether it may be tried now.
    pub(crate) fn ready(&self) -> bool {
        self.again.is_none_or(|again| Instant::now() >= again)
    }

    /// It may be tried at once: there will be no later.
    pub(crate) const fn hurry(&mut self) {
        self.again = None;
    }

    /// Why it failed, until it works again.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.what.as_deref()
    }

    /// Takes in how an attempt ended: true when it worked.
    ///
    /// # Errors
    /// When no further attempt can succeed.
    pub(crate) fn note(&mut self, done: Result<()>) -> Result<bool> {
        match done {
            Ok(()) => {
                if self.what.is_some() {
                    *self = Self::default();
                }
                Ok(true)
            }
            Err(e) if e.is_final() => Err(e),
            Err(e) => {
                self.failed(&e);
                Ok(false)
            }
        }
    }

    fn failed(&mut self, e: &StorageError) {
        let what = e.to_string();
        if self.what.as_ref() != Some(&what) {
            tracing::error!("{what}; trying again");
        }
        self.what = Some(what);
        self.pause = (self.pause * 2).clamp(PAUSE.0, PAUSE.1);
        self.again = Some(Instant::now() + self.pause);
    }
}

/// Everything that the writer does and that can fail.
#[derive(Debug, Default)]
pub(crate) struct Chores {
    /// Text and commit log: nothing becomes durable while it fails.
    pub(crate) commit: Chore,
    /// `run.yaml` and `config.yaml`.
    pub(crate) save: Chore,
    /// `events.jsonl`.
    pub(crate) events: Chore,
    /// Starting the next log.
    pub(crate) seal: Chore,
    /// `metrics.parquet`.
    pub(crate) publish: Chore,
    /// Rolling a text that has grown large.
    pub(crate) roll: Chore,
}

impl Chores {
    /// The trouble that weighs most.
    pub(crate) fn trouble(&self) -> Option<&str> {
        [
            &self.commit,
            &self.save,
            &self.seal,
            &self.publish,
            &self.roll,
            &self.events,
        ]
        .into_iter()
        .find_map(Chore::trouble)
    }
}
