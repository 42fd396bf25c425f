//! What the run's files are told of a version: that it was opened, and how it ended.
//!
//! A version that ends soon is told of once, when it ends, so that nobody waits for a line between its marker and
//! its sync. So a line that a version was opened may stand behind one of what happened up to [`OPEN_FOR`] later.

use std::collections::BTreeMap;
use std::time::Duration;

use expman_model::meta::LastFlush;
use expman_model::time::{now_us, rfc3339_us};
use expman_model::{EventBody, FlushReport, RankOutcomeState, Version};
use tokio::sync::{mpsc, oneshot};

use crate::commit::Command;

/// A version that is open for so long is told of before it ends.
pub(super) const OPEN_FOR: Duration = Duration::from_millis(20);

/// See the module.
pub(super) struct Telling {
    commit: mpsc::Sender<Command>,
    /// Versions of which nothing was told, and who owed each.
    untold: BTreeMap<Version, Vec<u32>>,
}

impl Telling {
    pub(super) const fn new(commit: mpsc::Sender<Command>) -> Self {
        Self {
            commit,
            untold: BTreeMap::new(),
        }
    }

    /// A version is open, and owed by these ranks.
    pub(super) fn opened(&mut self, version: Version, ranks: Vec<u32>) {
        self.untold.insert(version, ranks);
    }

    /// It has been open for a while.
    pub(super) async fn is_long(&mut self, version: Version) {
        if let Some(body) = self.take(version) {
            self.tell(Command::Event(body)).await;
        }
    }

    /// It ended so for some who waited; what comes back says when that is written down.
    pub(super) async fn closed(
        &mut self,
        report: &FlushReport,
        tag: Option<String>,
    ) -> oneshot::Receiver<()> {
        let missing = report
            .ranks
            .iter()
            .filter(|(_, r)| r.state != RankOutcomeState::Durable)
            .map(|(rank, _)| *rank)
            .collect();
        let flush = LastFlush {
            version: report.version,
            complete: report.complete,
            at: rfc3339_us(now_us()),
            elapsed_secs: report.elapsed_secs,
            missing,
            tag,
        };
        let (done, told) = oneshot::channel();
        let opened = self.take(report.version);
        self.tell(Command::Flushed {
            opened,
            flush,
            done,
        })
        .await;
        told
    }

    fn take(&mut self, version: Version) -> Option<EventBody> {
        let ranks = self.untold.remove(&version)?;
        Some(EventBody::FlushOpened { version, ranks })
    }

    /// Hands the commit thread a command.
    pub(super) async fn tell(&self, command: Command) {
        if self.commit.send(command).await.is_err() {
            tracing::warn!("the commit thread is gone");
        }
    }
}
