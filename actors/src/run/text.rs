//! What becomes of the text of all ranks: what is forwarded, and what is shown here.

use std::sync::PoisonError;
use std::time::Duration;

use expman_model::forwarding::{Forwarding, ForwardingChange};
use tokio::sync::oneshot;

use super::Run;
use crate::capture::copied;
use crate::error::{MeshError, Result};
use crate::forward_actor::ForwardMsg;
use crate::stream::Stream;

impl Run {
    /// Which text of the ranks is forwarded, as far as this process knows.
    #[must_use]
    pub fn forwarding(&self) -> Forwarding {
        self.gate.forwarding()
    }

    /// Has other text forwarded, in every rank of the run; returns what holds when the owner has told all of them.
    ///
    /// # Errors
    /// When the run is closed, this is a forked copy of its process, or the owner did not answer in time.
    pub fn forward_blocking(
        &self,
        change: ForwardingChange,
        timeout: Duration,
    ) -> Result<Forwarding> {
        if !self.is_mine() {
            return Err(MeshError::Forked);
        }
        let (reply, answer) = oneshot::channel();
        self.forward
            .cast(ForwardMsg::Forward { change, reply })
            .map_err(|_gone| MeshError::Closed)?;
        let answered = self
            .runtime
            .block_on(async { tokio::time::timeout(timeout, answer).await });
        match answered {
            Ok(Ok(forwarding)) => Ok(forwarding),
            Ok(Err(_gone)) => Err(MeshError::Closed),
            Err(_elapsed) => Err(MeshError::NoAnswer {
                what: "which text is forwarded may not have changed everywhere",
                waited: timeout,
            }),
        }
    }

    /// Shows the lines of all other ranks on this process's terminal from now on, each with its rank in front; with a
    /// window, alike lines within it are shown once, when it ends.
    ///
    /// # Errors
    /// When this is a forked copy of the run's process, a file can't be read, or no thread can be made.
    pub fn stream(&self, window: Option<Duration>) -> Result<()> {
        if !self.is_mine() {
            return Err(MeshError::Forked);
        }
        let capture = self
            .capture
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let to = match capture {
            Some(capture) => capture.originals()?,
            None => [
                copied(rustix::stdio::stdout())?,
                copied(rustix::stdio::stderr())?,
            ],
        };
        let stream = Stream::start(&self.dir, self.rank, window, to)?;
        let mut known = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        drop(known.replace(stream));
        Ok(())
    }

    /// Ends [`Run::stream`] when everything that is stored was shown, or after a second.
    pub fn stop_stream(&self) {
        let stream = self
            .stream
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(stream);
    }
}
