//! The end of a run: every row in `metrics.parquet`, and nothing of the machinery left.

use std::time::Duration;

use expman_model::limits::{CLOSE_MERGE_ROWS, GROUP_ROWS_ENOUGH};
use expman_model::{RankState, RunStatus};

use super::{LiveWriter, RunWriter};
use crate::error::{Result, StorageError};
use crate::pyramid::Upkeep;
use crate::reader::{Filter, segment_chain, snapshot, unsealed};
use crate::sealer::{Sorted, join, prepare, remove};
use crate::{durable, segment};

/// How often, and how long apart, the events are tried that a run has left at its end.
const LAST_ATTEMPTS: u32 = 10;
const LAST_PAUSE: Duration = Duration::from_millis(20);

impl RunWriter {
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
        if total > CLOSE_MERGE_ROWS || self.groups_are_large(total)? {
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
            let mut sums = Upkeep::new(self.dir.clone(), self.fence.clone());
            let sorted = Sorted::of(rows, 0, total);
            prepare(&self.dir.metrics(), Some(&mut sums), &sorted)?.publish(Some(&self.fence))?;
            self.merged = true;
        }
        // Who reads that the run has ended finds its rows where they stay.
        self.set_status(self.outcome());
        self.save()?;
        self.goodbyes.remove(&self.dir)?;
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

    /// Whether sorting all rows together would not make their row groups much larger.
    fn groups_are_large(&self, total: u64) -> Result<bool> {
        if self.lo == 0 {
            return Ok(false);
        }
        let (mut hi, published) = segment::extent(&self.dir.metrics())?;
        let groups = published + segment_chain(&self.dir, &mut hi)?.len() + 1;
        Ok(total / groups as u64 >= GROUP_ROWS_ENOUGH)
    }

    /// Brings what is not published yet behind the published rows, without sorting those again.
    fn append_published(&mut self, total: u64) -> Result<()> {
        let mut sums = Upkeep::new(self.dir.clone(), self.fence.clone());
        let mut hi = segment::read_hi(&self.dir.metrics())?;
        let mut chain = segment_chain(&self.dir, &mut hi)?;
        if hi < total {
            let read;
            let rows = if self.lo == hi {
                &self.rows
            } else {
                read = unsealed(&self.dir, hi)?;
                &read
            };
            self.all_there(hi + rows.len() as u64, total)?;
            let path = self.dir.segment(hi, total);
            let sorted = Sorted::of(rows, hi, total);
            prepare(&path, Some(&mut sums), &sorted)?.publish(Some(&self.fence))?;
            chain.push(path);
            hi = total;
        }
        join(&self.dir, &sums, &self.fence, &chain, hi)
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
