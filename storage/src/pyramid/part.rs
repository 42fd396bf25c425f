//! A piece of a run's sealed rows: the sum that charts are made from, and the rows themselves.

use std::sync::{Arc, OnceLock};

use super::file::{Stored, SumFile};
use super::made::Made;
use super::series::{Bucket, Series, Totals, coarser, shift_for};
use super::sum::{Sum, Summing};
use super::view::{Found, Want};
use crate::catalog::RunEntry;
use crate::error::{Result, StorageError};
use crate::reader::Filter;
use crate::scan::Sealed;

/// One file of sealed rows, or all files of another tool's run.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) sum: PartSum,
    pub(super) rows: Source,
    /// Made when the stored sum was found damaged behind its head.
    mended: OnceLock<Arc<Made>>,
}

/// What the rows amount to.
#[derive(Debug)]
pub(super) enum PartSum {
    Stored(SumFile),
    Made(Arc<Made>),
}

/// Where the rows are.
#[derive(Debug)]
pub(super) enum Source {
    Sealed(Arc<Sealed>),
    Foreign(Box<RunEntry>),
}

impl Part {
    pub(super) fn new(sum: PartSum, rows: Source) -> Self {
        Self {
            sum,
            rows,
            mended: OnceLock::new(),
        }
    }

    /// What every series amounts to here.
    pub(super) fn each(&self, mut each: impl FnMut(&Arc<str>, u32, &Totals)) {
        match &self.sum {
            PartSum::Stored(sum) => {
                for (key, ranks) in &sum.series {
                    for (rank, stored) in ranks {
                        each(key, *rank, &stored.totals);
                    }
                }
            }
            PartSum::Made(made) => {
                for (key, rank, series) in made.sum.iter() {
                    each(key, rank, &series.totals);
                }
            }
        }
    }

    /// Adds this part's buckets.
    pub(super) fn load_all(&self, want: &Want<'_>, found: &mut Found) -> Result<()> {
        let mut loaded = Vec::new();
        for key in want.keys {
            match self.load(key, want) {
                Ok(own) => loaded.extend(own),
                Err(e) if matches!(e, StorageError::Damaged { .. }) => {
                    tracing::warn!("{e}; its rows are added up anew");
                    let made = self.mend()?;
                    loaded.clear();
                    for key in want.keys {
                        loaded.extend(load_made(&made.sum, key, want));
                    }
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        for (key, rank, totals, shift, buckets) in loaded {
            let own = found.entry(key).or_default();
            let own = own.entry(rank).or_default();
            own.totals.merge(&totals);
            own.merge_buckets(shift, &buckets);
        }
        Ok(())
    }

    fn load(&self, key: &str, want: &Want<'_>) -> Result<Vec<Loaded>> {
        let sum = match (&self.sum, self.mended.get()) {
            (_, Some(made)) | (PartSum::Made(made), None) => {
                return Ok(load_made(&made.sum, key, want));
            }
            (PartSum::Stored(sum), None) => sum,
        };
        let Some((key, ranks)) = sum.series.get_key_value(key) else {
            return Ok(Vec::new());
        };
        let ranks = ranks.iter().filter(|(rank, _)| want.has(**rank));
        let load = |(&rank, stored): (&u32, &Stored)| {
            let (shift, buckets) = sum.buckets(stored, &want.range, want.max)?;
            let (shift, buckets) = enough(shift, &buckets, want.max);
            let totals = stored.totals.clone();
            Ok((Arc::clone(key), rank, totals, shift, buckets))
        };
        ranks.map(load).collect()
    }

    /// The sum of the rows, though the stored one is damaged; its head is whole and knows what stands in front.
    fn mend(&self) -> Result<Arc<Made>> {
        if let Some(made) = self.mended.get() {
            return Ok(Arc::clone(made));
        }
        let (PartSum::Stored(stored), Source::Sealed(sealed)) = (&self.sum, &self.rows) else {
            return Ok(Arc::default());
        };
        let bases = |key: &str, rank: u32| {
            let series = stored.series.get(key).and_then(|ranks| ranks.get(&rank));
            series.map_or(0, |series| series.base)
        };
        let mut summing = Summing::new(stored.lo, &bases);
        sealed.each(&Filter::default(), |row| summing.push(row))?;
        let made = Arc::new(Made::new(summing.finish(), Vec::new()));
        Ok(Arc::clone(self.mended.get_or_init(|| made)))
    }
}

/// Buckets of one series in one part: name, rank, totals, width.
type Loaded = (Arc<str>, u32, Totals, u32, Vec<Bucket>);

/// No more than a chart makes use of, though other parts may have wider ones.
fn enough(shift: u32, buckets: &[Bucket], max: usize) -> (u32, Vec<Bucket>) {
    let wider = shift_for(buckets, shift, 2 * max.max(8));
    (wider, coarser(buckets, wider - shift))
}

fn load_made(sum: &Sum, key: &str, want: &Want<'_>) -> Vec<Loaded> {
    let Some((key, ranks)) = sum.series.get_key_value(key) else {
        return Vec::new();
    };
    let ranks = ranks.iter().filter(|(rank, _)| want.has(**rank));
    let load = |(&rank, series): (&u32, &Series)| {
        let shift = series.shift();
        let (from, to) = (want.range.start() >> shift, want.range.end() >> shift);
        let buckets = series.buckets();
        let first = buckets.partition_point(|b| b.index < from);
        let last = buckets.partition_point(|b| b.index <= to);
        let (shift, buckets) = enough(shift, &buckets[first..last], want.max);
        (Arc::clone(key), rank, series.totals.clone(), shift, buckets)
    };
    ranks.map(load).collect()
}
