//! The table of a run that has ended, in parts: each has the calls of some steps, read when it is made, so that a long
//! run needs no more memory than a short one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;

use super::Wide;
use super::layout::{Kinds, Layout, is_exact};
use crate::error::{At, Result, StorageError};
use crate::guard::guarded;
use crate::reader::{Files, Filter, add_batch};
use crate::rows::Rows;
use crate::scan::{Group, Sealed};

/// Rows of a part, at least.
const PART_ROWS: u64 = 1 << 17;
/// So many times its rows may be read: pages at the edges of parts are read for both.
const TIMES_MAX: u64 = 3;

/// See the module.
#[derive(Debug)]
pub(crate) struct Parts {
    files: Vec<Sealed>,
    /// Of each part, whose steps follow those of the part before.
    filters: Vec<Filter>,
    /// Rows of all files.
    rows: u64,
    layout: Arc<Layout>,
}

impl Parts {
    /// `None` where the table can't be made in parts that follow each other: while rows are in the log, where a call has
    /// no step, where whole numbers are too large to tell a column's type from their kind, or where steps are spread
    /// over all files; and where there would be one part only.
    pub(crate) fn of(files: Files, filter: &Filter) -> Result<Option<Self>> {
        Self::cut(files, filter, PART_ROWS)
    }

    fn cut(files: Files, filter: &Filter, part_rows: u64) -> Result<Option<Self>> {
        let is_sure = filter.ranks.is_none() && !filter.has_steps();
        if !files.logs.is_empty() || !is_sure {
            return Ok(None);
        }
        let files = files.sealed;
        let groups: Vec<Vec<Group>> = files.iter().map(Sealed::groups).collect();
        let all = || groups.iter().flatten();
        let Some(cuts) = cuts(all(), part_rows) else {
            return Ok(None);
        };
        let are_exact = all().all(|g| {
            g.ints
                .is_some_and(|(least, most)| is_exact(least) && is_exact(most))
        });
        let Some(attempts) = all().map(|g| g.attempts).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let filters: Vec<Filter> = (0..=cuts.len())
            .map(|part| Filter {
                since_step: part.checked_sub(1).map(|before| cuts[before]),
                until_step: cuts.get(part).map(|next| next - 1),
                ..filter.clone()
            })
            .collect();
        // Whether the wanted rows have later attempts, when not all are wanted, only they tell.
        let has_attempts = attempts.iter().any(|span| *span != (0, 0));
        let is_sure = are_exact && (!has_attempts || filter.keys.is_none());
        let rows = all().map(|group| group.rows).sum();
        if cuts.is_empty() || !is_sure || !is_worth_it(&files, &filters, rows)? {
            return Ok(None);
        }
        let mut metrics: BTreeMap<String, Kinds> = BTreeMap::new();
        for (file, groups) in files.iter().zip(&groups) {
            for (number, group) in groups.iter().enumerate() {
                file.kinds(number, group, |name, kind| {
                    let is_wanted = filter.keys.as_ref().is_none_or(|keys| keys.contains(name));
                    match metrics.get_mut(name) {
                        Some(kinds) => kinds.add(kind),
                        None if is_wanted => {
                            metrics.entry(name.to_owned()).or_default().add(kind);
                        }
                        None => {}
                    }
                })?;
            }
        }
        let metrics = metrics.iter().map(|(name, kinds)| (&**name, *kinds));
        let layout = Arc::new(Layout::new(&metrics.collect(), has_attempts));
        Ok(Some(Self {
            files,
            filters,
            rows,
            layout,
        }))
    }

