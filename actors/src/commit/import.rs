//! Bringing in what a dead process left: its spool files in their order, then its ring.
//!
//! Like a link it may repeat what is there already. It is taken in pieces, so that the living are not kept waiting,
//! and a file is removed only when all of it is durable.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use expman_model::record::RecordHead;
use expman_model::{EventBody, RunStatus, WriterId};
use expman_storage::spool::{self, SpoolFile, SpoolHeader, SpoolReader};
use expman_storage::{RunDir, RunWriter, StorageError};

use crate::host;
use crate::ring::RING_FULL;
use crate::ring::leftover::Leftover;

/// Bytes that are taken in at once.
const PIECE_BYTES: usize = 1 << 20;
/// Why records are missing that a process had accepted.
const LOST: &str = "lost with its process";

/// One dead process's remains.
#[derive(Debug)]
pub(crate) struct Import {
    pub(crate) writer: u32,
    id: WriterId,
    files: VecDeque<PathBuf>,
    reading: Option<(PathBuf, SpoolReader)>,
    ring: Option<Arc<OwnedFd>>,
    rest: Option<Rest>,
    read: Vec<PathBuf>,
    /// How the process said that its part ended, if it did and its ring could be read.
    pub(super) end: Option<RunStatus>,
}

/// What of a ring is not taken in yet.
#[derive(Debug)]
struct Rest {
    leftover: Leftover,
    from: usize,
}

impl Import {
    /// All that is known to be left of a process.
    pub(crate) fn new(
        writer: u32,
        id: WriterId,
        files: Vec<SpoolFile>,
        ring: Option<Arc<OwnedFd>>,
    ) -> Self {
        let own = files.into_iter().filter(|file| file.id == id);
        Self {
            writer,
            id,
            files: own.map(|file| file.path).collect(),
            reading: None,
            ring,
            rest: None,
            read: Vec::new(),
            end: None,
        }
    }

    /// Takes in the next piece, in memory; false when there is none.
    ///
    /// # Errors
    /// When what is left can't be read now; it stays where it is.
    pub(crate) fn step(&mut self, w: &mut RunWriter) -> Result<bool, StorageError> {
        let mut taken = 0;
        while taken < PIECE_BYTES {
            let frame = self.next_frame(w)?;
            let Some(piece) = frame.or_else(|| self.next_of_ring(w)) else {
                self.account(w)?;
                return Ok(false);
            };
            taken += piece.len();
            match w.append(self.writer, &piece) {
                Err(e @ StorageError::Batch { .. }) => self.problem(w, &e.to_string()),
                done => drop(done?),
            }
        }
        Ok(true)
    }

    fn next_frame(&mut self, w: &mut RunWriter) -> Result<Option<Vec<u8>>, StorageError> {
        loop {
            if let Some((path, reader)) = &mut self.reading {
                if let Some(frame) = reader.next()? {
                    return Ok(Some(frame.records));
                }
                let problem = reader.problem().map(ToString::to_string);
                let path = std::mem::take(path);
                self.reading = None;
                match problem {
                    Some(what) => self.set_aside(w, &path, &what),
                    None => self.read.push(path),
                }
            }
            let Some(path) = self.files.front() else {
                return Ok(None);
            };
            match SpoolReader::open(path) {
                Ok(reader) if reader.header().id == self.id => {
                    self.reading = self.files.pop_front().map(|path| (path, reader));
                }
                Ok(_) => self.unreadable(w, "it is another process's"),
                Err(e @ (StorageError::Damaged { .. } | StorageError::Format { .. })) => {
                    self.unreadable(w, &e.to_string());
                }
                Err(e) if e.is_not_found() => drop(self.files.pop_front()),
                Err(e) => return Err(e),
            }
        }
    }

    fn unreadable(&mut self, w: &mut RunWriter, what: &str) {
        if let Some(path) = self.files.pop_front() {
            self.set_aside(w, &path, what);
        }
    }

