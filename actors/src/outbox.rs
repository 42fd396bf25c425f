//! What was sent, or waits to be, until the owner says that it is durable.
//!
//! Within its memory budget batches are kept in memory; beyond, in an unlinked spool file.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::Bytes;

use crate::error::{MeshError, Result};
use crate::ring::Taken;

#[derive(Debug)]
enum Body {
    Memory(Bytes),
    Spooled { offset: u64, len: usize },
}

#[derive(Debug)]
struct Batch {
    first_seq: u64,
    last_seq: u64,
    body: Body,
}

impl Batch {
    const fn len(&self) -> usize {
        match &self.body {
            Body::Memory(bytes) => bytes.len(),
            Body::Spooled { len, .. } => *len,
        }
    }
}

/// A batch ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Sequence number of its first record.
    pub first_seq: u64,
    /// Sequence number of its last record.
    pub last_seq: u64,
    /// Whole records.
    pub body: Bytes,
}

/// Counts of an outbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutboxStats {
    /// Bytes in memory.
    pub memory_bytes: usize,
    /// Bytes in the spool file.
    pub spooled_bytes: u64,
    /// Last durable sequence number.
    pub durable_seq: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    batches: VecDeque<Batch>,
    /// How many of them are on the wire.
    sent: usize,
    sent_bytes: usize,
    memory: usize,
    memory_max: usize,
    spool: Spool,
    durable_seq: u64,
}

#[derive(Debug)]
struct Spool {
    dir: PathBuf,
    file: Option<File>,
    end: u64,
    live: u64,
    max: u64,
}

impl Outbox {
    /// An outbox that keeps `memory_max` bytes in memory and `spool_max` in a file in `spool_dir`.
    #[must_use]
    pub const fn new(memory_max: usize, spool_dir: PathBuf, spool_max: u64) -> Self {
        let spool = Spool {
            dir: spool_dir,
            file: None,
            end: 0,
            live: 0,
            max: spool_max,
        };
        Self {
            batches: VecDeque::new(),
            sent: 0,
            sent_bytes: 0,
            memory: 0,
            memory_max,
            spool,
            durable_seq: 0,
        }
    }

    /// Whether one more batch has a place; when not, the ring keeps it.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.memory < self.memory_max || self.spool.live < self.spool.max
    }

    /// Takes in a batch.
    ///
    /// A batch that does not fit in memory is spooled; when that fails it is kept in memory all the same,
    /// because it was accepted already.
    pub fn push(&mut self, taken: Taken) {
        let Taken {
            bytes,
            first_seq,
            last_seq,
        } = taken;
        let len = bytes.len();
        let body = if self.memory + len <= self.memory_max {
            None
        } else {
            match self.spool.write(&bytes) {
                Ok(offset) => Some(Body::Spooled { offset, len }),
                Err(e) => {
                    tracing::warn!("kept in memory: {e}");
                    None
                }
            }
        };
        let body = body.unwrap_or_else(|| {
            self.memory += len;
            Body::Memory(bytes.into())
        });
        self.batches.push_back(Batch {
            first_seq,
            last_seq,
            body,
        });
    }

    /// The next batch to send while fewer than `credit` bytes are unacknowledged.
    ///
    /// # Errors
    /// When it can't be read back from the spool.
    pub fn next(&mut self, credit: usize) -> Result<Option<Ready>> {
        let Some(batch) = self.batches.get(self.sent) else {
            return Ok(None);
        };
        if self.sent_bytes > 0 && self.sent_bytes + batch.len() > credit {
            return Ok(None);
        }
        let body = match &batch.body {
            Body::Memory(bytes) => bytes.clone(),
            Body::Spooled { offset, len } => self.spool.read(*offset, *len)?,
        };
        self.sent += 1;
        self.sent_bytes += body.len();
        Ok(Some(Ready {
            first_seq: batch.first_seq,
            last_seq: batch.last_seq,
            body,
        }))
    }

    /// Sequence number of the first record that is not on the wire.
    #[must_use]
    pub fn next_seq(&self) -> Option<u64> {
        self.batches.get(self.sent).map(|b| b.first_seq)
    }

    /// Forgets what is durable.
    pub fn acknowledge(&mut self, durable_seq: u64) {
        self.durable_seq = self.durable_seq.max(durable_seq);
        while self
            .batches
            .front()
            .is_some_and(|b| b.last_seq <= durable_seq)
            && let Some(batch) = self.batches.pop_front()
        {
            let len = batch.len();
            match batch.body {
                Body::Memory(_) => self.memory -= len,
                Body::Spooled { .. } => self.spool.release(len),
            }
            if self.sent > 0 {
                self.sent -= 1;
                self.sent_bytes -= len;
            }
        }
    }

    /// After a new link: everything that is not durable is sent again.
    pub const fn rewind(&mut self) {
        self.sent = 0;
        self.sent_bytes = 0;
    }

    /// Whether everything is durable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Whether everything is on the wire.
    #[must_use]
    pub fn all_sent(&self) -> bool {
        self.sent == self.batches.len()
    }

    /// Counts for people.
    #[must_use]
    pub const fn stats(&self) -> OutboxStats {
        OutboxStats {
            memory_bytes: self.memory,
            spooled_bytes: self.spool.live,
            durable_seq: self.durable_seq,
        }
    }
}