    /// The columns.
    pub(crate) const fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.filters.len()
    }

    /// Hands over one of them, for `out`, piece by piece, until `give` says that no more is wanted. Returns how many
    /// rows of the files it has.
    pub(crate) fn part(
        &self,
        at: usize,
        out: &Path,
        give: &mut dyn FnMut(Result<RecordBatch>) -> bool,
    ) -> u64 {
        let rows = match self.rows_of(at) {
            Ok(rows) => rows,
            Err(e) => {
                give(Err(e));
                return 0;
            }
        };
        let wide = Wide::with(&rows, Arc::clone(&self.layout));
        let mut pieces = 0..wide.pieces();
        pieces.all(|piece| give(wide.piece(piece).at("encode", out)));
        rows.len() as u64
    }

    fn rows_of(&self, at: usize) -> Result<Rows> {
        let filter = &self.filters[at];
        let mut rows = Rows::default();
        for file in &self.files {
            let path = file.path();
            guarded(path, || {
                let mut batches = file.batches(filter)?;
                batches.try_for_each(|b| add_batch(path, &b.at("read", path)?, filter, &mut rows))
            })?;
        }
        Ok(rows)
    }

    /// Whether all parts together had all rows: what statistics say wrongly is not to go without a word.
    ///
    /// # Errors
    /// When some did not.
    pub(crate) fn check(&self, read: u64) -> Result<()> {
        let are_some_wanted = self.filters.iter().any(|filter| filter.keys.is_some());
        match self.files.last() {
            Some(last) if !are_some_wanted && read != self.rows => Err(StorageError::Damaged {
                path: last.path().to_owned(),
                offset: 0,
                what: format!("{read} of {} rows are where its statistics say", self.rows),
            }),
            _ => Ok(()),
        }
    }
}

/// The first steps of all parts but the first; `None` where some call may have no step.
fn cuts<'a>(groups: impl Iterator<Item = &'a Group>, part_rows: u64) -> Option<Vec<i64>> {
    let firsts: Option<Vec<_>> = groups.map(|g| Some((g.steps?.0, g.rows))).collect();
    let mut firsts = firsts?;
    firsts.sort_unstable();
    let mut cuts = Vec::new();
    let (mut rows, mut last) = (0, firsts.first()?.0);
    for (step, more) in firsts {
        if rows >= part_rows && step > last {
            cuts.push(step);
            (rows, last) = (0, step);
        }
        rows += more;
    }
    Some(cuts)
}

fn is_worth_it(files: &[Sealed], filters: &[Filter], rows: u64) -> Result<bool> {
    let mut touched = 0;
    for filter in filters {
        for file in files {
            touched += file.touched(filter)?;
        }
    }
    Ok(touched <= TIMES_MAX * rows)
}

#[cfg(test)]
mod tests {
    use arrow::compute::concat_batches;
    use expman_model::record::ValueRef;
    use proptest::prelude::*;

    use super::*;
    use crate::layout::RunDir;
    use crate::rows::Row;
    use crate::segment::{splice, write_sorted};
    use crate::{durable, snapshot};

    const OUT: &str = "out";

    /// Step, rank, points.
    type Call = (Option<i64>, u32, Vec<(u8, i64)>);

    /// A closed run of these calls, a row group for every few of them.
    fn lay(base: &Path, calls: &[Call], few: usize) -> RunDir {
        let dir = RunDir::under(base, "e", "r").unwrap();
        durable::create_dir(&dir.hidden()).unwrap();
        let (mut seq, mut hi) = (0_u64, 0);
        let mut files = Vec::new();
        for calls in calls.chunks(few.max(1)) {
            let mut rows = Rows::default();
            for (step, rank, points) in calls {
                seq += 1;
                for (name, n) in points {
                    let value = match name % 4 {
                        0 => ValueRef::Int(*n),
                        1 if n % 2 == 0 => ValueRef::Text("even"),
                        _ => ValueRef::Float(0.5),
                    };
                    rows.push_row(&Row {
                        key: &format!("n{name}"),
                        rank: *rank,
                        step: *step,
                        timestamp_us: seq.cast_signed(),
                        attempt: rank / 3,
                        seq,
                        value,
                    });
                }
            }
            hi += rows.len() as u64;
            let file = base.join(format!("{}.parquet", files.len()));
            write_sorted(&file, &rows, hi).unwrap();
            files.push(file);
        }
        let files: Vec<&Path> = files.iter().map(|file| &**file).collect();
        splice(&dir.metrics(), &files, hi).unwrap();
        dir
    }

    fn only(name: &str) -> Filter {
        Filter {
            keys: Some([name.to_owned()].into()),
            ..Filter::default()
        }
    }

