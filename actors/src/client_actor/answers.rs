//! Who asked for a flush, and the way back to it.

use std::collections::BTreeSet;
use std::time::Duration;

use expman_model::{FlushReport, RankOutcome, RankOutcomeState, WriterId};
use expman_storage::{RunDir, lines};
use tokio::sync::oneshot;

use crate::barrier::Waiter;
use crate::link::carrier::FrameSender;
use crate::link::frame::{FlushDone, FlushRequest, Frame};

/// How long an answer waits for its version's end to be written.
const TOLD_WITHIN: Duration = Duration::from_millis(50);

/// Identifies a request in the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Caller {
    pub(super) writer: WriterId,
    pub(super) id: u64,
}

/// A request and the way back to it.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub(super) caller: Caller,
    pub(super) link: FrameSender,
    pub(super) request: FlushRequest,
}

/// A caller and what it is told.
pub(super) type Answered = (Waiter<Pending>, FlushReport);

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.caller == other.caller
    }
}

/// Who is answered finds the end of the version in the run's files.
pub(super) fn reply_after(
    told: oneshot::Receiver<()>,
    dir: &RunDir,
    answers: Vec<Answered>,
    now_us: u64,
) {
    let dir = dir.clone();
    tokio::spawn(async move {
        let answers = with_last_lines(dir, answers).await;
        // A disk that takes its time holds nobody's answer back.
        if tokio::time::timeout(TOLD_WITHIN, told).await.is_err() {
            tracing::debug!("a version's end is not written yet");
        }
        for (waiter, report) in answers {
            reply(&waiter, report, now_us);
        }
    });
}

/// With what those said last who keep a version from being complete; the files are read beside the actors.
async fn with_last_lines(dir: RunDir, mut answers: Vec<Answered>) -> Vec<Answered> {
    let is_missing = |r: &RankOutcome| r.state != RankOutcomeState::Durable;
    let outcomes = answers.iter().flat_map(|(_, report)| &report.ranks);
    let missing: BTreeSet<u32> = outcomes
        .filter(|(_, outcome)| is_missing(outcome))
        .map(|(rank, _)| *rank)
        .collect();
    if missing.is_empty() {
        return answers;
    }
    let read = tokio::task::spawn_blocking(move || lines::last_of(&dir, &missing));
    let said = match read.await {
        Ok(Ok(said)) => said,
        Ok(Err(e)) => {
            tracing::warn!("what missing ranks said last: {e}");
            return answers;
        }
        Err(e) => {
            tracing::error!("what missing ranks said last: {e}");
            return answers;
        }
    };
    for (rank, outcome) in answers.iter_mut().flat_map(|(_, report)| &mut report.ranks) {
        if is_missing(outcome) {
            outcome.last_lines = said.get(rank).cloned().unwrap_or_default();
        }
    }
    answers
}

#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds of a flush are far below 2^53"
)]
pub(super) fn reply(waiter: &Waiter<Pending>, report: FlushReport, now_us: u64) {
    let elapsed_secs = now_us.saturating_sub(waiter.asked_us) as f64 / 1e6;
    let done = FlushDone {
        id: waiter.to.request.id,
        report: FlushReport {
            elapsed_secs,
            ..report
        },
    };
    waiter.to.link.tell(Frame::FlushDone(done));
}
