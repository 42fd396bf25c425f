//! The sum of a range of rows: every series with buckets fine enough to zoom into, and a bounded number of them.

mod grouped;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::series::Series;
use crate::rows::Row;

/// Rows of a bucket, where a series has enough of them …
const BUCKET_ROWS: u64 = 256;
/// … and where it has fewer than would make the buckets of one chart.
const BUCKET_ROWS_MIN: u64 = 32;
/// Buckets of one chart.
const CHART_BUCKETS: u64 = 1024;
/// Buckets of all series of a sum; beyond that they become wider.
pub(super) const BUCKETS_MAX: usize = 1 << 19;
/// Buckets of one series within a run of rows that rise.
const RUN_BUCKETS: usize = 1 << 14;
/// Rows of such a run.
const RUN_ROWS: u64 = 1 << 18;

/// How many points without a step a series has in front of a range.
pub type Bases<'a> = &'a dyn Fn(&str, u32) -> u64;

/// Every series of a range of rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sum {
    /// First row.
    pub lo: u64,
    /// One past the last row.
    pub hi: u64,
    /// The last number of each (rank, attempt) among the rows.
    pub marks: BTreeMap<(u32, u32), u64>,
    /// Every series by name and rank.
    pub series: BTreeMap<Arc<str>, BTreeMap<u32, Series>>,
    /// How often the bound on buckets has halved their number.
    thin: u32,
}

impl Sum {
    /// A sum that was stored.
    #[must_use]
    pub fn new(lo: u64, hi: u64) -> Self {
        Self {
            lo,
            hi,
            ..Self::default()
        }
    }

    /// One series.
    #[must_use]
    pub fn get(&self, key: &str, rank: u32) -> Option<&Series> {
        self.series.get(key)?.get(&rank)
    }

    /// Every series with its name and rank.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, u32, &Series)> {
        self.series
            .iter()
            .flat_map(|(key, ranks)| ranks.iter().map(move |(&rank, series)| (key, rank, series)))
    }

    /// Takes in the sum of the rows behind these.
    pub fn append(&mut self, later: &Self) {
        self.hi = later.hi;
        for (&process, &seq) in &later.marks {
            mark(&mut self.marks, process, seq);
        }
        for (key, rank, series) in later.iter() {
            let ranks = self.series.entry(Arc::clone(key)).or_default();
            let mine = ranks.entry(rank).or_default();
            mine.merge(series);
            mine.keep(target(mine.totals.points, self.thin));
        }
        self.bound();
    }

    fn buckets(&self) -> usize {
        self.iter().map(|(_, _, s)| s.buckets().len()).sum()
    }

    /// Makes buckets wider until there are not too many of them.
    fn bound(&mut self) {
        while self.thin < 16 && self.buckets() > BUCKETS_MAX {
            self.thin += 1;
            for series in self.series.values_mut().flat_map(BTreeMap::values_mut) {
                series.keep(target(series.totals.points, self.thin));
            }
        }
    }
}

/// Buckets that a series of so many points is given.
fn target(points: u64, thin: u32) -> usize {
    let fine = points / BUCKET_ROWS;
    let few = (points / BUCKET_ROWS_MIN).min(CHART_BUCKETS);
    usize::try_from(fine.max(few) >> thin)
        .unwrap_or(usize::MAX)
        .max(2)
}

fn mark(marks: &mut BTreeMap<(u32, u32), u64>, process: (u32, u32), seq: u64) {
    let last = marks.entry(process).or_default();
    *last = seq.max(*last);
}

/// Adds rows up, one after the other; what it holds does not grow with their number.
pub struct Summing<'a> {
    sum: Sum,
    bases: Bases<'a>,
    run: Option<Run>,
    rows: u64,
    /// The process whose rows come just now, and the last number of it among them.
    process: Option<((u32, u32), u64)>,
    /// Buckets put in since they were counted last.
    new_buckets: usize,
}

/// Rows of one series whose steps rise.
struct Run {
    key: Arc<str>,
    rank: u32,
    series: Series,
    last: Option<i64>,
}

