//! The sealed rows of a run through their sums: opened at once, and read where a chart needs it finer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use super::file::SumFile;
use super::made::{Made, MadeSums, stamp};
use super::part::{Part, PartSum, Source};
use super::series::{EVERYWHERE, Series, Totals, aligned};
use super::sum::{Sum, Summing};
use crate::catalog::RunEntry;
use crate::error::{At, Result};
use crate::legacy;
use crate::reader::Filter;
use crate::rows::Row;
use crate::scan::Sealed;

/// Where a sum is too coarse for a chart, the rows of a series are read if there are at most so many …
const ROWS_MAX: u64 = 1 << 17;
/// … and of all series of a question at most so many.
const ROWS_TOTAL: u64 = 1 << 22;

/// Which series, and how fine.
#[derive(Debug, Clone)]
pub struct Want<'a> {
    /// Their names.
    pub keys: &'a HashSet<String>,
    /// Their ranks; none: all.
    pub ranks: Option<&'a HashSet<u32>>,
    /// Steps, and places of points that have none. Buckets that overlap it are whole.
    pub range: RangeInclusive<i64>,
    /// Buckets of each series that a chart has room for.
    pub max: usize,
}

impl Want<'_> {
    pub(super) fn has(&self, rank: u32) -> bool {
        self.ranks.is_none_or(|ranks| ranks.contains(&rank))
    }
}

/// Series by name and rank.
pub type Found = BTreeMap<Arc<str>, BTreeMap<u32, Series>>;

/// All sealed rows of a run at one moment.
#[derive(Debug, Default)]
pub struct View {
    parts: Vec<Part>,
    /// How many rows they are.
    pub hi: u64,
    /// What was found damaged, in words.
    pub problems: Vec<String>,
    /// Points without a step of series that have such.
    stepless: HashMap<(Arc<str>, u32), u64>,
    made: Arc<MadeSums>,
}

impl View {
    /// No rows yet; sums that must be made are looked up in `made` first.
    pub(super) fn new(made: &Arc<MadeSums>) -> Self {
        Self {
            made: Arc::clone(made),
            ..Self::default()
        }
    }

    /// Points without a step of a series.
    #[must_use]
    pub fn stepless(&self, key: &str, rank: u32) -> u64 {
        if self.stepless.is_empty() {
            return 0;
        }
        let known = self.stepless.get(&(Arc::from(key), rank));
        known.copied().unwrap_or(0)
    }

    /// Adds a file of rows behind what is there, with the sum at `path` or one that is made now.
    pub(super) fn add(&mut self, sealed: Sealed, path: &Path) -> Result<()> {
        let (lo, hi) = (self.hi, sealed.hi);
        let sum = match SumFile::open(path) {
            Ok(sum) if (sum.lo, sum.hi) == (lo, hi) && self.continues(&sum) => PartSum::Stored(sum),
            Ok(_) => {
                self.problems.push(format!(
                    "{} is the sum of other rows; theirs are added up anew",
                    path.display()
                ));
                PartSum::Made(self.make(&sealed)?)
            }
            Err(e) => {
                if !e.is_not_found() {
                    self.problems
                        .push(format!("{e}; its rows are added up anew"));
                }
                PartSum::Made(self.make(&sealed)?)
            }
        };
        self.push(sum, Source::Sealed(Arc::new(sealed)));
        self.hi = hi;
        Ok(())
    }

    /// Adds the rows of another tool's run.
    pub(super) fn add_foreign(&mut self, run: &RunEntry) -> Result<()> {
        let stamp = legacy::stamp(run)?;
        let made = self.made.get(stamp, || {
            let mut summing = Summing::new(0, &|_, _| 0);
            let problems = legacy::each_row(run, &Filter::default(), &mut |row| {
                summing.push_mixed(row);
            })?;
            Ok((summing.finish(), problems))
        })?;
        self.problems.extend(made.problems.iter().cloned());
        self.hi = made.sum.hi;
        self.push(PartSum::Made(made), Source::Foreign(Box::new(run.clone())));
        Ok(())
    }

    fn make(&self, sealed: &Sealed) -> Result<Arc<Made>> {
        let meta = sealed.file().metadata().at("stat", sealed.path())?;
        let mut id = vec![stamp(&meta)];
        // Another number of rows in front moves the places of points without a step.
        let mut bases: Vec<_> = self.stepless.iter().collect();
        bases.sort();
        id.extend(bases.iter().map(|((key, rank), n)| {
            let name = u64::from(crc32c::crc32c(key.as_bytes()));
            (name, u64::from(*rank), **n, 0, 0)
        }));
        self.made.get(id, || Ok((self.sum_of(sealed)?, Vec::new())))
    }

    /// Adds up the rows of a file that continues this view.
    pub(super) fn sum_of(&self, sealed: &Sealed) -> Result<Sum> {
        let bases = |key: &str, rank| self.stepless(key, rank);
        let mut summing = Summing::new(self.hi, &bases);
        sealed.each(&Filter::default(), |row| summing.push(row))?;
        let mut sum = summing.finish();
        sum.hi = sealed.hi;
        Ok(sum)
    }

    /// Whether the places of a sum's points without a step are those behind this view.
    fn continues(&self, sum: &SumFile) -> bool {
        let mut all = sum
            .series
            .iter()
            .flat_map(|(key, ranks)| ranks.iter().map(move |(rank, stored)| (key, *rank, stored)));
        all.all(|(key, rank, stored)| {
            stored.totals.stepless == 0 || stored.base == self.stepless(key, rank)
        })
    }

