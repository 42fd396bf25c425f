//! Output that a run is handed by somebody else than the capture of descriptors: what Python writes to objects
//! that are no descriptors, what a launcher reads of its workers. It becomes the same lines.

use std::sync::{Arc, Mutex, PoisonError};

use expman_model::record::Stream;

use crate::capture::{Batch, Lines};
use crate::gate::Gate;
use crate::ring::Ring;

/// Both streams of one run, until it closes.
#[derive(Debug)]
pub(crate) struct Handed {
    ring: Arc<Ring>,
    gate: Arc<Gate>,
    /// None when the run is closed.
    lines: Mutex<Option<[Lines; 2]>>,
}

impl Handed {
    pub(crate) fn new(ring: Arc<Ring>, gate: Arc<Gate>) -> Self {
        Self {
            ring,
            gate,
            lines: Mutex::new(Some(Default::default())),
        }
    }

    /// Whole lines go into the ring, what follows the last one waits for its end. Once a line has found no room
    /// in a full queue, the others of this call are not waited for.
    pub(crate) fn hear(&self, stream: Stream, bytes: &[u8], may_wait: bool) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lines) = &mut *lines else {
            return;
        };
        let mut batch = Batch::default();
        lines[usize::from(stream == Stream::Err)]
            .feed(bytes, |line, ends| batch.add(stream, line, ends));
        if self.gate.is_on() {
            batch.push(&self.ring, may_wait);
        }
    }

    /// Lines that never ended go into the ring; what comes later is ignored.
    pub(crate) fn end(&self) {
        let lines = self
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut batch = Batch::default();
        for (stream, mut lines) in [Stream::Out, Stream::Err]
            .into_iter()
            .zip(lines.into_iter().flatten())
        {
            lines.end(|line, ends| batch.add(stream, line, ends));
        }
        if self.gate.is_on() {
            batch.push(&self.ring, false);
        }
    }
}
