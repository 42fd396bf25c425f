//! What reaches the disk, and when: writing, syncing, saving, sealing, publishing, closing.

use std::os::unix::fs::FileExt;
use std::time::Instant;

use expman_model::limits::{CLOSE_MERGE_ROWS, PUBLISH_CHEAP_BYTES, SEAL_BYTES, SEAL_ROWS};
use expman_model::{RankState, RunStatus};

use super::{LiveWriter, Log, PUBLISH_AFTER, RunWriter, SAVE_EVERY, WAL_FORMAT};
use crate::error::{At, Result};
use crate::reader::{Filter, snapshot};
use crate::rows::Rows;
use crate::sealer::{Done, Job, remove};
use crate::state::RunState;
use crate::wal::WalHeader;
use crate::{durable, segment, yaml};

impl RunWriter {
    /// Puts text, then frames, then events into the files.
    ///
    /// # Errors
    /// When a write fails; it may be called again.
    pub fn write(&mut self) -> Result<()> {
        self.run_log.write()?;
        self.console_log.write()?;
        if !self.log.pending.is_empty() {
            self.log
                .file
                .write_all_at(&self.log.pending, self.log.written)
                .at("write", &self.log.path)?;
            self.log.written += self.log.pending.len() as u64;
            self.log.pending.clear();
            self.log.dirty = true;
        }
        while let Some(event) = self.pending_events.first() {
            self.events.append(event.clone())?;
            self.pending_events.remove(0);
        }
        Ok(())
    }

    /// Makes everything that was appended durable.
    ///
    /// # Errors
    /// When a write or a sync fails; nothing new counts as durable then.
    pub fn sync(&mut self) -> Result<()> {
        self.write()?;
        self.run_log.sync()?;
        self.console_log.sync()?;
        if self.log.dirty {
            self.log.file.sync_data().at("sync", &self.log.path)?;
            self.log.dirty = false;
        }
        for w in &mut self.state.writers {
            w.meta.durable_seq = w.applied_seq;
        }
        Ok(())
    }

    /// Writes `config.yaml` and `run.yaml`, behind everything they are made of.
    ///
    /// # Errors
    /// When a sync or a write fails.
    pub fn save(&mut self) -> Result<()> {
        self.sync()?;
        if self.state.params_dirty {
            yaml::write(&self.dir.config(), &self.state.params)?;
            self.state.params_dirty = false;
        }
        yaml::write(&self.dir.meta(), &self.state.record(&self.rows.keys))?;
        self.state.dirty = false;
        self.saved_at = Instant::now();
        Ok(())
    }

    /// Periodic work: save the record, seal a full log, publish.
    ///
    /// # Errors
    /// When a file can't be written; it is tried again at the next call.
    pub fn tick(&mut self) -> Result<()> {
        while let Some(done) = self.sealer.poll() {
            self.settle(done)?;
        }
        if self.rows.len() as u64 >= SEAL_ROWS || self.log.written >= SEAL_BYTES {
            self.seal()?;
        }
        let age = self.opened_at.elapsed() / 20;
        let due = age.clamp(PUBLISH_AFTER.0, PUBLISH_AFTER.1);
        if self.sealer.open() == 0
            && self.total() > self.published.0
            && self.published_at.elapsed() >= due
            && self.cheap()
        {
            self.publish()?;
        }
        if (self.state.dirty || self.state.params_dirty) && self.saved_at.elapsed() >= SAVE_EVERY {
            self.save()?;
        }
        Ok(())
    }

    /// Whether copying the published bytes once more is worth it now.
    const fn cheap(&self) -> bool {
        self.published.1 < PUBLISH_CHEAP_BYTES
            || (self.total() - self.published.0) * 4 >= self.total()
    }

    fn settle(&mut self, done: Done) -> Result<()> {
        match done {
            Done::Sealed(done) => done,
            Done::Published(done) => {
                self.published = done?;
                Ok(())
            }
        }
    }

    /// Starts the next log and hands the rows of this one over for sealing.
    fn seal(&mut self) -> Result<()> {
        self.save()?;
        let hi = self.total();
        let generation = self.log.generation + 1;
        let path = self.dir.wal(hi, generation);
        let mut pending = Vec::new();
        self.encoder.header(
            &mut pending,
            &header(&self.state, hi, self.run_log.end(), self.console_log.end()),
        );
        let file = durable::create(&path)?;
        file.write_all_at(&pending, 0).at("write", &path)?;
        file.sync_all().at("sync", &path)?;
        durable::sync_dir(&self.dir.hidden())?;
        let next = Log {
            path,
            file,
            generation,
            written: pending.len() as u64,
            pending: Vec::new(),
            dirty: false,
        };
        let old = std::mem::replace(&mut self.log, next);
        let empty = Rows {
            keys: self.rows.keys.clone(),
            ..Rows::default()
        };
        let rows = std::mem::replace(&mut self.rows, empty);
        self.sealer.submit(Job::Seal {
            rows: Box::new(rows),
            lo: self.lo,
            hi,
            logs: vec![old.path],
        });
        self.lo = hi;
        Ok(())
    }

    fn publish(&mut self) -> Result<()> {
        if !self.rows.is_empty() {
            self.seal()?;
        }
        self.sealer.submit(Job::Publish);
        self.published_at = Instant::now();
        Ok(())
    }

    /// Publishes everything in `metrics.parquet` before it returns.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn publish_now(&mut self) -> Result<()> {
        self.publish()?;
        while let Some(done) = self.sealer.wait() {
            self.settle(done)?;
        }
        Ok(())
    }

    /// Ends the run: everything sorted in `metrics.parquet`, no machinery left but the lock.
    ///
    /// # Errors
    /// When a file can't be written; the commit log then still holds what the file lacks.
    pub fn finish(mut self) -> Result<()> {
        for LiveWriter { index: writer, .. } in self.live() {
            self.leave(
                writer,
                RankState::Lost,
                RunStatus::Crashed,
                "the run ended without a word from it",
            );
        }
        self.set_status(self.outcome());
        self.save()?;
        let total = self.total();
        if total > CLOSE_MERGE_ROWS {
            self.publish_now()?;
        } else {
            while let Some(done) = self.sealer.wait() {
                self.settle(done)?;
            }
            if self.published.0 < total || total > 0 && self.published.0 > 0 {
                let read;
                let rows = if self.lo == 0 {
                    &self.rows
                } else {
                    read = snapshot(&self.dir, &Filter::default())?.rows;
                    &read
                };
                segment::write_sorted(&self.dir.metrics(), rows, total)?;
            }
        }
        for wal in self.dir.wals()? {
            remove(&wal.path)?;
        }
        for seg in self.dir.segments()? {
            remove(&seg.path)?;
        }
        durable::sync_dir(&self.dir.hidden())
    }
}

/// The first frame of a log that starts now.
pub(crate) fn header(
    state: &RunState,
    lo: u64,
    run_log_end: u64,
    console_log_end: u64,
) -> WalHeader {
    WalHeader {
        format: WAL_FORMAT,
        run_id: state.meta.id,
        lo,
        epoch: state.meta.owner_epoch,
        text_ends: [run_log_end, console_log_end],
        writers: state
            .writers
            .iter()
            .map(crate::state::WriterState::wal_writer)
            .collect(),
    }
}