    /// Keeps a file for a look under a name that nobody imports again.
    fn set_aside(&self, w: &mut RunWriter, path: &Path, what: &str) {
        let kept = path.with_extension("spool.corrupt");
        if let Err(e) = std::fs::rename(path, &kept) {
            tracing::error!("keep {}: {e}", path.display());
        }
        self.problem(w, &format!("{what}; it is kept as {}", kept.display()));
    }

    fn problem(&self, w: &mut RunWriter, what: &str) {
        let what = format!("what {} left is damaged: {what}", self.id);
        tracing::error!("{what}");
        w.event(EventBody::Problem { what });
    }

    fn next_of_ring(&mut self, w: &mut RunWriter) -> Option<Vec<u8>> {
        if let Some(ring) = self.ring.take() {
            match Leftover::read(ring.as_fd()) {
                Ok(leftover) => {
                    if let Some(what) = &leftover.problem {
                        self.problem(w, what);
                    }
                    self.end = leftover.end;
                    self.rest = Some(Rest { leftover, from: 0 });
                }
                Err(e) => self.problem(w, &e.to_string()),
            }
        }
        let rest = self.rest.as_mut()?;
        let bytes = rest.leftover.records.get(rest.from..)?;
        let mut end = 0;
        while end < PIECE_BYTES
            && let Ok((head, _)) = RecordHead::split(&bytes[end..])
        {
            end += 4 + head.length;
        }
        rest.from += end;
        (end > 0).then(|| bytes[..end].to_vec())
    }

    /// Every number that the process gave is a record by now, or part of a gap.
    fn account(&mut self, w: &mut RunWriter) -> Result<(), StorageError> {
        let Leftover { last_seq, gap, .. } =
            self.rest.take().map(|r| r.leftover).unwrap_or_default();
        if let Some((first, last, _)) = gap {
            w.append_gap(self.writer, first.saturating_sub(1), LOST)?;
            w.append_gap(self.writer, last, RING_FULL)?;
        }
        // Without a ring the last word of the process tells what it had given.
        let given = last_seq.max(w.accepted_seq(self.writer));
        w.append_gap(self.writer, given, LOST)?;
        Ok(())
    }

    /// Removes what was taken in; everything in front of this call must be durable.
    pub(crate) fn remove_files(self) {
        for path in self.read {
            if let Err(e) = std::fs::remove_file(&path)
                && e.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!("remove {}: {e}", path.display());
            }
        }
    }
}

/// A process of which spool files are left, by the header of the first that can be read.
#[derive(Debug)]
pub(crate) struct Orphan {
    pub(crate) id: WriterId,
    pub(crate) host: String,
    pub(crate) pid: u32,
    /// When it wrote the last of them.
    lived: SystemTime,
    pub(crate) files: Vec<SpoolFile>,
}

impl Orphan {
    /// Whether its process has ended, as far as this host can tell.
    pub(crate) fn is_gone(&self) -> bool {
        host::is_gone(&self.host, self.pid, self.lived)
    }
}

/// Whoever left spool files in a run's folder, alive or not; files that tell nobody are left alone.
///
/// # Errors
/// When the folder can't be listed.
pub(crate) fn orphans(dir: &RunDir) -> Result<Vec<Orphan>, StorageError> {
    let mut found: Vec<Orphan> = Vec::new();
    for file in spool::files(dir)? {
        let written = std::fs::metadata(&file.path).and_then(|meta| meta.modified());
        // A file that went meanwhile was its process's to remove.
        let written = written.unwrap_or_else(|_gone| SystemTime::now());
        if let Some(known) = found.iter_mut().find(|orphan| orphan.id == file.id) {
            known.lived = known.lived.max(written);
            known.files.push(file);
            continue;
        }
        let header = SpoolReader::open(&file.path).map(|reader| reader.header().clone());
        let SpoolHeader { host, pid, .. } = match header {
            Ok(header) => header,
            Err(e) => {
                tracing::warn!("{e}");
                continue;
            }
        };
        found.push(Orphan {
            id: file.id,
            host,
            pid,
            lived: written,
            files: vec![file],
        });
    }
    Ok(found)
}
