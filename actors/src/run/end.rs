//! Flushing and closing: what a caller waits for, and what it learns when that does not come.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use expman_model::{FlushReport, RankOutcome, RankOutcomeState, RunStatus, Version};
use tokio::sync::oneshot;

use super::{FlushOptions, Run};
use crate::error::{MeshError, Result};
use crate::forward_actor::ForwardMsg;
use crate::link::frame::FlushRequest;

impl Run {
    /// Flushes: the answer comes when every live rank's records are durable, or says which are not.
    ///
    /// # Errors
    /// When the run is closed.
    pub async fn flush(&self, options: FlushOptions) -> Result<FlushReport> {
        let (reply, answer) = oneshot::channel();
        let timeout_ms = u64::try_from(options.timeout.as_millis()).unwrap_or(u64::MAX);
        let id = self.next_flush.fetch_add(1, Ordering::Relaxed);
        let request = FlushRequest {
            id,
            scope: options.scope,
            publish: options.publish,
            tag: options.tag,
            timeout_ms,
        };
        let start = std::time::Instant::now();
        self.forward
            .cast(ForwardMsg::Flush { request, reply })
            .map_err(|_gone| MeshError::Closed)?;
        // The owner ends the flush at the deadline; only when it is not there does this side have to.
        let patience = options.timeout + Duration::from_millis(250);
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(report)) => Ok(report),
            Ok(Err(_gone)) => Err(MeshError::Closed),
            Err(_elapsed) => Ok(self.unanswered(start.elapsed())),
        }
    }

    /// The report of a flush that no owner answered: this rank's own view.
    fn unanswered(&self, elapsed: Duration) -> FlushReport {
        let seq = self.stats.borrow().outbox.durable_seq;
        let own = RankOutcome {
            state: RankOutcomeState::Timeout,
            seq,
            last_step: None,
            last_seen_us: expman_model::time::now_us(),
        };
        FlushReport {
            version: Version {
                epoch: 0,
                number: 0,
            },
            complete: false,
            ranks: [(self.rank, own)].into(),
            rows: 0,
            elapsed_secs: elapsed.as_secs_f64(),
        }
    }

    /// [`Run::flush`] for callers without a runtime.
    ///
    /// # Errors
    /// As [`Run::flush`].
    pub fn flush_blocking(&self, options: FlushOptions) -> Result<FlushReport> {
        self.runtime.block_on(self.flush(options))
    }

    /// Ends this rank: everything it logged is made durable; the last rank also waits until the run's files are closed.
    ///
    /// Returns whether the run is closed. A second call returns what the first one did.
    ///
    /// # Errors
    /// When the deadline came first; says what is not delivered.
    pub async fn close(&self, status: RunStatus, timeout: Duration) -> Result<bool> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(self
                .close_result
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .unwrap_or(false));
        }
        if let Some(capture) = &self.capture {
            capture.stop();
        }
        self.ring.close();
        let (reply, answer) = oneshot::channel();
        self.forward
            .cast(ForwardMsg::Close { status, reply })
            .map_err(|_gone| MeshError::Closed)?;
        let answered = tokio::time::timeout(timeout, answer).await;
        let stats = self.stats();
        if let Err(e) = self.forward.drain() {
            tracing::debug!("the forward actor is gone: {e}");
        }
        if let Ok(Ok(sealed)) = answered {
            *self
                .close_result
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(sealed);
            return Ok(sealed);
        }
        if stats.forward.outbox.durable_seq >= stats.ring.last_seq {
            return Ok(false);
        }
        let left = format!(
            "records {} to {} of rank {} are not known to be durable ({} bytes in memory, {} in the spool; owner {})",
            stats.forward.outbox.durable_seq + 1,
            stats.ring.last_seq,
            self.rank,
            stats.forward.outbox.memory_bytes + stats.ring.queued_bytes,
            stats.forward.outbox.spooled_bytes,
            if stats.forward.connected {
                "connected"
            } else {
                "not connected"
            },
        );
        Err(MeshError::CloseTimeout {
            what: "closing the run",
            waited: timeout,
            left,
        })
    }

    /// [`Run::close`] for callers without a runtime.
    ///
    /// # Errors
    /// As [`Run::close`].
    pub fn close_blocking(&self, status: RunStatus, timeout: Duration) -> Result<bool> {
        self.runtime.block_on(self.close(status, timeout))
    }
}
