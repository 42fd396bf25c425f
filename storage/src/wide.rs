//! One row per call: the table that people want, pivoted from the long rows.
//!
//! Columns: `step` (Int64, null where the call had none), `timestamp` (microseconds, UTC), `rank` (Int32),
//! `attempt` (Int32, only when a rank had more than one process), then one column per metric in the order
//! of their names. Rows are ordered by (step, rank, attempt, seq); calls without a step come first.
//!
//! A metric's column is Int64 when all its values are whole numbers, Float64 when all are numbers (and every
//! whole one is exact as a float), Boolean when all are truth values, and otherwise text with numbers printed,
//! so that a change of type within a name loses nothing. A NaN stays a NaN; a metric that a call did not log is null.
//! A name that occurs twice in one call gets a further row of the same step, rank and time.
//!
//! A metric whose name is a fixed column's (`step`, `timestamp`, `rank`, `attempt`) or begins with `metric:`
//! stands in the column `metric:<name>`.

mod calls;
mod layout;
mod parts;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use expman_model::record::ValueRef;

use self::calls::{alike, calls};
pub(crate) use self::layout::Layout;
pub use self::layout::column_name;
pub(crate) use self::parts::Parts;
use crate::rows::Rows;

/// Cells of one batch, nulls included, unless a single call has more.
const BATCH_CELLS: usize = 1 << 20;
/// Calls of one batch.
const BATCH_CALLS: usize = 4_096;

/// Rows, seen as one row per call.
#[derive(Debug)]
pub struct Wide<'a> {
    rows: &'a Rows,
    /// Row numbers, those of one call together.
    order: Vec<u32>,
    /// Where each call begins in `order`, and its end.
    starts: Vec<usize>,
    /// Key number to metric column.
    column_of: Vec<Option<usize>>,
    layout: Arc<Layout>,
}

impl<'a> Wide<'a> {
    /// Finds the calls and the columns; nothing is copied yet.
    #[must_use]
    pub fn new(rows: &'a Rows) -> Self {
        Self::with(rows, Arc::new(Layout::of_rows(rows)))
    }

    /// The same with columns that are known; each name of the rows has one.
    pub(crate) fn with(rows: &'a Rows, layout: Arc<Layout>) -> Self {
        let (order, starts) = alike(rows).unwrap_or_else(|| calls(rows));
        Self::of(rows, order, starts, layout)
    }

    fn of(rows: &'a Rows, order: Vec<u32>, starts: Vec<usize>, layout: Arc<Layout>) -> Self {
        let columns = rows.keys.names().iter().map(|name| layout.column(name));
        Self {
            column_of: columns.collect(),
            rows,
            order,
            starts,
            layout,
        }
    }

    /// The columns.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.layout.schema
    }

    /// How many rows the table has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn calls_of_a_piece(&self) -> usize {
        (BATCH_CELLS / self.schema().fields().len()).clamp(1, BATCH_CALLS)
    }

    /// In how many pieces of bounded size the table comes.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.len().div_ceil(self.calls_of_a_piece())
    }

    /// One of its pieces.
    ///
    /// # Errors
    /// When arrow refuses the columns.
    pub fn piece(&self, at: usize) -> Result<RecordBatch, ArrowError> {
        let calls = self.calls_of_a_piece();
        let from = (at * calls).min(self.len());
        self.batch(from..(from + calls).min(self.len()))
    }

    /// Some rows of the table.
    ///
    /// # Errors
    /// When arrow refuses the columns.
    ///
    /// # Panics
    /// When the range reaches behind the last row.
    pub fn batch(&self, calls: Range<usize>) -> Result<RecordBatch, ArrowError> {
        let (rows, types) = (self.rows, &self.layout.types);
        let first = |call: usize| rows.call(self.order[self.starts[call]] as usize);
        let steps: Int64Array = calls.clone().map(|c| first(c).step()).collect();
        let times = calls.clone().map(|c| first(c).timestamp);
        let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
        let ranks = Int32Array::from_iter_values(calls.clone().map(|c| first(c).rank));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(steps), Arc::new(times), Arc::new(ranks)];
        if self.layout.has_attempts {
            let attempts = calls.clone().map(|c| first(c).attempt);
            columns.push(Arc::new(Int32Array::from_iter_values(attempts)));
        }
        // Where each cell's row is, column by column.
        let count = calls.len();
        let mut places: Vec<Option<u32>> = vec![None; count * types.len()];
        for (at, call) in calls.enumerate() {
            for &i in &self.order[self.starts[call]..self.starts[call + 1]] {
                if let Some(column) = self.column_of[rows.key[i as usize] as usize] {
                    places[column * count + at] = Some(i);
                }
            }
        }
        for (column, data_type) in types.iter().enumerate() {
            columns.push(metric(
                rows,
                &places[column * count..(column + 1) * count],
                data_type,
            ));
        }
        RecordBatch::try_new(Arc::clone(self.schema()), columns)
    }
}