impl<'a> Summing<'a> {
    /// Nothing yet of the rows from `lo` on.
    #[must_use]
    pub fn new(lo: u64, bases: Bases<'a>) -> Self {
        Self {
            sum: Sum::new(lo, lo),
            bases,
            run: None,
            rows: 0,
            process: None,
            new_buckets: 0,
        }
    }

    /// Adds a row; it is cheapest where rows of one series follow each other by their steps.
    pub fn push(&mut self, row: &Row<'_>) {
        self.rows += 1;
        self.note(row);
        let goes_on = self.run.as_ref().is_some_and(|run| {
            *run.key == *row.key
                && run.rank == row.rank
                && run.last <= row.step
                && run.series.totals.points < RUN_ROWS
        });
        if !goes_on {
            self.end_run();
            self.run = Some(self.begin_run(row));
        }
        if let Some(run) = &mut self.run {
            run.series.push(row, RUN_BUCKETS);
            run.last = row.step;
        }
    }

    /// Adds a row of a table where series are mixed with each other.
    pub fn push_mixed(&mut self, row: &Row<'_>) {
        self.rows += 1;
        self.note(row);
        let ranks = match self.sum.series.get_mut(row.key) {
            Some(ranks) => ranks,
            None => self.sum.series.entry(Arc::from(row.key)).or_default(),
        };
        let bases = self.bases;
        let series = ranks.entry(row.rank);
        let series = series.or_insert_with(|| Series::behind(bases(row.key, row.rank)));
        let kept = (2 * target(series.totals.points, self.sum.thin)).max(RUN_BUCKETS / 4);
        series.push(row, kept);
        self.new_buckets += 1;
        if self.new_buckets > 4 * BUCKETS_MAX {
            self.settle();
        }
    }

    /// Notes how far the row's process has come.
    fn note(&mut self, row: &Row<'_>) {
        let process = (row.rank, row.attempt);
        match &mut self.process {
            Some((known, last)) if *known == process => *last = row.seq.max(*last),
            other => {
                if let Some((process, last)) = other.replace((process, row.seq)) {
                    mark(&mut self.sum.marks, process, last);
                }
            }
        }
    }

    /// The sum of all rows that were added.
    #[must_use]
    pub fn finish(mut self) -> Sum {
        if let Some((process, last)) = self.process.take() {
            mark(&mut self.sum.marks, process, last);
        }
        self.end_run();
        self.settle();
        self.sum.hi = self.sum.lo + self.rows;
        self.sum
    }

    fn begin_run(&self, row: &Row<'_>) -> Run {
        let known = self.sum.series.get_key_value(row.key);
        let before = known.and_then(|(_, ranks)| ranks.get(&row.rank));
        Run {
            key: known.map_or_else(|| Arc::from(row.key), |(key, _)| Arc::clone(key)),
            rank: row.rank,
            series: Series::behind(
                (self.bases)(row.key, row.rank)
                    .saturating_add(before.map_or(0, |s| s.totals.stepless)),
            ),
            last: None,
        }
    }

    fn end_run(&mut self) {
        let Some(mut run) = self.run.take() else {
            return;
        };
        let ranks = self.sum.series.entry(Arc::clone(&run.key)).or_default();
        let base = (self.bases)(&run.key, run.rank);
        let series = ranks
            .entry(run.rank)
            .or_insert_with(|| Series::behind(base));
        run.series
            .keep(target(run.series.totals.points, self.sum.thin));
        series.merge(&run.series);
        series.keep(target(series.totals.points, self.sum.thin));
        self.new_buckets += run.series.buckets().len();
        if self.new_buckets > BUCKETS_MAX / 4 {
            self.new_buckets = 0;
            self.sum.bound();
        }
    }

    fn settle(&mut self) {
        self.new_buckets = 0;
        let thin = self.sum.thin;
        for series in self.sum.series.values_mut().flat_map(BTreeMap::values_mut) {
            series.keep(target(series.totals.points, thin));
        }
        self.sum.bound();
    }
}