    fn push(&mut self, sum: PartSum, rows: Source) {
        let part = Part::new(sum, rows);
        part.each(|key, rank, totals| {
            if totals.stepless > 0 {
                let known = self.stepless.entry((Arc::clone(key), rank)).or_default();
                *known = known.saturating_add(totals.stepless);
            }
        });
        self.parts.push(part);
    }

    /// The last number of each (rank, attempt) among the rows.
    #[must_use]
    pub fn marks(&self) -> HashMap<(u32, u32), u64> {
        let mut marks: HashMap<(u32, u32), u64> = HashMap::new();
        for part in &self.parts {
            let own = match &part.sum {
                PartSum::Stored(sum) => &sum.marks,
                PartSum::Made(made) => &made.sum.marks,
            };
            for (&process, &seq) in own {
                let last = marks.entry(process).or_default();
                *last = seq.max(*last);
            }
        }
        marks
    }

    /// What every series amounts to.
    #[must_use]
    pub fn totals(&self) -> BTreeMap<Arc<str>, BTreeMap<u32, Totals>> {
        let mut all: BTreeMap<Arc<str>, BTreeMap<u32, Totals>> = BTreeMap::new();
        for part in &self.parts {
            part.each(|key, rank, totals| {
                let ranks = all.entry(Arc::clone(key)).or_default();
                ranks.entry(rank).or_default().merge(totals);
            });
        }
        all
    }

    /// Series with buckets as fine as a chart shows, or as fine as there are.
    ///
    /// # Errors
    /// When a file can't be read, or is damaged.
    pub fn series(&self, want: &Want<'_>) -> Result<Found> {
        let mut found = self.sums(want)?;
        let mut exact = too_coarse(want, &found);
        if !exact.is_empty() {
            self.read(want, &mut exact)?;
            for (key, ranks) in exact {
                let own = found.entry(key).or_default();
                for (rank, mut series) in ranks {
                    // What was read may be a part of the series.
                    if let Some(known) = own.get(&rank) {
                        series.totals = known.totals.clone();
                    }
                    own.insert(rank, series);
                }
            }
        }
        Ok(found)
    }

    /// What the sums tell. Parts may have buckets of different widths, and the widest ones decide how far those at
    /// the ends of the range reach, so it is asked again until all of them reach as far.
    fn sums(&self, want: &Want<'_>) -> Result<Found> {
        let mut wider = want.clone();
        loop {
            let mut found = Found::new();
            for part in &self.parts {
                part.load_all(&wider, &mut found)?;
            }
            let series = found.values().flat_map(BTreeMap::values);
            let shift = series.map(Series::shift).max().unwrap_or(0);
            let range = aligned(&want.range, shift);
            if range.start() < wider.range.start() || range.end() > wider.range.end() {
                wider.range = range;
                continue;
            }
            if wider.range != want.range {
                for series in found.values_mut().flat_map(BTreeMap::values_mut) {
                    series.cut(&want.range);
                }
            }
            return Ok(found);
        }
    }

    fn read(&self, want: &Want<'_>, exact: &mut Found) -> Result<()> {
        let has_stepless = exact.iter().any(|(key, ranks)| {
            let mut ranks = ranks.keys();
            ranks.any(|rank| self.stepless(key, *rank) > 0)
        });
        let bounded = want.range != EVERYWHERE && !has_stepless;
        let filter = Filter {
            keys: Some(exact.keys().map(|key| key.as_ref().to_owned()).collect()),
            ranks: Some(exact.values().flat_map(BTreeMap::keys).copied().collect()),
            since_step: bounded.then_some(*want.range.start()),
            until_step: bounded.then_some(*want.range.end()),
        };
        for part in &self.parts {
            let mut each = |row: &Row<'_>| {
                let ranks = exact.get_mut(row.key);
                if let Some(series) = ranks.and_then(|ranks| ranks.get_mut(&row.rank)) {
                    series.push_within(row, &want.range, 4 * want.max);
                }
            };
            match &part.rows {
                Source::Sealed(sealed) => sealed.each(&filter, each)?,
                Source::Foreign(run) => drop(legacy::each_row(run, &filter, &mut each)?),
            }
        }
        Ok(())
    }

    /// Whether it is a run of this project.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        let foreign = |part: &Part| matches!(part.rows, Source::Foreign(_));
        !self.parts.iter().any(foreign)
    }
}

/// The series whose rows show more than their sum, and are few enough.
fn too_coarse(want: &Want<'_>, found: &Found) -> Found {
    let mut coarse = Vec::new();
    for (key, ranks) in found {
        for (rank, series) in ranks {
            let rows: u64 = if want.range == EVERYWHERE {
                series.totals.points
            } else {
                let counts = series.buckets().iter().map(|b| b.n);
                counts.fold(0, u64::saturating_add)
            };
            let rows = rows.max(series.totals.stepless);
            if series.shift() > 0 && series.buckets().len() < want.max / 2 && rows <= ROWS_MAX {
                coarse.push((rows, key, *rank));
            }
        }
    }
    coarse.sort();
    let mut exact = Found::new();
    let mut total = 0;
    for (rows, key, rank) in coarse {
        total += rows;
        if total > ROWS_TOTAL {
            break;
        }
        let ranks = exact.entry(Arc::clone(key)).or_default();
        ranks.insert(rank, Series::default());
    }
    exact
}
