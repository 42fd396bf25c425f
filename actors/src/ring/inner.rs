//! What the ring's lock protects: where the records are, which number is next, and what is missing.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use super::gaps::Gaps;
use super::memory::Memory;
use crate::error::Result;

/// See the module.
#[derive(Debug)]
pub(super) struct Inner {
    /// None when the run is over.
    pub(super) memory: Option<Arc<Memory>>,
    /// The memory's descriptor, or why there is none.
    pub(super) shared: Result<Arc<OwnedFd>, String>,
    pub(super) head: usize,
    pub(super) len: usize,
    /// Bytes from the head on that were cut.
    pub(super) cut: usize,
    /// When the first record that was not cut came.
    pub(super) oldest: Option<Instant>,
    pub(super) next_seq: u64,
    pub(super) gaps: Gaps,
    pub(super) closed: bool,
}

impl Inner {
    /// An empty ring.
    pub(super) fn new(capacity: usize) -> Result<Self> {
        let (memory, shared) = Memory::new(capacity)?;
        Ok(Self {
            memory: Some(Arc::new(memory)),
            shared: shared.map(Arc::new),
            head: 0,
            len: 0,
            cut: 0,
            oldest: None,
            next_seq: 1,
            gaps: Gaps::default(),
            closed: false,
        })
    }

    /// Writes records of the next numbers where nothing is published, then publishes them with one store.
    pub(super) fn put_some(&mut self, bytes: &[u8], count: u64) {
        self.next_seq += count;
        if let Some(memory) = &self.memory {
            let tail = (self.head + self.len) % memory.capacity();
            memory.write(tail, bytes);
            memory.set_place(self.head, self.len + bytes.len());
            memory.set_last_seq(self.next_seq - 1);
        }
        self.len += bytes.len();
        if self.oldest.is_none() {
            self.oldest = Some(Instant::now());
        }
    }

    pub(super) fn put(&mut self, record: &[u8]) {
        self.put_some(record, 1);
    }

    /// Puts what is missing into the ring as gap records, if they fit.
    pub(super) fn tell_gaps(&mut self, capacity: usize) {
        if self.gaps.is_told() {
            return;
        }
        if self.gaps.is_pending() {
            let (bytes, count) = self.gaps.encode(self.next_seq);
            if self.len + bytes.len() > capacity {
                return;
            }
            // All at once: whoever reads the ring finds every reason of the gap, or the gap itself.
            self.put_some(&bytes, count);
            if let Some(memory) = &self.memory {
                memory.set_first_untold(0);
            }
            self.gaps.told();
        }
        while let Some(bytes) = self.gaps.encode_refused(self.next_seq) {
            if self.len + bytes.len() > capacity {
                return;
            }
            self.put_some(&bytes, 1);
            self.gaps.told_refused();
        }
    }
}