impl Spool {
    fn write(&mut self, bytes: &[u8]) -> Result<u64> {
        if self.live + bytes.len() as u64 > self.max {
            let source = std::io::Error::other("the spool is full");
            return Err(MeshError::Io {
                action: "write",
                path: self.dir.clone(),
                source,
            });
        }
        let file = match &mut self.file {
            Some(file) => file,
            empty => empty.insert(unlinked(&self.dir)?),
        };
        file.write_all_at(bytes, self.end)
            .map_err(MeshError::io("spool to", &self.dir))?;
        let offset = self.end;
        self.end += bytes.len() as u64;
        self.live += bytes.len() as u64;
        Ok(offset)
    }

    fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let mut bytes = vec![0; len];
        match &self.file {
            Some(file) => file
                .read_exact_at(&mut bytes, offset)
                .map_err(MeshError::io("read the spool in", &self.dir))?,
            None => {
                return Err(MeshError::Io {
                    action: "read",
                    path: self.dir.clone(),
                    source: std::io::ErrorKind::NotFound.into(),
                });
            }
        }
        Ok(bytes.into())
    }

    fn release(&mut self, len: usize) {
        self.live -= len as u64;
        if self.live == 0 {
            (self.file, self.end) = (None, 0);
        }
    }
}

/// A file without a name: gone when its process is.
fn unlinked(dir: &std::path::Path) -> Result<File> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    openat(
        CWD,
        dir,
        OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )
    .map(File::from)
    .map_err(|errno| MeshError::Io {
        action: "open a spool in",
        path: dir.to_owned(),
        source: errno.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(seq: u64) -> Taken {
        Taken {
            bytes: vec![u8::try_from(seq).unwrap(); 100],
            first_seq: seq,
            last_seq: seq,
        }
    }

    #[test]
    fn what_does_not_fit_in_memory_is_spooled_and_sent_in_order() {
        let tmp = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::new(250, tmp.path().to_owned(), 1000);
        for seq in 1..=8 {
            assert!(outbox.has_room());
            outbox.push(batch(seq));
        }
        assert_eq!(outbox.stats().memory_bytes, 200);
        assert_eq!(outbox.stats().spooled_bytes, 600);
        let mut sent = Vec::new();
        while let Some(ready) = outbox.next(300).unwrap() {
            sent.push(ready.last_seq);
        }
        assert_eq!(sent, [1, 2, 3]);
        outbox.acknowledge(2);
        assert_eq!(outbox.next(300).unwrap().unwrap().body[0], 4);
        outbox.rewind();
        assert_eq!(outbox.next(300).unwrap().unwrap().last_seq, 3);
        outbox.acknowledge(8);
        assert!(outbox.is_empty() && outbox.stats().spooled_bytes == 0);
    }
}
