//! The processes of a run's ranks, and which of them said a line.

use std::collections::BTreeSet;

use expman_model::time::parse_rfc3339;
use expman_model::{RankMeta, RankState, RunMeta, RunStatus};

/// A child that is killed with its parent may be noticed so much later, in microseconds.
const TOGETHER_US: i64 = 1_000_000;

/// One process of a rank.
#[derive(Debug)]
pub(super) struct Process<'a> {
    pub(super) rank: u32,
    pub(super) meta: &'a RankMeta,
    pub(super) of_many: bool,
    /// From when on, and until when, what its rank said was said by it.
    pub(super) spoke_us: (i64, i64),
    /// When its main thread raised what nobody caught, and the last line of that.
    pub(super) raised: Option<(i64, String)>,
    /// When one of its threads did.
    pub(super) thread_us: Option<i64>,
    /// Its tracebacks, by the number of their group.
    pub(super) tracebacks: BTreeSet<usize>,
}

impl Process<'_> {
    /// Whether what its rank said then was said by it.
    pub(super) const fn said(&self, at_us: i64) -> bool {
        self.spoke_us.0 <= at_us && at_us < self.spoke_us.1
    }
}

/// The processes of every rank, and how many children are left out that vanished while their parent went on.
pub(super) fn processes(meta: &RunMeta) -> (Vec<Process<'_>>, usize) {
    let mut found = Vec::new();
    let mut children = 0;
    for (&rank, all) in &meta.ranks {
        let mut own: Vec<&RankMeta> = Vec::new();
        for process in all {
            match all.iter().find(|other| is_child(process, other)) {
                Some(parent) if vanished(process) && !went_badly(parent) => children += 1,
                _ => own.push(process),
            }
        }
        own.sort_by_key(|p| joined(p));
        for (n, process) in own.iter().enumerate() {
            // What a parent and its child said can't be told apart; it counts as the parent's.
            let next = own[n + 1..].iter().find(|next| !is_child(next, process));
            let is_first = n == 0;
            let child = own.iter().any(|other| is_child(process, other));
            let from = if is_first { i64::MIN } else { joined(process) };
            found.push(Process {
                rank,
                meta: process,
                of_many: own.len() > 1,
                spoke_us: if child {
                    (i64::MAX, i64::MAX)
                } else {
                    (from, next.map_or(i64::MAX, |next| joined(next)))
                },
                raised: None,
                thread_us: None,
                tracebacks: BTreeSet::new(),
            });
        }
    }
    (found, children)
}

fn joined(process: &RankMeta) -> i64 {
    time(process.joined_at.as_deref()).unwrap_or(i64::MIN)
}

fn time(text: Option<&str>) -> Option<i64> {
    text.and_then(parse_rfc3339)
}

fn vanished(process: &RankMeta) -> bool {
    process.state == RankState::Lost && process.failure.is_none()
}

fn went_badly(process: &RankMeta) -> bool {
    process.status.is_finished() && process.status != RunStatus::Finished
}

/// Whether a process lived while another one of its rank and host did, which came before it: a forked child.
fn is_child(process: &RankMeta, of: &RankMeta) -> bool {
    let left = |p: &RankMeta| time(p.left_at.as_deref()).unwrap_or(i64::MAX);
    process.incarnation != of.incarnation
        && process.host == of.host
        && process.pid != of.pid
        && of.attempt < process.attempt
        && joined(process) < left(of)
        && left(process) <= left(of).saturating_add(TOGETHER_US)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expman_model::Incarnation;
    use expman_model::time::rfc3339_us;

    use super::*;

    fn process(attempt: u32, lived: (i64, Option<i64>), status: RunStatus) -> RankMeta {
        RankMeta {
            incarnation: Incarnation(attempt.into()),
            attempt,
            pid: 100 + attempt,
            joined_at: Some(rfc3339_us(lived.0)),
            left_at: lived.1.map(rfc3339_us),
            state: match status {
                RunStatus::Running => RankState::Live,
                RunStatus::Crashed => RankState::Lost,
                _ => RankState::Left,
            },
            status,
            ..RankMeta::default()
        }
    }

    fn of(all: Vec<RankMeta>) -> RunMeta {
        RunMeta {
            ranks: BTreeMap::from([(0, all)]),
            ..RunMeta::default()
        }
    }

    #[test]
    fn a_line_is_said_by_the_process_that_was_there() {
        let meta = of(vec![
            process(0, (10, Some(20)), RunStatus::Failed),
            process(1, (30_000_000, None), RunStatus::Running),
        ]);
        let (found, children) = processes(&meta);
        let by = |at| found.iter().position(|p| p.said(at));
        assert_eq!((found.len(), children), (2, 0));
        assert_eq!(
            [by(5), by(15), by(29_999_999), by(30_000_000)],
            [Some(0), Some(0), Some(0), Some(1)]
        );
    }

    #[test]
    fn a_child_that_vanishes_counts_only_when_its_parent_fails() {
        for (parent, told) in [(RunStatus::Finished, 1), (RunStatus::Failed, 2)] {
            let meta = of(vec![
                process(0, (10, Some(90)), parent),
                process(1, (30, Some(40)), RunStatus::Crashed),
            ]);
            let (found, children) = processes(&meta);
            assert_eq!((found.len(), children), (told, 2 - told), "{parent}");
            assert_eq!(found.iter().position(|p| p.said(35)), Some(0));
        }
    }
}
