//! Words to those who may have gone: callers that stopped waiting, actors that ended.

use ractor::{ActorRef, Message};
use tokio::sync::oneshot;

/// Answers a caller; one that has gone is no error.
pub(crate) fn answer<T>(to: oneshot::Sender<T>, value: T) {
    if to.send(value).is_err() {
        tracing::debug!("nobody waits for this answer any more");
    }
}

/// Tells an actor something; one that has ended is no error.
pub(crate) fn cast<M: Message>(to: &ActorRef<M>, msg: M) {
    if to.cast(msg).is_err() {
        tracing::debug!("an actor ended before this message");
    }
}