/// One metric's cells as a column of the type that fits all its values.
fn metric(rows: &Rows, cells: &[Option<u32>], data_type: &DataType) -> ArrayRef {
    let values = cells
        .iter()
        .map(|cell| cell.map(|i| rows.value_ref(i as usize)));
    match data_type {
        DataType::Float64 => Arc::new(
            values
                .map(|v| v.and_then(as_float))
                .collect::<Float64Array>(),
        ),
        DataType::Int64 => Arc::new(values.map(|v| v.and_then(as_int)).collect::<Int64Array>()),
        DataType::Boolean => Arc::new(
            values
                .map(|v| v.and_then(as_bool))
                .collect::<BooleanArray>(),
        ),
        _ => Arc::new(values.map(|v| v.map(printed)).collect::<StringArray>()),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the column is text where a whole number is not exact"
)]
const fn as_float(value: ValueRef<'_>) -> Option<f64> {
    match value {
        ValueRef::Float(x) => Some(x),
        ValueRef::Int(i) => Some(i as f64),
        ValueRef::Bool(_) | ValueRef::Text(_) => None,
    }
}

const fn as_int(value: ValueRef<'_>) -> Option<i64> {
    if let ValueRef::Int(i) = value {
        Some(i)
    } else {
        None
    }
}

const fn as_bool(value: ValueRef<'_>) -> Option<bool> {
    if let ValueRef::Bool(b) = value {
        Some(b)
    } else {
        None
    }
}

