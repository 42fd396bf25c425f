//! How the commit thread lets ranks go and closes the run: what the dead left first, then their end, then the run's.

use std::time::{Duration, Instant};

use expman_model::{RankState, RunStatus};
use expman_storage::StorageError;
use expman_storage::run_writer::Progress;
use tokio::sync::oneshot;

use super::import::{Import, orphans};
use super::thread::{Thread, UNSYNCED_BYTES};
use super::{Ended, Remains, Report};
use crate::reply::answer;

/// How long a run that can't be closed is tried to be closed.
const FINISH_WITHIN: Duration = Duration::from_secs(60);
/// First and last pause between two attempts to close it.
const FINISH_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How a rank goes.
pub(super) struct Leaving {
    pub(super) state: RankState,
    pub(super) status: RunStatus,
    pub(super) reason: String,
    pub(super) done: Option<oneshot::Sender<Progress>>,
}

/// A run that is being closed.
pub(super) struct Finishing {
    reply: oneshot::Sender<Result<(), String>>,
    until: Instant,
    again: Instant,
    pause: Duration,
}

impl Finishing {
    pub(super) fn new(reply: oneshot::Sender<Result<(), String>>) -> Self {
        let now = Instant::now();
        Self {
            reply,
            until: now + FINISH_WITHIN,
            again: now,
            pause: FINISH_PAUSE.0,
        }
    }
}

impl<R: Fn(Report)> Thread<R> {
    pub(super) fn leave(&mut self, writer: u32, leaving: Leaving) {
        let Leaving {
            state,
            status,
            reason,
            done,
        } = leaving;
        self.receipts.remove(&writer);
        self.writer.leave(writer, state, status, &reason);
        self.left.push((writer, done));
        self.urgent = true;
    }

    pub(super) fn import(&mut self, writer: u32, remains: Remains, leaving: Option<Leaving>) {
        let files = expman_storage::spool::files(self.writer.dir()).unwrap_or_else(|e| {
            tracing::error!("{e}");
            Vec::new()
        });
        let id = self.writer.id(writer);
        let import = Import::new(writer, id, files, remains.ring);
        self.imports.push_back((import, leaving));
    }

    /// Brings in what dead processes left that no link speaks for.
    pub(super) fn import_orphans(&mut self) {
        let found = orphans(self.writer.dir()).unwrap_or_else(|e| {
            tracing::error!("{e}");
            Vec::new()
        });
        for orphan in found {
            let known = self.writer.find(orphan.id);
            let waits = |writer| {
                self.imports
                    .iter()
                    .any(|(import, _)| import.writer == writer)
            };
            // The live ones are the run actor's, who says when they are dead. A process that said goodbye may still
            // be there with files that its deadline kept it from removing.
            let is_over = orphan.is_gone() || known.is_some_and(|at| self.writer.has_left(at));
            if !is_over || known.is_some_and(|at| self.writer.is_live(at) || waits(at)) {
                continue;
            }
            let writer = known.unwrap_or_else(|| {
                self.writer
                    .register(orphan.id, &orphan.host, orphan.pid)
                    .index
            });
            let leaving = known.is_none().then(|| Leaving {
                state: RankState::Lost,
                status: RunStatus::Crashed,
                reason: "its process is gone".to_owned(),
                done: None,
            });
            let import = Import::new(writer, orphan.id, orphan.files, None);
            self.imports.push_back((import, leaving));
        }
    }

    pub(super) fn import_piece(&mut self) -> Ended {
        if self.writer.is_stuck() || self.writer.is_behind() {
            return Ok(());
        }
        let Some((import, _)) = self.imports.front_mut() else {
            return Ok(());
        };
        let writer = import.writer;
        let before = self.writer.progress(writer).applied_seq;
        let more = match import.step(&mut self.writer) {
            Err(e) if e.is_final() => return Err(e),
            Err(e) => {
                tracing::error!("what a dead rank left stays where it is: {e}");
                false
            }
            Ok(more) => more,
        };
        if self.writer.progress(writer).applied_seq > before {
            // A piece of it counts for as much as makes a sync due.
            self.appended(writer, UNSYNCED_BYTES);
        }
        if !more && let Some((import, leaving)) = self.imports.pop_front() {
            // Its close ran out of time, or it was given up before: with all that it logged in place, its word counts.
            let said = import.end.map(|status| Leaving {
                state: RankState::Left,
                status,
                reason: String::new(),
                done: None,
            });
            self.imported.push(import);
            self.urgent = true;
            if let Some(leaving) = said.or(leaving) {
                self.leave(writer, leaving);
            }
        }
        Ok(())
    }

    pub(super) fn answer_leaving(&mut self) -> Ended {
        if !self.left.is_empty() && self.writer.try_save()? {
            for (writer, done) in self.left.drain(..) {
                if let Some(done) = done {
                    answer(done, self.writer.progress(writer));
                }
            }
        }
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<bool, StorageError> {
        let now = Instant::now();
        let Some(finishing) = &mut self.finishing else {
            return Ok(false);
        };
        let waiting =
            !self.imports.is_empty() || !self.imported.is_empty() || !self.left.is_empty();
        if now < finishing.again || waiting && now < finishing.until {
            return Ok(false);
        }
        match self.writer.finish() {
            Err(e) if now < finishing.until && !e.is_final() => {
                tracing::error!("closing the run failed, trying again: {e}");
                finishing.again = now + finishing.pause;
                finishing.pause = (finishing.pause * 2).min(FINISH_PAUSE.1);
                Ok(false)
            }
            done => {
                if let Some(Finishing { reply, .. }) = self.finishing.take() {
                    answer(reply, done.as_ref().copied().map_err(ToString::to_string));
                }
                done.map(|()| true)
            }
        }
    }
}
