//! Connections that have not said who they are: how many there may be at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, getrlimit};
use tokio::task::AbortHandle;

/// Connections that may be silent at once, where descriptors are not scarcer than that.
const SILENT_MAX: usize = 256;
/// Of the descriptors that this process may have, one in so many is for the silent.
const SILENT_SHARE: u64 = 4;

/// Said by a connection's task when its process has introduced itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Introduced(Arc<AtomicBool>);

impl Introduced {
    pub(crate) fn tell(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_told(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The silent ones, oldest first. One too many closes the oldest: a process that means it speaks at once.
#[derive(Debug)]
pub(crate) struct Arrivals {
    silent: VecDeque<(Introduced, AbortHandle)>,
    max: usize,
}

impl Arrivals {
    pub(crate) fn new() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let share = usize::try_from(descriptors / SILENT_SHARE).unwrap_or(SILENT_MAX);
        Self::at_most(share.clamp(4, SILENT_MAX))
    }

    const fn at_most(max: usize) -> Self {
        Self {
            silent: VecDeque::new(),
            max,
        }
    }

    /// Counts a connection among the silent until its task ends or `introduced` is told; true when others had to go.
    pub(crate) fn admit(&mut self, introduced: Introduced, task: AbortHandle) -> bool {
        self.silent.push_back((introduced, task));
        if self.silent.len() <= self.max {
            return false;
        }
        self.silent
            .retain(|(introduced, task)| !introduced.is_told() && !task.is_finished());
        let too_many = self.silent.len().saturating_sub(self.max);
        for (_, oldest) in self.silent.drain(..too_many) {
            oldest.abort();
        }
        too_many > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_silent_connection_too_many_closes_the_oldest_and_no_link() {
        let mut arrivals = Arrivals::at_most(2);
        let mut tasks = Vec::new();
        for n in 0..5 {
            let (introduced, task) = (
                Introduced::default(),
                tokio::spawn(std::future::pending::<()>()),
            );
            if n == 1 {
                introduced.tell();
            }
            arrivals.admit(introduced, task.abort_handle());
            tasks.push(task);
        }
        tokio::task::yield_now().await;
        let closed: Vec<bool> = tasks
            .iter()
            .map(tokio::task::JoinHandle::is_finished)
            .collect();
        assert_eq!(closed, [true, false, true, false, false]);
    }
}
