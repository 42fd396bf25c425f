//! How ranks go, and what that makes of the run.

use std::collections::BTreeMap;
use std::time::Duration;

use expman_model::forwarding::Forwarding;
use expman_model::time::{now_us, parse_rfc3339, rfc3339_us};
use expman_model::{EventBody, RankState, RunStatus};

use super::{RunWriter, SAVE_SHARE};
use crate::error::Result;
use crate::lines;
use crate::state::WriterState;

impl RunWriter {
    /// Notes that a rank is gone.
    pub fn leave(&mut self, writer: u32, state: RankState, status: RunStatus, reason: &str) {
        let w = &mut self.state.writers[writer as usize];
        // Whoever was given up, and whose own word is found later, ended as it says.
        let given_up = w.meta.state == RankState::Lost && state == RankState::Left;
        w.meta.silent_since = None;
        if w.meta.status == RunStatus::Running || given_up {
            w.meta.status = status;
        }
        w.meta.left_at = Some(rfc3339_us(now_us()));
        let (rank, incarnation, seq) = (w.id.rank, w.id.incarnation, w.applied_seq);
        let event = match state {
            RankState::Lost => EventBody::RankLost {
                rank,
                incarnation,
                seq,
                last_step: w.meta.last_step,
                reason: reason.to_owned(),
            },
            _ => EventBody::RankLeft {
                rank,
                incarnation,
                status: w.meta.status,
                seq,
            },
        };
        self.event(event);
        self.state.set(writer, state);
        self.state.dirty = true;
    }

    /// Makes the ends of writers outlive this process: in `run.yaml` where that is affordable, else beside it.
    ///
    /// # Errors
    /// When this process can't be the run's writer any more.
    pub fn try_keep_ends(&mut self, writers: impl Iterator<Item = u32>) -> Result<bool> {
        let is_last = self.state.live() == 0;
        let is_due = self.saved_at.elapsed() >= self.save_took * SAVE_SHARE;
        if is_last || is_due || self.goodbyes.spoilt {
            return self.try_save();
        }
        // The end of a rank says what it has stored.
        if !self.try_sync()? {
            return Ok(false);
        }
        let back = std::mem::take(&mut self.goodbyes.back);
        let told = back.into_iter().chain(writers);
        let told: Vec<_> = told.map(|at| &self.state.writers[at as usize]).collect();
        let lines: Vec<_> = told.iter().map(|w| (w.id.rank, w.told())).collect();
        let lines = lines.iter().map(|(rank, meta)| (*rank, meta));
        match self.goodbyes.add(&self.dir, &self.fence, lines) {
            Ok(()) => Ok(true),
            Err(e) if e.is_final() => Err(e),
            Err(e) => {
                tracing::warn!("{e}");
                self.try_save()
            }
        }
    }

    /// Notes that a rank fell silent while another one has reached `others_step`.
    pub fn silent(&mut self, writer: u32, silent: Duration, others_step: i64) {
        let w = &self.state.writers[writer as usize];
        let (rank, incarnation, last_step) = (w.id.rank, w.id.incarnation, w.meta.last_step);
        let mut said = lines::last_of(&self.dir, &[rank].into()).unwrap_or_else(|e| {
            tracing::warn!("what rank {rank} said last: {e}");
            BTreeMap::new()
        });
        let last_lines = said.remove(&rank).unwrap_or_default();
        self.event(EventBody::RankSilent {
            rank,
            incarnation,
            last_step,
            silent_secs: silent.as_secs_f64(),
            others_step,
            last_lines,
        });
        let since = now_us() - i64::try_from(silent.as_micros()).unwrap_or(0);
        self.state.writers[writer as usize].meta.silent_since = Some(rfc3339_us(since));
        self.state.dirty = true;
    }

    /// Notes that it logs again.
    pub fn back(&mut self, writer: u32, silent: Duration) {
        let w = &mut self.state.writers[writer as usize];
        w.meta.silent_since = None;
        let (rank, incarnation) = (w.id.rank, w.id.incarnation);
        self.event(EventBody::RankBack {
            rank,
            incarnation,
            silent_secs: silent.as_secs_f64(),
        });
        self.state.dirty = true;
    }

    /// Notes which text is forwarded from now on, and which rank wanted it so.
    pub fn set_forwarding(&mut self, rank: u32, forwarding: Forwarding) {
        self.event(EventBody::Forwarding {
            rank,
            enabled: forwarding.on,
            level: forwarding.level,
        });
        self.state.meta.forwarding = Some(forwarding);
        self.state.dirty = true;
    }

    /// Changes the run's status.
    pub fn set_status(&mut self, to: RunStatus) {
        let from = self.state.meta.status;
        if from == to {
            return;
        }
        match from.transition(to) {
            Ok(to) => {
                self.state.meta.status = to;
                if to.is_finished() {
                    let now = self.end_us.unwrap_or_else(now_us);
                    self.state.meta.finished_at = Some(rfc3339_us(now));
                    let start = self
                        .state
                        .meta
                        .started_at
                        .as_deref()
                        .and_then(parse_rfc3339);
                    #[expect(
                        clippy::cast_precision_loss,
                        reason = "microseconds of a run are far below 2^53"
                    )]
                    let secs = start.map(|start| (now - start).max(0) as f64 / 1e6);
                    self.state.meta.duration_secs = secs;
                } else {
                    self.state.meta.finished_at = None;
                    self.state.meta.duration_secs = None;
                }
                let message = self.state.meta.error.as_ref().map(|e| e.message.clone());
                self.event(EventBody::Status { from, to, message });
                self.state.dirty = true;
            }
            Err(e) => tracing::error!("status kept: {e}"),
        }
    }

    /// When the run ended, where that is known to be another time than that of [`RunWriter::finish`].
    pub const fn set_end(&mut self, at_us: i64) {
        self.end_us = Some(at_us);
    }

    /// How the run ended: the heaviest end among its ranks. For a rank speaks the incarnation that was there last,
    /// since a forked child ends before its parent; one that never said how it ended crashed.
    #[must_use]
    pub fn outcome(&self) -> RunStatus {
        let mut last: BTreeMap<u32, &WriterState> = BTreeMap::new();
        for w in &self.state.writers {
            let known = last.entry(w.id.rank).or_insert(w);
            if there(w) >= there(known) {
                *known = w;
            }
        }
        last.into_values()
            .map(|w| w.meta.status)
            .map(|s| {
                if s.is_finished() {
                    s
                } else {
                    RunStatus::Crashed
                }
            })
            .max_by_key(|s| s.weight())
            .unwrap_or(RunStatus::Crashed)
    }
}

/// Until when a process was there. Who never left is there longest; of who vanished that is its last word,
/// since its end may be noticed later than the goodbye of the process it was forked from.
fn there(w: &WriterState) -> (bool, Option<&str>) {
    let last_word = match w.meta.state {
        RankState::Lost => w.meta.last_seen.as_deref(),
        RankState::Live | RankState::Left => None,
    };
    // RFC 3339 in UTC sorts as text.
    (
        w.meta.left_at.is_none(),
        last_word.or(w.meta.left_at.as_deref()),
    )
}
