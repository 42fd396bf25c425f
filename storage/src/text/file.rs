//! Writing a text so that what is durable is known, and rolling it.

use std::fs::File;
use std::path::PathBuf;

use super::LogKind;
use super::pieces::{base, pieces};
use crate::durable;
use crate::error::{At, Result};
use crate::layout::RunDir;
use crate::lock::Fence;

/// Most bytes that an owner writes once more for the one before.
const REWRITTEN_BYTES_MAX: u64 = 64 << 20;

/// One of the two texts, written at a known end so that a failed write can be repeated.
///
/// What is not durable is also kept in memory: after a failed sync nobody knows what of it reached the disk,
/// so it is written once more, through a new descriptor.
/// Places are counted over all pieces; the current file has those from `base` on.
#[derive(Debug)]
pub(crate) struct TextFile {
    dir: RunDir,
    kind: LogKind,
    path: PathBuf,
    file: File,
    /// Where the file begins in the text.
    base: u64,
    /// What is durable of the text.
    durable: u64,
    /// What stands behind it …
    tail: Vec<u8>,
    /// … and how much of it is in the file.
    put: usize,
    /// The descriptor has failed, or its file was rolled.
    failed: bool,
    /// The names of its files are not durable.
    renamed: bool,
}

impl TextFile {
    /// Opens the text, cuts it to the length that the commit log vouches for, and makes that much durable.
    ///
    /// What stands behind `sure` an owner wrote that died, perhaps after a sync had failed: it is written once more.
    /// Pieces are never cut: they were durable, and known to the run's record, when they got their names.
    pub(crate) fn open(dir: &RunDir, kind: LogKind, sure: u64, committed: u64) -> Result<Self> {
        let path = dir.text(kind);
        let base = base(&pieces(dir, kind)?);
        let is_new = !path.exists();
        let file = durable::open_rw(&path)?;
        let length = base + file.metadata().at("stat", &path)?.len();
        let end = length.min(committed.max(base));
        if length > end {
            file.set_len(end - base).at("cut", &path)?;
            // Else a power cut could bring back what was cut, in place of what is written there next.
            durable::sync_data(&file, &path)?;
        }
        let sure = sure.max(base);
        let sure = sure.clamp(end.saturating_sub(REWRITTEN_BYTES_MAX).max(base), end);
        let rest = usize::try_from(end - sure).unwrap_or(0);
        let tail = durable::read_at(&file, &path, sure - base, rest)?;
        let mut text = Self {
            dir: dir.clone(),
            kind,
            path,
            file,
            base,
            durable: sure,
            tail,
            put: 0,
            failed: false,
            renamed: is_new && base > 0,
        };
        text.write()?;
        text.sync()?;
        Ok(text)
    }

    /// Where new records go: to the end of this.
    pub(crate) const fn pending(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// The length that the text will have when all is written.
    pub(crate) const fn end(&self) -> u64 {
        self.durable + self.tail.len() as u64
    }

    /// Bytes of the current file.
    pub(crate) const fn current(&self) -> u64 {
        self.end() - self.base
    }

    /// Writes what is pending; after an error it may be called again.
    pub(crate) fn write(&mut self) -> Result<()> {
        if self.failed {
            self.file = durable::open_rw(&self.path)?;
            (self.put, self.failed) = (0, false);
        }
        if self.put == self.tail.len() {
            return Ok(());
        }
        let at = self.durable + self.put as u64 - self.base;
        durable::write_at(&self.file, &self.path, &self.tail[self.put..], at)
            .inspect_err(|e| self.failed = !e.is_full())?;
        self.put = self.tail.len();
        Ok(())
    }

    /// Makes durable what was written.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if self.renamed {
            durable::sync_dir(self.dir.root())?;
            self.renamed = false;
        }
        if self.put == 0 {
            return Ok(());
        }
        durable::sync_data(&self.file, &self.path).inspect_err(|_| self.failed = true)?;
        self.durable += self.put as u64;
        self.tail.drain(..self.put);
        self.put = 0;
        Ok(())
    }

    /// Gives the current file, all of which is durable, the name of a piece, and begins the next one.
    ///
    /// After an error it may be called again; what it has done by then is taken for done.
    pub(crate) fn roll(&mut self, fence: &Fence) -> Result<()> {
        let length = self.durable - self.base;
        if self.tail.is_empty() && length > 0 {
            let file = durable::open_rw(&self.path)?;
            // A failed write may have left something behind the end.
            if file.metadata().at("stat", &self.path)?.len() > length {
                file.set_len(length).at("cut", &self.path)?;
                durable::sync_data(&file, &self.path)?;
            }
            fence.check()?;
            let piece = self.dir.piece(self.kind, self.base, self.durable);
            durable::rename(&self.path, &piece)?;
            self.base = self.durable;
            (self.failed, self.renamed) = (true, true);
        }
        self.write()?;
        self.sync()
    }
}