fn printed(value: ValueRef<'_>) -> Cow<'_, str> {
    match value {
        ValueRef::Float(x) => format!("{x:?}").into(),
        ValueRef::Int(i) => i.to_string().into(),
        ValueRef::Bool(b) => if b { "true" } else { "false" }.into(),
        ValueRef::Text(s) => s.into(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
    use proptest::prelude::*;

    use super::*;
    use crate::rows::Row;

    type Call<'a> = (u32, Option<i64>, u64, &'a [(&'a str, ValueRef<'a>)]);

    fn rows(calls: &[Call<'_>]) -> Rows {
        let mut rows = Rows::default();
        for &(rank, step, seq, points) in calls {
            for &(key, value) in points {
                rows.push_row(&Row {
                    key,
                    rank,
                    step,
                    timestamp_us: 7,
                    attempt: 0,
                    seq,
                    value,
                });
            }
        }
        rows
    }

    fn one_batch(rows: &Rows) -> RecordBatch {
        let wide = Wide::new(rows);
        wide.batch(0..wide.len()).unwrap()
    }

    fn names(batch: &RecordBatch) -> Vec<String> {
        batch
            .schema()
            .fields()
            .iter()
            .map(|f| f.name().clone())
            .collect()
    }

    const X: ValueRef<'static> = ValueRef::Float(1.5);

    #[test]
    fn a_call_is_one_row_ordered_by_step_rank_and_sequence() {
        let rows = rows(&[
            (1, Some(2), 1, &[("b", X), ("a", X)]),
            (0, Some(2), 9, &[("a", X)]),
            (0, Some(2), 3, &[("a", X)]),
            (0, None, 4, &[("b", X)]),
            (1, Some(-1), 2, &[("a", X)]),
        ]);
        let batch = one_batch(&rows);
        assert_eq!(names(&batch), ["step", "timestamp", "rank", "a", "b"]);
        let steps: Vec<_> = batch.column(0).as_primitive::<Int64Type>().iter().collect();
        assert_eq!(steps, [None, Some(-1), Some(2), Some(2), Some(2)]);
        assert_eq!(
            batch.column(2).as_primitive::<Int32Type>().values(),
            &[0, 1, 0, 0, 1]
        );
        let b: Vec<bool> = (0..5).map(|i| batch.column(4).is_valid(i)).collect();
        assert_eq!(b, [true, false, false, false, true]);
    }

    #[test]
    fn a_column_has_the_type_that_loses_nothing() {
        let big = ValueRef::Int((1 << 53) + 1);
        let (int, yes, text) = (ValueRef::Int(3), ValueRef::Bool(true), ValueRef::Text("x"));
        let rows = rows(&[
            (
                0,
                Some(0),
                1,
                &[
                    ("f", X),
                    ("i", int),
                    ("b", yes),
                    ("fi", X),
                    ("fb", X),
                    ("ft", X),
                    ("fbig", X),
                    ("ibig", int),
                ],
            ),
            (
                0,
                Some(1),
                2,
                &[
                    ("f", X),
                    ("i", int),
                    ("b", yes),
                    ("fi", int),
                    ("fb", yes),
                    ("ft", text),
                    ("fbig", big),
                    ("ibig", big),
                ],
            ),
        ]);
        let schema = Wide::new(&rows).schema().clone();
        let type_of = |name: &str| schema.field_with_name(name).unwrap().data_type().clone();
        assert_eq!(type_of("f"), DataType::Float64);
        assert_eq!(type_of("fi"), DataType::Float64);
        assert_eq!(
            (type_of("i"), type_of("ibig")),
            (DataType::Int64, DataType::Int64)
        );
        assert_eq!(type_of("b"), DataType::Boolean);
        for mixed in ["fb", "ft", "fbig"] {
            assert_eq!(type_of(mixed), DataType::Utf8, "{mixed}");
        }
        let batch = one_batch(&rows);
        let text = |name: &str| {
            batch
                .column_by_name(name)
                .unwrap()
                .as_string::<i32>()
                .iter()
                .flatten()
                .collect::<Vec<_>>()
        };
        assert_eq!(text("fbig"), ["1.5", "9007199254740993"]);
        assert_eq!(text("fb"), ["1.5", "true"]);
        assert_eq!(text("ft"), ["1.5", "x"]);
    }

    #[test]
    fn nan_is_kept_and_absence_is_null() {
        let rows = rows(&[
            (0, Some(0), 1, &[("a", ValueRef::Float(f64::NAN))]),
            (0, Some(1), 2, &[("b", X)]),
        ]);
        let batch = one_batch(&rows);
        let a = batch.column(3).as_primitive::<Float64Type>();
        assert!(a.is_valid(0) && a.value(0).is_nan() && a.is_null(1));
    }

    #[test]
    fn names_of_fixed_columns_stand_apart() {
        let rows = rows(&[(
            0,
            None,
            1,
            &[("step", X), ("rank", X), ("metric:step", X), ("attempt", X)],
        )]);
        let want = [
            "step",
            "timestamp",
            "rank",
            "metric:attempt",
            "metric:metric:step",
            "metric:rank",
            "metric:step",
        ];
        assert_eq!(names(&one_batch(&rows)), want);
    }

    #[test]
    fn a_name_twice_in_one_call_gets_a_further_row() {
        let rows = rows(&[(
            0,
            Some(1),
            1,
            &[("a", X), ("b", X), ("a", ValueRef::Float(2.5))],
        )]);
        let batch = one_batch(&rows);
        assert_eq!(
            batch.column(3).as_primitive::<Float64Type>().values(),
            &[1.5, 2.5]
        );
        assert!(batch.column(4).is_null(1));
    }

    #[test]
    fn attempts_show_only_when_a_rank_had_several() {
        let mut rows = rows(&[(0, Some(1), 1, &[("a", X)])]);
        assert!(!names(&one_batch(&rows)).contains(&"attempt".to_owned()));
        rows.push_row(&Row {
            key: "a",
            rank: 0,
            step: Some(1),
            timestamp_us: 8,
            attempt: 1,
            seq: 1,
            value: X,
        });
        let batch = one_batch(&rows);
        assert_eq!(
            batch.column(3).as_primitive::<Int32Type>().values(),
            &[0, 1]
        );
    }

    #[test]
    fn batches_tile_the_table() {
        let points: Vec<(u32, Option<i64>, u64)> = (0..40_000).map(|i| (0, Some(i), 1)).collect();
        let mut rows = Rows::default();
        for (rank, step, seq) in points {
            rows.push_row(&Row {
                key: "a",
                rank,
                step,
                timestamp_us: 0,
                attempt: 0,
                seq,
                value: X,
            });
        }
        let wide = Wide::new(&rows);
        let sizes = (0..wide.pieces()).map(|at| wide.piece(at).unwrap().num_rows());
        let sizes: Vec<usize> = sizes.collect();
        assert_eq!((sizes.len(), sizes.iter().sum::<usize>()), (10, 40_000));
        assert_eq!(Wide::new(&Rows::default()).pieces(), 0);
    }

    fn some_rows() -> impl Strategy<Value = Rows> {
        // Few names, steps and calls, so that all clashes occur; the same names in most calls.
        let call = (0..2u32, prop::option::of(0..4i64), 0..8usize);
        let stretch = (prop::collection::vec(call, 0..6), any::<bool>());
        prop::collection::vec(stretch, 0..4).prop_map(|stretches| {
            let (mut all, mut seq) = (Rows::default(), 0);
            for (calls, sorted) in stretches {
                let mut stretch = Rows::default();
                for (rank, step, what) in calls {
                    seq += u64::from(what != 7);
                    let names = match what {
                        0 => &["b"][..],
                        1 => &["a", "a", "b"],
                        _ => &["b", "a", "c"],
                    };
                    for (key, n) in names.iter().zip(0..) {
                        stretch.push_row(&Row {
                            key,
                            rank,
                            step,
                            timestamp_us: seq.cast_signed(),
                            attempt: 0,
                            seq,
                            value: ValueRef::Int(n),
                        });
                    }
                }
                let order = if sorted {
                    stretch.sorted().places
                } else {
                    (0..).take(stretch.len()).collect()
                };
                for i in order {
                    all.push_row(&stretch.row(i as usize));
                }
            }
            all
        })
    }

    proptest! {
        #[test]
        fn calls_that_are_alike_are_found_to_be_the_same(rows in some_rows()) {
            if let Some((order, starts)) = alike(&rows) {
                let layout = Arc::new(Layout::of_rows(&rows));
                let fast = Wide::of(&rows, order, starts, Arc::clone(&layout));
                let (order, starts) = calls(&rows);
                let slow = Wide::of(&rows, order, starts, layout);
                prop_assert_eq!(fast.batch(0..fast.len()).unwrap(), slow.batch(0..slow.len()).unwrap());
            }
        }
    }

    #[test]
    fn a_sorted_run_of_several_ranks_is_alike() {
        let call = |at: i64| (u32::from(at % 3 == 0), Some(at / 2), at.unsigned_abs() + 1);
        let calls: Vec<_> = (0..30).map(call).collect();
        let points = [("b", X), ("a", X)];
        let calls = calls
            .iter()
            .map(|&(rank, step, seq)| (rank, step, seq, &points[..]));
        let arrived = rows(&calls.collect::<Vec<_>>());
        let mut stored = Rows::default();
        for i in arrived.sorted().places {
            stored.push_row(&arrived.row(i as usize));
        }
        for rows in [&arrived, &stored] {
            assert!(alike(rows).is_some());
            assert_eq!(one_batch(rows), one_batch(&arrived));
        }
    }
}
