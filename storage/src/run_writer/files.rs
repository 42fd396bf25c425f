//! What reaches the disk, and when: writing, syncing, saving, sealing, publishing.
//!
//! Each step may be repeated after an error. The ones named `try_…` do that by themselves, with a growing pause,
//! and say whether the work is done.

use std::time::Instant;

use expman_model::limits::{PUBLISH_CHEAP_BYTES, SEAL_BYTES, SEAL_ROWS, UNSEALED_ROWS_MAX};

use super::{PUBLISH_AFTER, RunWriter, SAVE_EVERY, SAVE_PAUSE_MAX, SAVE_SHARE};
use crate::error::Result;
use crate::sealer::{Done, Job, remove};
use crate::{edits, yaml};

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
        self.log.sync()?;
        // A sync may take its time, and what is called durable must be this owner's to call so.
        self.fence.check()?;
        self.all_durable();
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
    pub(super) fn write_events(&mut self) -> Result<()> {
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

    /// Writes `config.yaml` and `run.yaml`, behind everything they are made of.
    ///
    /// # Errors
    /// When a sync or a write fails.
    pub fn save(&mut self) -> Result<()> {
        let began = Instant::now();
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
        self.save_took = began.elapsed();
        self.goodbyes.clear(&self.dir)?;
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
        let pause = (self.save_took * SAVE_SHARE).clamp(SAVE_EVERY, SAVE_PAUSE_MAX);
        if self.saved_at.elapsed() >= pause
            && (self.state.dirty || self.state.params_dirty || edits::are_waiting(&self.dir))
        {
            self.try_save()?;
        }
        Ok(())
    }

    /// Whether [`RunWriter::tick`] finds nothing to do until something is appended, but for people's edits.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let is_saved = !self.state.dirty && !self.state.params_dirty && !self.log.dirty();
        let is_published = self.total() == self.published.0;
        is_saved && is_published && self.pending_events.is_empty() && self.sealer.open() == 0
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

    pub(super) fn settle(&mut self, done: Done) -> Result<()> {
        match done {
            Done::Sealed(Err(e), _) if e.is_final() => Err(e),
            // It ends with an error only when the run is left; the logs still hold the rows.
            Done::Sealed(_, emptied) => {
                self.spare = Some(emptied);
                Ok(())
            }
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
        let mut empty = self.spare.take().unwrap_or_default();
        empty.keys = self.rows.keys.clone();
        let rows = std::mem::replace(&mut self.rows, *empty);
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
                Done::Sealed(done, _) => done?,
            }
        }
        Ok(())
    }
}
