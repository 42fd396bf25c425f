//! Which row groups and pages of a file may hold a wanted row.

use std::ops::Range;

use parquet::arrow::arrow_reader::RowSelection;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::Statistics;

use crate::reader::Filter;

/// Columns that statistics are asked of: `key`, `rank` and `step`, by their place.
const PRUNING: [usize; 3] = [0, 1, 2];

/// The row groups that may hold a wanted row, and their pages that may, where the file has an index of them.
pub(super) fn wanted(
    meta: &ParquetMetaData,
    filter: &Filter,
) -> (Vec<usize>, Option<RowSelection>) {
    let groups: Vec<usize> = (0..meta.num_row_groups())
        .filter(|&g| may_hold(&Spans::of_group(meta.row_group(g)), filter))
        .collect();
    let selection = selection(meta, &groups, filter);
    (groups, selection)
}

/// What is known of a piece of a file: the least and greatest of its names, ranks and steps.
#[derive(Debug, Default)]
struct Spans<'a> {
    /// The greatest name may be cut short; then it tells nothing.
    keys: Option<(&'a [u8], Option<&'a [u8]>)>,
    ranks: Option<(i32, i32)>,
    steps: Option<(i64, i64)>,
}

impl<'a> Spans<'a> {
    fn of_group(group: &'a RowGroupMetaData) -> Self {
        let mut spans = Self::default();
        for column in PRUNING {
            let stats = group.columns().get(column).and_then(|c| c.statistics());
            match stats {
                Some(Statistics::ByteArray(stats)) => {
                    spans.keys = stats.min_opt().map(|min| {
                        let max = stats.max_opt().filter(|_| stats.max_is_exact());
                        (min.data(), max.map(parquet::data_type::ByteArray::data))
                    });
                }
                Some(Statistics::Int32(stats)) => {
                    spans.ranks = stats.min_opt().copied().zip(stats.max_opt().copied());
                }
                Some(Statistics::Int64(stats)) => {
                    spans.steps = stats.min_opt().copied().zip(stats.max_opt().copied());
                }
                _ => {}
            }
        }
        spans
    }

    fn of_page(indexes: &[Option<&'a ColumnIndexMetaData>; 3], page: usize) -> Self {
        let mut spans = Self::default();
        for index in indexes.iter().flatten() {
            match index {
                // Names in a page's index may be cut short at either end; the lower end stays a lower bound.
                ColumnIndexMetaData::BYTE_ARRAY(index) => {
                    spans.keys = index
                        .min_value(page)
                        .map(|min| (min, index.max_value(page)));
                }
                ColumnIndexMetaData::INT32(index) => {
                    spans.ranks = index
                        .min_value(page)
                        .copied()
                        .zip(index.max_value(page).copied());
                }
                ColumnIndexMetaData::INT64(index) => {
                    spans.steps = index
                        .min_value(page)
                        .copied()
                        .zip(index.max_value(page).copied());
                }
                _ => {}
            }
        }
        spans
    }
}

fn may_hold(spans: &Spans<'_>, filter: &Filter) -> bool {
    let keys = match (&filter.keys, spans.keys) {
        (Some(keys), Some((min, max))) => keys.iter().any(|key| {
            let key = key.as_bytes();
            // A bound that was cut short is a prefix with its last byte raised, which is still above.
            key >= min && max.is_none_or(|max| key <= max)
        }),
        _ => true,
    };
    let ranks = match (&filter.ranks, spans.ranks) {
        (Some(ranks), Some((min, max))) => ranks
            .iter()
            .any(|&rank| i32::try_from(rank).is_ok_and(|rank| (min..=max).contains(&rank))),
        _ => true,
    };
    let steps = match spans.steps {
        Some((min, max)) if filter.has_steps() => {
            filter.since_step.is_none_or(|since| max >= since)
                && filter.until_step.is_none_or(|until| min <= until)
        }
        _ => true,
    };
    keys && ranks && steps
}

/// The pages of these row groups that may hold a wanted row; none where the file has no index of its pages.
fn selection(meta: &ParquetMetaData, groups: &[usize], filter: &Filter) -> Option<RowSelection> {
    let mut wanted: Vec<Range<usize>> = Vec::new();
    let mut total = 0;
    for &group in groups {
        let rows = usize::try_from(meta.row_group(group).num_rows()).ok()?;
        let index = meta.page_index_for_row_group(group);
        let pages = |column: usize| {
            let offsets = index.offset_index(column)?;
            let first = offsets.page_locations().iter().map(|p| p.first_row_index);
            Some(first.collect::<Vec<_>>())
        };
        let starts = pages(PRUNING[0])?;
        // Only where the pages of columns lie beside each other does one tell about the other's rows.
        let indexes = PRUNING.map(|column| {
            let aligned = pages(column).is_some_and(|own| own == starts);
            index.column_index(column).filter(|_| aligned)
        });
        for (page, start) in starts.iter().enumerate() {
            let start = usize::try_from(*start).ok()?;
            let end = match starts.get(page + 1) {
                Some(next) => usize::try_from(*next).ok()?,
                None => rows,
            };
            if may_hold(&Spans::of_page(&indexes, page), filter) && start < end && end <= rows {
                match wanted.last_mut() {
                    Some(last) if last.end == total + start => last.end = total + end,
                    _ => wanted.push(total + start..total + end),
                }
            }
        }
        total += rows;
    }
    Some(RowSelection::from_consecutive_ranges(
        wanted.into_iter(),
        total,
    ))
}
