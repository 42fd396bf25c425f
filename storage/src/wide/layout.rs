//! The columns of a table: a fixed few, then one for each metric, of the type that fits all its values.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::rows::{BOOL, FLOAT, INT, Rows};

/// Columns in front of the metrics; `attempt` may be absent, its name is taken all the same.
const FIXED: [&str; 4] = ["step", "timestamp", "rank", "attempt"];
/// In front of a metric's name that would clash.
const PREFIX: &str = "metric:";
/// Whole numbers up to here are exact as floats.
const EXACT: i64 = 1 << 53;

/// The column of a metric.
///
/// ```
/// use expman_storage::wide::column_name;
/// assert_eq!(column_name("loss"), "loss");
/// assert_eq!(column_name("step"), "metric:step");
/// assert_eq!(column_name("metric:step"), "metric:metric:step");
/// ```
#[must_use]
pub fn column_name(metric: &str) -> Cow<'_, str> {
    if FIXED.contains(&metric) || metric.starts_with(PREFIX) {
        Cow::Owned(format!("{PREFIX}{metric}"))
    } else {
        Cow::Borrowed(metric)
    }
}

/// What kinds of value a name has.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "a set of five")]
pub(super) struct Kinds {
    float: bool,
    int: bool,
    inexact_int: bool,
    bool: bool,
    text: bool,
}

impl Kinds {
    const fn seen(self) -> bool {
        self.float || self.int || self.bool || self.text
    }

    const fn data_type(self) -> DataType {
        match self {
            Self { text: true, .. } => DataType::Utf8,
            Self {
                bool: true,
                float: false,
                int: false,
                ..
            } => DataType::Boolean,
            Self { bool: true, .. }
            | Self {
                float: true,
                inexact_int: true,
                ..
            } => DataType::Utf8,
            Self { float: true, .. } => DataType::Float64,
            _ => DataType::Int64,
        }
    }
}

impl Kinds {
    /// Takes a value in, by its kind.
    pub(super) const fn add(&mut self, kind: u8) {
        match kind {
            FLOAT => self.float = true,
            INT => self.int = true,
            BOOL => self.bool = true,
            _ => self.text = true,
        }
    }
}

/// Whether a whole number is one that a float has.
pub(super) fn is_exact(n: i64) -> bool {
    (-EXACT..=EXACT).contains(&n)
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Layout {
    columns: HashMap<Box<str>, usize>,
    pub(super) types: Vec<DataType>,
    pub(crate) schema: SchemaRef,
    pub(super) has_attempts: bool,
}

impl Layout {
    /// The columns of these metrics.
    pub(super) fn new(metrics: &BTreeMap<&str, Kinds>, has_attempts: bool) -> Self {
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let mut fields = vec![
            Field::new("step", DataType::Int64, true),
            Field::new("timestamp", utc, false),
            Field::new("rank", DataType::Int32, false),
        ];
        if has_attempts {
            fields.push(Field::new("attempt", DataType::Int32, false));
        }
        let seen = || metrics.iter().filter(|(_, kinds)| kinds.seen());
        let types: Vec<DataType> = seen().map(|(_, kinds)| kinds.data_type()).collect();
        let named = seen().zip(&types);
        fields.extend(named.map(|((name, _), t)| Field::new(column_name(name), t.clone(), true)));
        let numbered = seen().zip(0..);
        Self {
            columns: numbered.map(|((name, _), n)| ((*name).into(), n)).collect(),
            types,
            schema: Arc::new(Schema::new(fields)),
            has_attempts,
        }
    }

    /// The columns of these rows.
    pub(super) fn of_rows(rows: &Rows) -> Self {
        let kinds = kinds(rows);
        let names = rows.keys.names().iter().map(|name| &**name);
        let has_attempts = rows.calls.iter().any(|call| call.attempt != 0);
        Self::new(&names.zip(kinds).collect(), has_attempts)
    }

    /// Whether there is a column for a metric.
    pub(crate) fn has(&self, metric: &str) -> bool {
        self.columns.contains_key(metric)
    }

    /// Which column of those of metrics is a metric's; none where no row has one.
    pub(super) fn column(&self, metric: &str) -> Option<usize> {
        self.columns.get(metric).copied()
    }
}

fn kinds(rows: &Rows) -> Vec<Kinds> {
    let mut kinds = vec![Kinds::default(); rows.keys.len()];
    for i in 0..rows.len() {
        let kind = &mut kinds[rows.key[i] as usize];
        kind.add(rows.kind[i]);
        kind.inexact_int |= rows.kind[i] == INT && !is_exact(rows.bits[i].cast_signed());
    }
    kinds
}
