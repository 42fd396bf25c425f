//! Reading a run's metric rows as they stand now: the published file, then segments, then commit logs.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;

use crate::durable;
use crate::error::{Result, StorageError};
use crate::layout::{RunDir, SegmentFile};
use crate::rows::{Row, Rows};
use crate::scan::{self, Sealed};
use crate::wal::{Frame, Next, WRONG_LENGTH, WalReader};

/// How often a snapshot starts again when files move under it.
pub(crate) const ATTEMPTS: u32 = 8;
/// How long it waits in between.
pub(crate) const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// Which rows are wanted; the default is all of them.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only these names.
    pub keys: Option<HashSet<String>>,
    /// Only these ranks.
    pub ranks: Option<HashSet<u32>>,
    /// Only steps from here on; rows without a step are left out.
    pub since_step: Option<i64>,
    /// Only steps up to here; rows without a step are left out.
    pub until_step: Option<i64>,
}

impl Filter {
    /// Whether a row is wanted.
    #[must_use]
    pub fn admits(&self, row: &Row<'_>) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.contains(row.key))
            && self
                .ranks
                .as_ref()
                .is_none_or(|ranks| ranks.contains(&row.rank))
            && self
                .since_step
                .is_none_or(|since| row.step.is_some_and(|step| step >= since))
            && self
                .until_step
                .is_none_or(|until| row.step.is_some_and(|step| step <= until))
    }

    /// Whether steps matter.
    #[must_use]
    pub const fn has_steps(&self) -> bool {
        self.since_step.is_some() || self.until_step.is_some()
    }
}

/// The rows of a run at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// The wanted rows: published ones by (key, rank, step), later ones in order of arrival.
    pub rows: Rows,
    /// How many rows the run had, wanted or not.
    pub total: u64,
    /// The log that is being written, standing behind the snapshot's last frame; `None` when the run is closed.
    pub log: Option<WalReader>,
    /// What was found damaged and left out.
    pub problems: Vec<String>,
}

