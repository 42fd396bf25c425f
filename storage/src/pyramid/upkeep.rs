//! What a run's owner does for its sums: one beside every segment, one beside `metrics.parquet`.
//!
//! A sum is derived: whatever goes wrong with it is told and costs nothing else. Who reads the run adds the rows up.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::encode::encode;
use super::file::SumFile;
use super::sum::{Sum, Summing};
use crate::durable::Prepared;
use crate::error::{At, Result};
use crate::layout::RunDir;
use crate::lock::Fence;
use crate::reader::{Filter, chain};
use crate::rows::{Order, Rows};
use crate::scan::Sealed;
use crate::sealer::remove;

/// Fewer rows are added up in no time.
const ROWS_MIN: u64 = 1 << 16;
/// So many are added up again where their sum is missing; of more an older version's run has none.
const REMAKE_ROWS_MAX: u64 = 1 << 23;

/// Keeps the sums of one run.
#[derive(Debug)]
pub(crate) struct Upkeep {
    dir: RunDir,
    fence: Fence,
    rows_min: u64,
    /// Points without a step of every series that has such, in front of a row.
    stepless: Option<(u64, Stepless)>,
}

type Stepless = HashMap<(Arc<str>, u32), u64>;

impl Upkeep {
    /// Nothing is read before it is needed.
    pub(crate) fn new(dir: RunDir, fence: Fence) -> Self {
        Self {
            dir,
            fence,
            rows_min: ROWS_MIN,
            stepless: None,
        }
    }

    /// One that keeps sums of any size.
    #[cfg(test)]
    pub(crate) fn of_all(dir: RunDir, fence: Fence) -> Self {
        Self {
            rows_min: 1,
            ..Self::new(dir, fence)
        }
    }

    /// Writes the sum of the rows `[lo, hi)`, before their file gets its name.
    pub(crate) fn seal(&mut self, rows: &Rows, order: &Order, lo: u64, hi: u64) {
        if let Err(e) = self.try_seal(rows, order, lo, hi) {
            tracing::warn!("the sum of rows {lo} to {hi} is left out: {e}");
        }
    }

    fn try_seal(&mut self, rows: &Rows, order: &Order, lo: u64, hi: u64) -> Result<()> {
        let has_stepless = rows.has_stepless();
        if hi - lo < self.rows_min && !has_stepless {
            self.stepless = self.stepless.take().filter(|(at, _)| *at == lo);
            if let Some((at, _)) = &mut self.stepless {
                *at = hi;
            }
            return Ok(());
        }
        let known = match self.stepless.take() {
            Some((at, known)) if at == lo => Some(known),
            _ if lo == 0 || !has_stepless => Some(HashMap::new()),
            _ => self.up_to(lo)?.map(|sum| stepless(&sum)),
        };
        // Where points without a step stand is not known.
        let Some(mut known) = known else {
            return Ok(());
        };
        let sum = Sum::of(rows, order, lo, &|key, rank| {
            // Mostly every point has a step.
            if known.is_empty() {
                return 0;
            }
            known.get(&(Arc::from(key), rank)).copied().unwrap_or(0)
        });
        for (place, n) in stepless(&sum) {
            let known = known.entry(place).or_default();
            *known = known.saturating_add(n);
        }
        // Without points that have no step nothing was looked up, so nothing is known of those in front.
        if has_stepless || lo == 0 {
            self.stepless = Some((hi, known));
        }
        self.write(&sum)
    }

    /// Writes the sum of all rows that `metrics.parquet` is about to have.
    pub(crate) fn publish(&self, hi: u64) {
        if hi < self.rows_min || self.dir.sum(0, hi).exists() {
            return;
        }
        let written = self.up_to(hi).and_then(|sum| match sum {
            Some(sum) => self.write(&sum),
            None => Ok(()),
        });
        if let Err(e) = written {
            tracing::warn!("the sum of {hi} rows is left out: {e}");
        }
    }

