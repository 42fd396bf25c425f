//! Who asked for a flush, and the way back to it.

use std::time::Duration;

use expman_model::{FlushReport, WriterId};
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

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.caller == other.caller
    }
}

/// Who is answered finds the end of the version in the run's files.
pub(super) fn reply_after(
    told: oneshot::Receiver<()>,
    answers: Vec<(Waiter<Pending>, FlushReport)>,
    now_us: u64,
) {
    tokio::spawn(async move {
        // A disk that takes its time holds nobody's answer back.
        if tokio::time::timeout(TOLD_WITHIN, told).await.is_err() {
            tracing::debug!("a version's end is not written yet");
        }
        for (waiter, report) in answers {
            reply(&waiter, report, now_us);
        }
    });
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