/// Whether a row is to be kept.
pub(crate) type Keep<'a> = &'a dyn Fn(&Row<'_>) -> bool;

/// Reads the rows of a run that may be growing.
///
/// # Errors
/// When a file can't be read or is damaged, or rows are missing between two files.
pub fn snapshot(dir: &RunDir, filter: &Filter) -> Result<Snapshot> {
    snapshot_where(dir, filter, &|_| true)
}

/// [`snapshot`] of the rows that `keep` admits, too; no others are held in memory.
pub(crate) fn snapshot_where(dir: &RunDir, filter: &Filter, keep: Keep<'_>) -> Result<Snapshot> {
    let mut attempt = 1;
    loop {
        match try_snapshot(dir, filter, keep) {
            Err(e)
                if attempt < ATTEMPTS
                    && (e.is_not_found() || matches!(e, StorageError::MissingRows { .. })) =>
            {
                attempt += 1;
                std::thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
}

fn try_snapshot(dir: &RunDir, filter: &Filter, keep: Keep<'_>) -> Result<Snapshot> {
    let mut rows = Rows::default();
    let (total, log, problems) = Files::open(dir)?.each(filter, |row| {
        if keep(row) {
            rows.push_row(row);
        }
    })?;
    Ok(Snapshot {
        rows,
        total,
        log,
        problems,
    })
}

/// The open files of a run at one moment, which stay readable whatever happens to their names.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) dir: RunDir,
    /// The published rows, then those of segments that continue them.
    pub(crate) sealed: Vec<Sealed>,
    /// Commit logs, some of which may be older than what is sealed.
    pub(crate) logs: Vec<(u64, WalReader)>,
}

impl Files {
    /// Rows only move from logs to segments to the published file, so the files are opened in this order: what moved
    /// meanwhile is found where it went, and what is open stays readable when it is removed.
    pub(crate) fn open(dir: &RunDir) -> Result<Self> {
        let logs = open_logs(dir)?;
        let mut segments = HashMap::new();
        let known = dir.segments()?;
        for segment in &known {
            segments.insert(&segment.path, durable::open_read(&segment.path)?);
        }
        let metrics = match Sealed::open(&dir.metrics()) {
            Err(e) if e.is_not_found() => {
                return Err(StorageError::NoRun {
                    path: dir.root().to_owned(),
                });
            }
            metrics => metrics?,
        };
        let mut end = metrics.hi;
        let mut sealed = vec![metrics];
        for next in chain(&known, &mut end) {
            if let Some(file) = segments.remove(&next.path) {
                sealed.push(Sealed::of(file, &next.path)?);
            }
        }
        Ok(Self {
            dir: dir.clone(),
            sealed,
            logs,
        })
    }

    /// [`Files::open`], tried again while files move.
    pub(crate) fn settled(dir: &RunDir) -> Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::open(dir) {
                Err(e) if attempt < ATTEMPTS && e.is_not_found() => {
                    attempt += 1;
                    std::thread::sleep(PAUSE);
                }
                done => return done,
            }
        }
    }

    /// Hands over every wanted row, and returns how many the run has, the log that is being written, and what was
    /// found damaged and left out.
    pub(crate) fn each(
        self,
        filter: &Filter,
        mut each: impl FnMut(&Row<'_>),
    ) -> Result<(u64, Option<WalReader>, Vec<String>)> {
        let mut end = 0;
        for sealed in &self.sealed {
            sealed.each(filter, &mut each)?;
            end = sealed.hi;
        }
        let mut problems = Vec::new();
        let mut batch = |rows: &Rows| {
            let wanted = rows.iter().filter(|row| filter.admits(row));
            wanted.for_each(|row| each(&row));
        };
        let log = read_logs(&self.dir, self.logs, &mut end, &mut problems, &mut batch)?;
        Ok((end, log, problems))
    }
}

/// Every row from `from` on, which is where the commit logs begin.
pub(crate) fn unsealed(dir: &RunDir, from: u64) -> Result<Rows> {
    let mut rows = Rows::default();
    let mut end = from;
    let logs = open_logs(dir)?;
    read_logs(dir, logs, &mut end, &mut Vec::new(), &mut |batch| {
        rows.extend(batch);
    })?;
    Ok(rows)
}

pub(crate) fn open_logs(dir: &RunDir) -> Result<Vec<(u64, WalReader)>> {
    let logs = dir.wals()?;
    logs.into_iter()
        .map(|log| Ok((log.lo, WalReader::open(&log.path)?)))
        .collect()
}

/// Reads the logs that begin at `end` or behind it, and returns the last one.
pub(crate) fn read_logs(
    dir: &RunDir,
    mut logs: Vec<(u64, WalReader)>,
    end: &mut u64,
    problems: &mut Vec<String>,
    each: &mut dyn FnMut(&Rows),
) -> Result<Option<WalReader>> {
    let sealed = *end;
    logs.retain(|(lo, _)| *lo >= sealed);
    let starts: Vec<u64> = logs.iter().map(|(lo, _)| *lo).collect();
    let mut last = None;
    for (n, (lo, mut reader)) in logs.into_iter().enumerate() {
        if lo != *end {
            return Err(StorageError::MissingRows {
                path: dir.root().to_owned(),
                from: *end,
                to: lo,
            });
        }
        // A log that was given up may hold more than the next one begins behind: that is in the next one, too.
        let limit = starts.get(n + 1).map_or(u64::MAX, |next| next - lo);
        *end += drain(&mut reader, problems, limit, each)?;
        last = Some(reader);
    }
    Ok(last)
}

/// The paths of the segments that continue the published rows.
pub(crate) fn segment_chain(dir: &RunDir, end: &mut u64) -> Result<Vec<PathBuf>> {
    let segments = dir.segments()?;
    let links = chain(&segments, end);
    Ok(links.iter().map(|s| s.path.clone()).collect())
}

/// Segments that continue the rows up to `end`, the longest first where two start at one row.
pub(crate) fn chain<'a>(segments: &'a [SegmentFile], end: &mut u64) -> Vec<&'a SegmentFile> {
    let mut found = Vec::new();
    while let Some(next) = segments
        .iter()
        .filter(|s| s.lo == *end && s.hi > s.lo)
        .max_by_key(|s| s.hi)
    {
        found.push(next);
        *end = next.hi;
    }
    found
}

/// Hands over every whole frame that a log has now, as long as they hold at most `limit` rows, and returns how many.
pub(crate) fn drain(
    reader: &mut WalReader,
    problems: &mut Vec<String>,
    limit: u64,
    each: &mut dyn FnMut(&Rows),
) -> Result<u64> {
    let mut seen = 0;
    let mut looked_behind = None;
    loop {
        let offset = reader.offset();
        match reader.next_frame()? {
            Ok(Frame::Batch(batch)) => {
                let n = batch.rows.len() as u64;
                if seen + n > limit {
                    return Ok(seen);
                }
                seen += n;
                each(&batch.rows);
            }
            Ok(Frame::Header(_) | Frame::Writer(_)) => {}
            Err(Next::End) if !reader.frame_behind(offset)? => return Ok(seen),
            // Its owner may have finished it between the two looks.
            Err(Next::End) if looked_behind != Some(offset) => looked_behind = Some(offset),
            Err(end) => {
                let what = match &end {
                    Next::Bad(what) => what,
                    Next::End => WRONG_LENGTH,
                };
                problems.push(format!(
                    "{} is damaged at byte {offset}: {what}",
                    reader.path().display(),
                ));
                return Ok(seen);
            }
        }
    }
}

/// Adds the wanted rows of a batch.
pub(crate) fn add_batch(
    path: &Path,
    batch: &RecordBatch,
    filter: &Filter,
    rows: &mut Rows,
) -> Result<()> {
    scan::each_row(path, batch, |row| {
        if filter.admits(row) {
            rows.push_row(row);
        }
    })
}
