//! What reaches the disk, and when: writing, syncing, saving, sealing, publishing, closing.
//!
//! Each step may be repeated after an error. The ones named `try_…` do that by themselves, with a growing pause,
//! and say whether the work is done.

use std::time::{Duration, Instant};

use expman_model::limits::{
    CLOSE_MERGE_ROWS, PUBLISH_CHEAP_BYTES, SEAL_BYTES, SEAL_ROWS, UNSEALED_ROWS_MAX,
};
use expman_model::{RankState, RunStatus};

use super::{LiveWriter, PUBLISH_AFTER, RunWriter, SAVE_EVERY};
use crate::error::{Result, StorageError};
use crate::pyramid::Upkeep;
use crate::reader::{Filter, segment_chain, snapshot, unsealed};
use crate::rows::Rows;
use crate::sealer::{Done, Job, remove};
use crate::{durable, edits, segment, yaml};

/// How often, and how long apart, the events are tried that a run has left at its end.
const LAST_ATTEMPTS: u32 = 10;
const LAST_PAUSE: Duration = Duration::from_millis(20);

impl RunWriter {
    /// Puts text, then frames, then events into the files.
    ///
    /// # Errors
    /// When a write fails; it may be called again.
    pub fn write(&mut self) -> Result<()> {
        if self.log.dirty() {
            self.fence.check()?;
            self.run_log.write()?;
            self.console_log.write()?;
            self.write_log()?;
        }
        self.write_events()
    }

    /// Makes everything that was appended durable.
    ///
    /// # Errors
    /// When a write or a sync fails; nothing new counts as durable then.
    pub fn sync(&mut self) -> Result<()> {
        self.write()?;
        self.run_log.sync()?;
        self.console_log.sync()?;
        self.sync_log()?;
        // A sync may take its time, and what is called durable must be this owner's to call so.
        self.fence.check()?;
        for w in &mut self.state.writers {
            w.meta.durable_seq = w.applied_seq;
        }
        Ok(())
    }

    /// [`RunWriter::write`], which also means that what was appended outlives this process.
    ///
    /// # Errors
    /// When this process can't be the run's writer any more.
    pub fn try_write(&mut self) -> Result<bool> {
        if !self.chores.commit.ready() {
            return Ok(false);
        }
        let done = self.write();
        self.chores.commit.note(done)
    }

    /// [`RunWriter::sync`].
    ///
    /// # Errors
    /// When this process can't be the run's writer any more.
    pub fn try_sync(&mut self) -> Result<bool> {
        if !self.chores.commit.ready() {
            return Ok(false);
        }
        let done = self.sync();
        self.chores.commit.note(done)
    }

