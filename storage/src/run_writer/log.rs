//! The commit log that is being written, and its replacement when its file fails.
//!
//! What was appended since the last sync is kept here, so that it can be written once more: after a failed sync
//! nobody knows what of it reached the disk, and no later call on that file tells.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

use super::{RunWriter, WAL_FORMAT};
use crate::durable::{self, Prepared};
use crate::error::{At, Result};
use crate::layout::RunDir;
use crate::lock::Fence;
use crate::state::{RunState, WriterState};
use crate::wal::{BatchHead, WalHeader, WalWriter};

/// A log's file and what is not in it, or not durable.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    file: File,
    /// Bytes of whole frames in the file.
    pub(crate) written: u64,
    /// Frames to be written behind them.
    pub(crate) pending: Vec<u8>,
    dirty: bool,
    /// Part of a frame may stand behind `written`.
    torn: bool,
    /// The file is given up: what is not durable in it goes to another one.
    poisoned: bool,
    /// Batches since the last sync, in order.
    unsynced: Vec<Unsynced>,
    /// Lengths of the text files up to the last sync.
    text_ends: [u64; 2],
    /// Logs that were given up and hold rows in front of this one's.
    pub(crate) former: Vec<PathBuf>,
}

/// A batch that can be encoded again.
#[derive(Debug)]
struct Unsynced {
    head: BatchHead,
    /// Its place in the run's open rows.
    rows: Range<usize>,
    others: Vec<u8>,
}

impl Log {
    /// Makes a log that holds these frames durably.
    ///
    /// It gets its name when it is whole, so that no reader finds it empty and no crash leaves it torn.
    pub(crate) fn create(
        dir: &RunDir,
        generation: u64,
        header: &WalHeader,
        frames: &[u8],
        fence: &Fence,
    ) -> Result<Self> {
        let path = dir.wal(header.lo, generation);
        let next = Prepared::new(&path)?;
        durable::write_at(&next.file, &next.tmp, frames, 0)?;
        let file = next.file.try_clone().at("open", &path)?;
        next.publish(Some(fence))?;
        Ok(Self {
            path,
            file,
            written: frames.len() as u64,
            pending: Vec::new(),
            dirty: false,
            torn: false,
            poisoned: false,
            unsynced: Vec::new(),
            text_ends: header.text_ends,
            former: Vec::new(),
        })
    }

    /// Whether something was appended since the last sync.
    pub(crate) const fn dirty(&self) -> bool {
        self.dirty || !self.pending.is_empty() || self.poisoned
    }

    /// Notes a batch whose frame is pending.
    pub(super) fn appended(&mut self, head: BatchHead, rows: Range<usize>, others: Vec<u8>) {
        self.unsynced.push(Unsynced { head, rows, others });
    }

    /// Puts the pending frames behind the good ones.
    fn write(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        if self.torn {
            self.file.set_len(self.written).at("cut", &self.path)?;
            self.torn = false;
        }
        if let Err(e) = durable::write_at(&self.file, &self.path, &self.pending, self.written) {
            self.torn = true;
            // A full disk says nothing against this file; any other error does.
            self.poisoned = !e.is_full();
            if let Err(e) = self.file.set_len(self.written) {
                tracing::debug!("cut {}: {e}", self.path.display());
            }
            return Err(e);
        }
        self.written += self.pending.len() as u64;
        self.pending.clear();
        self.dirty = true;
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<()> {
        if self.dirty {
            durable::sync_data(&self.file, &self.path).inspect_err(|_| self.poisoned = true)?;
            self.dirty = false;
        }
        Ok(())
    }
}

impl RunWriter {
    /// Writes the pending frames, or all that are not durable to a new log if this one is given up.
    pub(super) fn write_log(&mut self) -> Result<()> {
        if !self.log.poisoned {
            return self.log.write();
        }
        // Frames become durable here, so their text must be durable before.
        self.run_log.sync()?;
        self.console_log.sync()?;
        let rows = self
            .log
            .unsynced
            .first()
            .map_or(self.rows.len(), |first| first.rows.start);
        let header = WalHeader {
            text_ends: self.log.text_ends,
            writers: writers(&self.state, |w| w.meta.durable_seq),
            ..header(&self.state, self.lo + rows as u64, [0; 2])
        };
        let mut frames = Vec::new();
        self.encoder.header(&mut frames, &header);
        for batch in &self.log.unsynced {
            self.encoder
                .batch(
                    &mut frames,
                    &batch.head,
                    &self.rows,
                    batch.rows.clone(),
                    &batch.others,
                )
                .at("compress a frame of", &self.log.path)?;
        }
        self.generation += 1;
        let next = Log::create(&self.dir, self.generation, &header, &frames, &self.fence)?;
        let old = std::mem::replace(&mut self.log, next);
        tracing::warn!(
            "{} is given up, {} goes on",
            old.path.display(),
            self.log.path.display()
        );
        // Until the next sync tells that all of it is durable, it must be possible to write it a third time.
        self.log.unsynced = old.unsynced;
        self.log.former = old.former;
        self.log.former.push(old.path);
        Ok(())
    }

    /// Notes that all that was appended is durable.
    pub(super) fn all_durable(&mut self) {
        for batch in self.log.unsynced.drain(..) {
            let w = &mut self.state.writers[batch.head.writer as usize];
            w.meta.durable_seq = w.applied_seq;
        }
        self.log.text_ends = [self.run_log.end(), self.console_log.end()];
    }

    /// Starts a log behind the rows there are, all of which are durable, and returns the one before.
    pub(super) fn next_log(&mut self) -> Result<Log> {
        let ends = [self.run_log.end(), self.console_log.end()];
        let header = header(&self.state, self.total(), ends);
        let mut frames = Vec::new();
        self.encoder.header(&mut frames, &header);
        self.generation += 1;
        let next = Log::create(&self.dir, self.generation, &header, &frames, &self.fence)?;
        Ok(std::mem::replace(&mut self.log, next))
    }
}

/// The first frame of a log that starts now.
pub(crate) fn header(state: &RunState, lo: u64, text_ends: [u64; 2]) -> WalHeader {
    WalHeader {
        format: WAL_FORMAT,
        run_id: state.meta.id,
        lo,
        epoch: state.meta.owner_epoch,
        text_ends,
        writers: writers(state, |w| w.applied_seq),
    }
}

fn writers(state: &RunState, upto: impl Fn(&WriterState) -> u64) -> Vec<WalWriter> {
    let told = state.writers.iter().map(|w| WalWriter {
        upto_seq: upto(w),
        ..w.wal_writer()
    });
    told.collect()
}
