//! Ranks that fell silent while others went on, or behind whom all others wait.
//!
//! What counts is what a rank used to do: one that logs every ten minutes is not silent after two, and one that logs
//! only at its start never is.

use std::time::{Duration, Instant};

use expman_model::WriterId;

use super::RunActorState;
use crate::commit::Command;

/// Batches that tell how often a rank has something to say.
const BATCHES_MIN: u32 = 3;
/// A rank is silent after this many times the longest pause that it made before.
const PAUSES: u32 = 3;

/// How often one rank has something to say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    last: Instant,
    longest: Duration,
    batches: u32,
    /// Its silence was told.
    pub(super) told: bool,
}

impl Pace {
    /// It joins.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last: now,
            longest: Duration::ZERO,
            batches: 0,
            told: false,
        }
    }

    /// It logged something; whether that ends a silence that was told.
    pub(super) fn heard(&mut self, now: Instant) -> bool {
        // What a silence was is no pace to go by.
        if self.batches > 0 && !self.told {
            self.longest = self.longest.max(now - self.last);
        }
        self.last = now;
        self.batches = self.batches.saturating_add(1);
        std::mem::take(&mut self.told)
    }

    /// How long it has been silent.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last)
    }

    fn is_silent(&self, now: Instant, after: Duration) -> bool {
        self.batches >= BATCHES_MIN && self.silence(now) > after.max(self.longest * PAUSES)
    }
}

/// One rank, as it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) writer: WriterId,
    pub(super) pace: Pace,
    pub(super) last_step: Option<i64>,
}

/// Who fell silent and was not told of yet, with the step that others have reached.
pub(super) fn fallen(ranks: &[Seen], now: Instant, after: Duration) -> Vec<(WriterId, i64)> {
    let Some(ahead) = ranks.iter().filter_map(|r| r.last_step).max() else {
        return Vec::new();
    };
    let is_silent = |r: &Seen| r.pace.is_silent(now, after);
    let all_wait = ranks
        .iter()
        .filter(|r| r.last_step.is_some())
        .all(is_silent);
    let others_go_on = ranks
        .iter()
        .any(|r| r.last_step == Some(ahead) && r.pace.silence(now) < after);
    ranks
        .iter()
        .filter(|r| !r.pace.told && is_silent(r) && r.last_step.is_some_and(|step| step < ahead))
        .filter(|_| all_wait || others_go_on)
        .map(|r| (r.writer, ahead))
        .collect()
}

impl RunActorState {
    /// Tells who fell silent, once.
    pub(super) async fn look_for_silence(&mut self) {
        let now = Instant::now();
        let there = self
            .members
            .iter()
            .filter(|(_, m)| m.to.is_some() && !m.leaving);
        let seen: Vec<_> = there
            .map(|(writer, m)| Seen {
                writer: *writer,
                pace: m.pace,
                last_step: m.standing.last_step,
            })
            .collect();
        for (writer, others_step) in fallen(&seen, now, self.args.silent_after) {
            let Some(member) = self.members.get_mut(&writer) else {
                continue;
            };
            member.pace.told = true;
            let (writer, silent) = (member.index, member.pace.silence(now));
            self.tell(Command::Silent {
                writer,
                silent,
                others_step,
            })
            .await;
        }
    }
}

#[cfg(test)]
mod tests {
    use expman_model::Incarnation;

    use super::*;

    const AFTER: Duration = Duration::from_secs(60);

    fn ago(now: Instant, secs: u64) -> Instant {
        now.checked_sub(Duration::from_secs(secs)).unwrap()
    }

    /// A rank that logged ten times, one pause apart, up to so many seconds ago.
    fn rank(now: Instant, n: u32, pause_secs: u64, silent_secs: u64, step: Option<i64>) -> Seen {
        let end = ago(now, silent_secs);
        let mut pace = Pace::new(ago(end, 20 * pause_secs));
        for back in (0..10).rev() {
            pace.heard(ago(end, back * pause_secs));
        }
        let writer = WriterId {
            rank: n,
            incarnation: Incarnation(1),
        };
        Seen {
            writer,
            pace,
            last_step: step,
        }
    }

    fn told(ranks: &[Seen], now: Instant) -> Vec<u32> {
        let fallen = fallen(ranks, now, AFTER);
        fallen.into_iter().map(|(w, _)| w.rank).collect()
    }

    #[test]
    fn who_is_silent_while_others_advance_is_told_and_who_is_only_slow_is_not() {
        let now = Instant::now() + Duration::from_secs(1 << 20);
        let live = rank(now, 0, 1, 0, Some(900));
        assert_eq!(told(&[live, rank(now, 1, 1, 240, Some(812))], now), [1]);
        assert!(told(&[live, rank(now, 1, 1, 30, Some(812))], now).is_empty());
        assert!(told(&[live, rank(now, 1, 100, 240, Some(812))], now).is_empty());
        assert!(told(&[live, rank(now, 1, 1, 240, Some(900))], now).is_empty());
        assert!(told(&[live, rank(now, 1, 1, 240, None)], now).is_empty());
        let mut known = rank(now, 1, 1, 240, Some(812));
        known.pace.told = true;
        assert!(told(&[live, known], now).is_empty());
    }

    #[test]
    fn when_all_wait_those_who_are_behind_are_told() {
        let now = Instant::now() + Duration::from_secs(1 << 20);
        let at = |n, step| rank(now, n, 1, 100 + u64::from(n), Some(step));
        assert_eq!(told(&[at(0, 813), at(1, 812), at(2, 813)], now), [1]);
        assert!(told(&[at(0, 813), at(1, 813)], now).is_empty());
        // The rest has come to its end, or evaluates: nobody knows who waits for whom.
        let pausing = rank(now, 2, 1, 61, Some(813));
        let slow = rank(now, 3, 50, 70, Some(813));
        assert!(told(&[at(1, 812), pausing, slow], now).is_empty());
    }

    #[test]
    fn a_rank_that_logs_again_ends_its_silence_and_keeps_its_pace() {
        let now = Instant::now() + Duration::from_secs(1 << 20);
        let mut seen = rank(now, 1, 1, 240, Some(812));
        seen.pace.told = true;
        assert!(seen.pace.heard(now));
        assert!(!seen.pace.heard(now));
        let later = now + Duration::from_secs(61);
        let live = rank(later, 0, 1, 0, Some(900));
        assert_eq!(
            told(&[live, seen], later),
            [1],
            "again, after another silence"
        );
    }
}