    /// What keeps this writer from writing; none when all works.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let own = self.chores.trouble().map(str::to_owned);
        own.or_else(|| self.sealer.trouble())
    }

    /// Whether nothing becomes durable at present.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.chores.commit.trouble().is_some()
    }

    /// Whether more rows wait in memory for their segment than may: until some are sealed nothing more counts as
    /// durable, which keeps the ranks from sending.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        let waiting = (self.rows.len() + self.sealer.rows()) as u64;
        waiting >= UNSEALED_ROWS_MAX || self.log.written >= 4 * SEAL_BYTES
    }

    /// Events follow what they tell of. That they can't be written keeps nothing else waiting.
    fn write_events(&mut self) -> Result<()> {
        if self.pending_events.is_empty() || !self.chores.events.ready() {
            return Ok(());
        }
        let mut told = 0;
        let mut done = self.fence.check();
        while done.is_ok()
            && let Some(event) = self.pending_events.get(told)
        {
            done = self.events.append(event);
            told += usize::from(done.is_ok());
        }
        self.pending_events.drain(..told);
        if told > 0 {
            // It works now and then: that is no reason for a longer pause.
            self.chores.events.note(Ok(()))?;
        }
        self.chores.events.note(done).map(drop)
    }

    /// The last chance of the events that still wait.
    fn write_last_events(&mut self) -> Result<()> {
        for _ in 0..LAST_ATTEMPTS {
            self.chores.events.hurry();
            self.write_events()?;
            if self.pending_events.is_empty() {
                return Ok(());
            }
            std::thread::sleep(LAST_PAUSE);
        }
        for event in self.pending_events.drain(..) {
            tracing::error!("not in events.jsonl: {event:?}");
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
            yaml::prepare(&self.dir.config(), &self.state.params)?.publish(Some(&self.fence))?;
            self.state.params_dirty = false;
        }
        let edits = edits::pending(&self.dir);
        for (_, edit) in &edits {
            edit.apply_to(&mut self.state.meta);
        }
        let record = self.state.record(&self.rows.keys);
        yaml::prepare(&self.dir.meta(), &record)?.publish(Some(&self.fence))?;
        // Readers find an edit beside the record or in it.
        edits.iter().try_for_each(|(path, _)| remove(path))?;
        self.state.dirty = false;
        self.saved_at = Instant::now();
        Ok(())
    }

    /// [`RunWriter::save`].
    ///
    /// # Errors
    /// When this process can't be the run's writer any more.
    pub fn try_save(&mut self) -> Result<bool> {
        if !self.chores.save.ready() || !self.try_sync()? {
            return Ok(false);
        }
        let done = self.save();
        self.chores.save.note(done)
    }

    /// Periodic work: save the record, seal a full log, publish.
    ///
    /// # Errors
    /// When this process can't be the run's writer any more; what else fails is tried again.
    pub fn tick(&mut self) -> Result<()> {
        while let Some(done) = self.sealer.poll() {
            self.settle(done)?;
        }
        if self.is_stuck() {
            return Ok(());
        }
        self.try_roll()?;
        if (self.rows.len() as u64 >= SEAL_ROWS || self.log.written >= SEAL_BYTES)
            && self.sealer.has_room()
            && self.chores.seal.ready()
        {
            let done = self.seal();
            self.chores.seal.note(done)?;
        }
        if self.sealer.open() == 0 && self.publish_is_due() && self.chores.publish.ready() {
            let done = self.publish();
            self.chores.publish.note(done)?;
        }
        if self.saved_at.elapsed() >= SAVE_EVERY
            && (self.state.dirty || self.state.params_dirty || edits::are_waiting(&self.dir))
        {
            self.try_save()?;
        }
        Ok(())
    }

    fn publish_is_due(&self) -> bool {
        if self.published.0 < self.wanted {
            return true;
        }
        let age = self.opened_at.elapsed() / 20;
        self.total() > self.published.0
            && self.published_at.elapsed() >= age.clamp(PUBLISH_AFTER.0, PUBLISH_AFTER.1)
            && self.cheap()
    }

    /// Whether copying the published bytes once more is worth it now.
    const fn cheap(&self) -> bool {
        self.published.1 < PUBLISH_CHEAP_BYTES
            || (self.total() - self.published.0) * 4 >= self.total()
    }

    fn settle(&mut self, done: Done) -> Result<()> {
        match done {
            Done::Sealed(Err(e)) if e.is_final() => Err(e),
            // It ends with an error only when the run is left; the logs still hold the rows.
            Done::Sealed(_) => Ok(()),
            Done::Published(done) => {
                let done = done.map(|published| self.published = published);
                self.chores.publish.note(done).map(drop)
            }
        }
    }

    /// Starts the next log and hands the rows of this one over for sealing.
    fn seal(&mut self) -> Result<()> {
        // run.yaml must know all that the old log tells; what was saved in an attempt before need not be once more.
        if self.state.dirty || self.state.params_dirty {
            self.save()?;
        }
        self.sync()?;
        let hi = self.total();
        let old = self.next_log()?;
        let empty = Rows {
            keys: self.rows.keys.clone(),
            ..Rows::default()
        };
        let rows = std::mem::replace(&mut self.rows, empty);
        let mut logs = old.former;
        logs.push(old.path);
        self.sealer.submit(Job::Seal {
            rows: Box::new(rows),
            lo: self.lo,
            hi,
            logs,
        });
        self.lo = hi;
        Ok(())
    }

    fn publish(&mut self) -> Result<()> {
        self.published_at = Instant::now();
        if !self.rows.is_empty() {
            self.seal()?;
        }
        self.sealer.submit(Job::Publish);
        Ok(())
    }

    /// Asks for a publication of everything there is, which [`RunWriter::tick`] makes; returns the number of rows
    /// that [`RunWriter::published`] then has reached.
    pub fn want_published(&mut self) -> u64 {
        self.wanted = self.total();
        self.wanted
    }

    /// Rows in `metrics.parquet`.
    #[must_use]
    pub const fn published(&self) -> u64 {
        self.published.0
    }

    /// Publishes everything in `metrics.parquet` before it returns.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn publish_now(&mut self) -> Result<()> {
        while let Some(done) = self.sealer.wait() {
            self.settle(done)?;
        }
        self.publish()?;
        while let Some(done) = self.sealer.wait() {
            match done {
                Done::Published(done) => self.published = done?,
                Done::Sealed(done) => done?,
            }
        }
        Ok(())
    }

    /// Ends the run: everything sorted in `metrics.parquet`, no machinery left but the lock.
    ///
    /// After an error it may be called again; nothing may be appended any more.
    ///
    /// # Errors
    /// When a file can't be written; the commit log then still holds what the file lacks.
    pub fn finish(&mut self) -> Result<()> {
        for LiveWriter { index: writer, .. } in self.live() {
            self.leave(
                writer,
                RankState::Lost,
                RunStatus::Crashed,
                "the run ended without a word from it",
            );
        }
        // The record is written once more below: what was saved when the last rank left need not be twice.
        if self.state.dirty || self.state.params_dirty {
            self.save()?;
        } else {
            self.sync()?;
        }
        self.sealer.hurry();
        while let Some(done) = self.sealer.wait() {
            self.settle(done)?;
        }
        let total = self.total();
        if total > CLOSE_MERGE_ROWS {
            self.append_published(total)?;
        } else if !self.merged && (self.published.0 < total || self.published.0 > 0) {
            let read;
            let rows = if self.lo == 0 {
                &self.rows
            } else {
                read = snapshot(&self.dir, &Filter::default())?.rows;
                &read
            };
            self.all_there(rows.len() as u64, total)?;
            let order = rows.sorted();
            let next = segment::prepare_in_order(&self.dir.metrics(), rows, &order, total)?;
            Upkeep::new(self.dir.clone(), self.fence.clone()).seal(rows, &order, 0, total);
            next.publish(Some(&self.fence))?;
            self.merged = true;
        }
        // Who reads that the run has ended finds its rows where they stay.
        self.set_status(self.outcome());
        self.save()?;
        self.write_last_events()?;
        self.fence.check()?;
        for wal in self.dir.wals()? {
            remove(&wal.path)?;
        }
        for seg in self.dir.segments()? {
            remove(&seg.path)?;
        }
        Upkeep::new(self.dir.clone(), self.fence.clone()).prune(total)?;
        durable::sync_dir(&self.dir.hidden())?;
        self.finish_packing();
        Ok(())
    }

    /// Brings what is not published yet behind the published rows, without sorting those again.
    fn append_published(&mut self, total: u64) -> Result<()> {
        let metrics = self.dir.metrics();
        let mut sums = Upkeep::new(self.dir.clone(), self.fence.clone());
        let mut hi = segment::read_hi(&metrics)?;
        let mut chain = segment_chain(&self.dir, &mut hi)?;
        if hi < total {
            let rows = unsealed(&self.dir, hi)?;
            self.all_there(hi + rows.len() as u64, total)?;
            let path = self.dir.segment(hi, total);
            let order = rows.sorted();
            sums.seal(&rows, &order, hi, total);
            segment::prepare_in_order(&path, &rows, &order, total)?.publish(Some(&self.fence))?;
            chain.push(path);
            hi = total;
        }
        if !chain.is_empty() {
            let sources: Vec<_> = std::iter::once(metrics.as_path())
                .chain(chain.iter().map(std::path::PathBuf::as_path))
                .collect();
            let next = segment::prepare_spliced(&metrics, &sources, hi)?;
            sums.publish(hi);
            next.publish(Some(&self.fence))?;
        }
        Ok(())
    }

    /// What was read back must be all there is, before anything is removed for its sake.
    fn all_there(&self, found: u64, total: u64) -> Result<()> {
        if found == total {
            return Ok(());
        }
        Err(StorageError::MissingRows {
            path: self.dir.root().to_owned(),
            from: found,
            to: total,
        })
    }
}
