//! Answers to callers that may have stopped waiting.

use tokio::sync::oneshot;

/// Answers a caller; one that has gone is no error.
pub(crate) fn answer<T>(to: oneshot::Sender<T>, value: T) {
    if to.send(value).is_err() {
        tracing::debug!("nobody waits for this answer any more");
    }
}