    /// Whether the run came in parts, which then are the table.
    fn is_same_in_parts(dir: &RunDir, filter: &Filter) -> bool {
        let files = Files::settled(dir).unwrap();
        let Some(parts) = Parts::cut(files, filter, 20).unwrap() else {
            return false;
        };
        let rows = snapshot(dir, filter).unwrap().rows;
        let wide = Wide::new(&rows);
        let layout = parts.layout();
        assert_eq!(&layout.schema, wide.schema());
        let mut made = Vec::new();
        let mut take = |piece: Result<RecordBatch>| {
            made.push(piece.unwrap());
            true
        };
        let read = (0..parts.len()).map(|at| parts.part(at, Path::new(OUT), &mut take));
        parts.check(read.sum()).unwrap();
        let made = concat_batches(&layout.schema, &made).unwrap();
        assert_eq!(made, wide.batch(0..wide.len()).unwrap());
        true
    }

    /// Calls whose steps rise, now and then not.
    fn some_calls() -> impl Strategy<Value = Vec<Call>> {
        let points = prop::collection::vec((0..6u8, -9..9i64), 1..5);
        let call = (0..3i64, 0..3u32, points);
        prop::collection::vec(call, 0..80).prop_map(|calls| {
            let numbered = calls.into_iter().zip(0..);
            let call = |((late, rank, points), at): ((i64, u32, _), i64)| {
                (Some(at - 3 * late), rank, points)
            };
            numbered.map(call).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_parts_of_a_run_are_its_table(calls in some_calls(), few in 1..30usize) {
            let tmp = tempfile::tempdir().unwrap();
            let dir = lay(tmp.path(), &calls, few);
            is_same_in_parts(&dir, &Filter::default());
            is_same_in_parts(&dir, &only("n1"));
        }
    }

    #[test]
    fn rows_that_statistics_hide_are_missed() {
        let rising: Vec<Call> = (0..200).map(|at| (Some(at), 0, vec![(0, at)])).collect();
        let tmp = tempfile::tempdir().unwrap();
        let dir = lay(tmp.path(), &rising, 33);
        let files = Files::settled(&dir).unwrap();
        let mut parts = Parts::cut(files, &Filter::default(), 20).unwrap().unwrap();
        parts.filters[1].since_step = Some(40);
        let read = (0..parts.len()).map(|at| parts.part(at, Path::new(OUT), &mut |_| true));
        let missed = parts.check(read.sum()).unwrap_err().to_string();
        assert!(missed.contains("193 of 200 rows"), "{missed}");
    }

    #[test]
    fn a_run_whose_steps_rise_comes_in_parts_and_others_do_not() {
        let rising: Vec<Call> = (0..200)
            .map(|at| (Some(at / 2), u32::from(at % 2 == 0), vec![(0, at), (2, 0)]))
            .collect();
        let tmp = tempfile::tempdir().unwrap();
        let dir = lay(tmp.path(), &rising, 33);
        assert!(is_same_in_parts(&dir, &Filter::default()));
        assert!(is_same_in_parts(&dir, &only("n2")));
        let with_ranks = Filter {
            ranks: Some([1].into()),
            ..Filter::default()
        };
        assert!(!is_same_in_parts(&dir, &with_ranks));

        let changed = |change: &dyn Fn(&mut Vec<Call>)| {
            let mut calls = rising.clone();
            change(&mut calls);
            let tmp = tempfile::tempdir().unwrap();
            let dir = lay(tmp.path(), &calls, 33);
            is_same_in_parts(&dir, &Filter::default())
        };
        assert!(changed(&|_| {}));
        assert!(changed(&|calls| calls[77].1 = 3), "another attempt");
        let floats_only = |calls: &mut Vec<Call>| {
            let points = calls.iter_mut().flat_map(|call| &mut call.2);
            points.for_each(|point| *point = (2, 1));
        };
        assert!(changed(&floats_only));
        assert!(!changed(&|calls| calls[77].0 = None));
        assert!(!changed(&|calls| calls[77].2[0].1 = i64::MAX));
        assert!(!changed(&|calls| calls.truncate(5)));
        let scattered = |calls: &mut Vec<Call>| {
            for (call, at) in calls.iter_mut().zip(0..) {
                call.0 = Some(at * 77 % 200);
            }
        };
        assert!(!changed(&scattered));
    }
}
