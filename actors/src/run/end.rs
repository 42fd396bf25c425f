//! Flushing and closing: what a caller waits for, and what it learns when that does not come.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use expman_model::{FlushReport, RankOutcome, RankOutcomeState, RunStatus, Version};
use tokio::sync::oneshot;

use super::{FlushOptions, Run, RunStats};
use crate::error::{MeshError, Result};
use crate::forward_actor::ForwardMsg;
use crate::link::frame::FlushRequest;

/// How long a close that was not answered waits until everything is in the spool instead; most is there already.
const SPOOL_WITHIN: Duration = Duration::from_millis(200);

impl Run {
    /// Flushes: the answer comes when every live rank's records are durable, or says which are not.
    ///
    /// # Errors
    /// When the run is closed, or this is a forked copy of its process.
    pub async fn flush(&self, options: FlushOptions) -> Result<FlushReport> {
        if !self.is_mine() {
            return Err(MeshError::Forked);
        }
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
        let start = Instant::now();
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
            last_lines: Vec::new(),
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
            forwarding: self.gate.is_on(),
        }
    }

    /// [`Run::flush`] for callers without a runtime.
    ///
    /// # Errors
    /// As [`Run::flush`].
    pub fn flush_blocking(&self, options: FlushOptions) -> Result<FlushReport> {
        if !self.is_mine() {
            return Err(MeshError::Forked);
        }
        self.runtime.block_on(self.flush(options))
    }

    /// Ends this rank: everything it logged is made durable; the last rank also waits until the run's files are closed.
    ///
    /// Returns whether the run is closed. A second call returns what the first one did.
    ///
    /// # Errors
    /// When the deadline came first; says what is not delivered.
    pub async fn close(&self, status: RunStatus, timeout: Duration) -> Result<bool> {
        if !self.is_mine() {
            return Err(MeshError::Forked);
        }
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(self
                .close_result
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .unwrap_or(false));
        }
        let start = Instant::now();
        let capture = self
            .capture
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(capture) = capture {
            capture.stop();
        }
        self.handed.end();
        self.ring.close(status);
        let (reply, answer) = oneshot::channel();
        self.forward
            .cast(ForwardMsg::Close { status, reply })
            .map_err(|_gone| MeshError::Closed)?;
        let patience = timeout.saturating_sub(start.elapsed());
        let answered = tokio::time::timeout(patience, answer).await;
        if let Err(e) = self.forward.drain() {
            tracing::debug!("the forward actor is gone: {e}");
        }
        self.stop_stream();
        if let Ok(Ok(sealed)) = answered {
            *self
                .close_result
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(sealed);
            return Ok(sealed);
        }
        if self.forward.wait(Some(SPOOL_WITHIN)).await.is_err() {
            tracing::warn!("the spool is slow");
        }
        let stats = self.stats();
        if stats.forward.outbox.durable_seq >= stats.ring.last_seq {
            return Ok(false);
        }
        Err(MeshError::CloseTimeout {
            what: "closing the run",
            waited: timeout,
            left: self.left(&stats),
        })
    }

    /// What is not delivered, where it is, and what brings it in.
    fn left(&self, stats: &RunStats) -> String {
        let (last_seq, forward) = (stats.ring.last_seq, &stats.forward);
        let outbox = &forward.outbox;
        let owner = if forward.connected {
            "connected"
        } else {
            "not connected"
        };
        let error = match &forward.last_error {
            Some(error) => format!("; last error: {error}"),
            None => String::new(),
        };
        let spooled = match outbox.spooled_bytes {
            0 => String::new(),
            bytes => format!(
                "; {bytes} bytes are in the spool: `expman recover {}` brings them in",
                self.dir.root().display()
            ),
        };
        let safe_seq = outbox.safe_seq.max(outbox.durable_seq);
        let unsafe_ones = if safe_seq < last_seq {
            format!("; those behind {safe_seq} are in the queue of this process only")
        } else {
            String::new()
        };
        format!(
            "records {} to {last_seq} of rank {} are not known to be durable (owner {owner}{error}){spooled}{unsafe_ones}",
            outbox.durable_seq + 1,
            self.rank,
        )
    }

    /// [`Run::close`] for callers without a runtime.
    ///
    /// # Errors
    /// As [`Run::close`].
    pub fn close_blocking(&self, status: RunStatus, timeout: Duration) -> Result<bool> {
        if !self.is_mine() {
            return Err(MeshError::Forked);
        }
        self.runtime.block_on(self.close(status, timeout))
    }
}