    /// The sum of the first `hi` rows, all of which are sealed; none when it would cost too much.
    fn up_to(&self, hi: u64) -> Result<Option<Sum>> {
        let published = Sealed::open(&self.dir.metrics())?;
        let segments = self.dir.segments()?;
        let mut end = published.hi;
        let mut files = vec![published];
        for segment in chain(&segments, &mut end) {
            if segment.lo < hi {
                files.push(Sealed::open(&segment.path)?);
            }
        }
        let mut all = Sum::default();
        for sealed in files {
            let stored = SumFile::open(&self.dir.sum(all.hi, sealed.hi));
            let stored = stored.and_then(|sum| sum.load()).ok();
            let part = match stored.filter(|sum| sum.hi == sealed.hi && continues(&all, sum)) {
                Some(sum) => sum,
                None if sealed.rows() > REMAKE_ROWS_MAX => return Ok(None),
                None => remake(&sealed, &all)?,
            };
            if all.hi == 0 {
                all = part;
            } else {
                all.append(&part);
            }
        }
        Ok((all.hi == hi).then_some(all))
    }

    fn write(&self, sum: &Sum) -> Result<()> {
        if sum.hi - sum.lo < self.rows_min {
            return Ok(());
        }
        let path = self.dir.sum(sum.lo, sum.hi);
        let bytes = encode(sum).at("encode", &path)?;
        let next = Prepared::new(&path)?;
        FileExt::write_all_at(&next.file, &bytes, 0).at("write", &path)?;
        next.file.sync_data().at("sync", &path)?;
        // The rows of another owner may be others.
        self.fence.check()?;
        next.place()
    }

    /// Removes the sums of files that are gone; `hi` is what `metrics.parquet` reaches to.
    pub(crate) fn prune(&self, hi: u64) -> Result<()> {
        for stray in strays(&self.dir, hi)? {
            remove(&stray)?;
        }
        Ok(())
    }
}

/// Sums whose rows have no file of their own.
pub(crate) fn strays(dir: &RunDir, hi: u64) -> Result<Vec<PathBuf>> {
    let segments = dir.segments()?;
    let mut sums = dir.sums()?;
    sums.retain(|sum| {
        let is = |lo, hi| (sum.lo, sum.hi) == (lo, hi);
        !is(0, hi) && !segments.iter().any(|s| is(s.lo, s.hi))
    });
    Ok(sums.into_iter().map(|sum| sum.path).collect())
}

/// Makes a damaged sum again from the rows that it is of, if that costs little, and otherwise removes it.
pub(crate) fn mend(dir: &RunDir, path: &Path, fence: Fence) -> Result<()> {
    remove(path)?;
    let metrics = Sealed::open(&dir.metrics())?;
    if *path == dir.sum(0, metrics.hi) {
        Upkeep::new(dir.clone(), fence).publish(metrics.hi);
    }
    Ok(())
}

fn remake(sealed: &Sealed, before: &Sum) -> Result<Sum> {
    let bases = |key: &str, rank: u32| {
        let series = before.get(key, rank);
        series.map_or(0, |series| series.totals.stepless)
    };
    let mut summing = Summing::new(before.hi, &bases);
    sealed.each(&Filter::default(), |row| summing.push(row))?;
    let mut sum = summing.finish();
    sum.hi = sealed.hi;
    Ok(sum)
}

/// Whether a sum's points without a step stand behind those of the sum in front of it.
fn continues(before: &Sum, sum: &Sum) -> bool {
    sum.lo == before.hi
        && sum.iter().all(|(key, rank, series)| {
            let known = before.get(key, rank).map_or(0, |s| s.totals.stepless);
            series.totals.stepless == 0 || series.base() == known
        })
}

fn stepless(sum: &Sum) -> Stepless {
    let some = sum.series.iter().flat_map(|(key, ranks)| {
        ranks
            .iter()
            .map(move |(rank, series)| ((Arc::clone(key), *rank), series.totals.stepless))
    });
    some.filter(|(_, n)| *n > 0).collect()
}
