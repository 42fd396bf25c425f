//! Metric rows in columns: what the commit log holds, segments are sorted from, and readers return.
//!
//! One row is one metric of one call.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Float64Builder, Int8Array, Int32Array, Int64Array, Int64Builder,
    RecordBatch, StringBuilder, TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use expman_model::Value;
use expman_model::record::ValueRef;

pub use crate::keys::KeyTable;

/// The kind of a row whose value is a float.
const FLOAT: u8 = 0;

/// One row, borrowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row<'a> {
    /// The metric's name.
    pub key: &'a str,
    /// Rank that logged it.
    pub rank: u32,
    /// Its step.
    pub step: Option<i64>,
    /// Microseconds since 1970 UTC.
    pub timestamp_us: i64,
    /// Which incarnation of the rank: 0, 1, 2 …
    pub attempt: u32,
    /// The call's sequence number within the incarnation.
    pub seq: u64,
    /// The value.
    pub value: ValueRef<'a>,
}

/// Rows in columns.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// Names behind `key`.
    pub keys: KeyTable,
    pub(crate) key: Vec<u32>,
    pub(crate) rank: Vec<i32>,
    pub(crate) step: Vec<i64>,
    pub(crate) has_step: Vec<bool>,
    pub(crate) timestamp: Vec<i64>,
    pub(crate) attempt: Vec<i32>,
    pub(crate) seq: Vec<i64>,
    pub(crate) kind: Vec<u8>,
    /// Bits of a float, an int or a bool; the index into `texts` of a text.
    pub(crate) bits: Vec<u64>,
    pub(crate) texts: Vec<Box<str>>,
}

impl Rows {
    /// How many rows there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.key.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.key.is_empty()
    }

    /// Whether some row has no step.
    #[must_use]
    pub fn has_stepless(&self) -> bool {
        self.has_step.contains(&false)
    }

    /// Adds a row whose name was interned in `self.keys`.
    #[expect(
        clippy::cast_possible_wrap,
        reason = "ranks and attempts stay far below 2^31, seqs below 2^63"
    )]
    pub fn push(&mut self, key: u32, row: &Row<'_>) {
        self.key.push(key);
        self.rank.push(row.rank as i32);
        self.step.push(row.step.unwrap_or(0));
        self.has_step.push(row.step.is_some());
        self.timestamp.push(row.timestamp_us);
        self.attempt.push(row.attempt as i32);
        self.seq.push(row.seq as i64);
        let (kind, bits) = match row.value {
            ValueRef::Float(x) => (FLOAT, x.to_bits()),
            ValueRef::Int(i) => (1, i.cast_unsigned()),
            ValueRef::Bool(b) => (2, u64::from(b)),
            ValueRef::Text(s) => {
                self.texts.push(s.into());
                (3, self.texts.len() as u64 - 1)
            }
        };
        self.kind.push(kind);
        self.bits.push(bits);
    }

    /// Forgets everything and keeps the room.
    pub(crate) fn clear(&mut self) {
        self.truncate(0);
        self.keys = KeyTable::default();
    }

    /// Keeps the first `n` rows; names stay.
    pub fn truncate(&mut self, n: usize) {
        self.key.truncate(n);
        self.rank.truncate(n);
        self.step.truncate(n);
        self.has_step.truncate(n);
        self.timestamp.truncate(n);
        self.attempt.truncate(n);
        self.seq.truncate(n);
        self.kind.truncate(n);
        self.bits.truncate(n);
        let texts = self
            .kind
            .iter()
            .zip(&self.bits)
            .rev()
            .find(|(k, _)| **k == 3);
        self.texts.truncate(texts.map_or(0, |(_, at)| {
            usize::try_from(*at).unwrap_or(usize::MAX).saturating_add(1)
        }));
    }

    /// Adds a row of another table.
    pub fn push_row(&mut self, row: &Row<'_>) {
        // Files are sorted by name.
        let key = match self.key.last() {
            Some(&last) if **self.keys.name(last) == *row.key => last,
            _ => self.keys.intern(row.key),
        };
        self.push(key, row);
    }

    /// Adds all rows of another table.
    pub fn extend(&mut self, other: &Self) {
        let map: Vec<u32> = other
            .keys
            .names()
            .iter()
            .map(|n| self.keys.intern(n))
            .collect();
        for i in 0..other.len() {
            self.push(map[other.key[i] as usize], &other.row(i));
        }
    }

    /// The row at a place.
    #[must_use]
    #[expect(clippy::cast_sign_loss, reason = "undoes the casts of push")]
    pub fn row(&self, i: usize) -> Row<'_> {
        Row {
            key: self.keys.name(self.key[i]),
            rank: self.rank[i] as u32,
            step: self.step(i),
            timestamp_us: self.timestamp[i],
            attempt: self.attempt[i] as u32,
            seq: self.seq[i] as u64,
            value: self.value_ref(i),
        }
    }

    /// One row's step.
    #[inline]
    pub(crate) fn step(&self, i: usize) -> Option<i64> {
        self.has_step[i].then_some(self.step[i])
    }

    /// One row's value.
    #[inline]
    pub(crate) fn value_ref(&self, i: usize) -> ValueRef<'_> {
        let bits = self.bits[i];
        match self.kind[i] {
            FLOAT => ValueRef::Float(f64::from_bits(bits)),
            1 => ValueRef::Int(bits.cast_signed()),
            2 => ValueRef::Bool(bits != 0),
            _ => ValueRef::Text(
                self.texts
                    .get(usize::try_from(bits).unwrap_or(usize::MAX))
                    .map_or("", |t| t),
            ),
        }
    }

    /// All rows in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        (0..self.len()).map(|i| self.row(i))
    }

    /// An owned copy of one row's value.
    #[must_use]
    pub fn value(&self, i: usize) -> Value {
        self.value_ref(i).to_value()
    }

    /// The order by (key, rank, step, arrival); rows without a step come first.
    ///
    /// Rows are first counted into their (key, rank) groups in order of arrival; a group whose steps
    /// already rise, which is nearly every one, needs no sorting.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "takes back the low half")]
    pub fn sorted(&self) -> Vec<u32> {
        let mut groups: HashMap<u64, u32> = HashMap::new();
        // By key, the rank that had it last: a batch has many calls of one rank, each with the same keys.
        let mut last: Vec<Option<(i32, u32)>> = vec![None; self.keys.len()];
        let mut member = Vec::with_capacity(self.len());
        for (&key, &rank) in self.key.iter().zip(&self.rank) {
            let last = &mut last[key as usize];
            let group = match *last {
                Some((known, group)) if known == rank => group,
                _ => {
                    let id = u64::from(key) << 32 | u64::from(rank.cast_unsigned());
                    let next = u32::try_from(groups.len()).unwrap_or(u32::MAX);
                    let group = *groups.entry(id).or_insert(next);
                    *last = Some((rank, group));
                    group
                }
            };
            member.push(group);
        }
        let mut by_name: Vec<(&str, i32, u32)> = groups
            .iter()
            .map(|(id, group)| {
                let key = u32::try_from(id >> 32).unwrap_or(u32::MAX);
                (&**self.keys.name(key), (*id as u32).cast_signed(), *group)
            })
            .collect();
        by_name.sort_unstable();
        let mut sizes = vec![0usize; groups.len()];
        for &group in &member {
            sizes[group as usize] += 1;
        }
        let mut starts = vec![0usize; groups.len()];
        let mut end = 0;
        for (_, _, group) in &by_name {
            starts[*group as usize] = end;
            end += sizes[*group as usize];
        }
        let mut order = vec![0u32; self.len()];
        let mut fill = starts.clone();
        for (i, &group) in (0u32..).zip(&member) {
            let at = &mut fill[group as usize];
            order[*at] = i;
            *at += 1;
        }
        let step = |&i: &u32| (self.has_step[i as usize], self.step[i as usize]);
        for (start, size) in starts.iter().zip(&sizes) {
            let group = &mut order[*start..start + size];
            if !group.is_sorted_by_key(step) {
                group.sort_by_key(step);
            }
        }
        order
    }

    /// Some rows, in the given order, as the record batch that Parquet files hold.
    ///
    /// # Errors
    /// When arrow refuses the columns.
    pub fn batch(&self, order: &[u32]) -> Result<RecordBatch, arrow::error::ArrowError> {
        fn of<T: Copy>(column: &[T], order: &[u32]) -> impl Iterator<Item = T> {
            order.iter().map(|i| column[*i as usize])
        }
        let steps = of(&self.step, order).zip(of(&self.has_step, order));
        let [value, int, text] = self.values(order);
        #[expect(clippy::cast_possible_wrap, reason = "kinds are 0 to 3")]
        let kind = Int8Array::from_iter_values(of(&self.kind, order).map(|kind| kind as i8));
        RecordBatch::try_new(
            schema(),
            vec![
                self.names(order),
                Arc::new(Int32Array::from_iter_values(of(&self.rank, order))),
                Arc::new(
                    steps
                        .map(|(step, there)| there.then_some(step))
                        .collect::<Int64Array>(),
                ),
                Arc::new(
                    TimestampMicrosecondArray::from_iter_values(of(&self.timestamp, order))
                        .with_timezone("UTC"),
                ),
                Arc::new(Int32Array::from_iter_values(of(&self.attempt, order))),
                Arc::new(Int64Array::from_iter_values(of(&self.seq, order))),
                Arc::new(kind),
                value,
                int,
                text,
            ],
        )
    }

    /// The names of some rows.
    fn names(&self, order: &[u32]) -> ArrayRef {
        let of = |i: &u32| &**self.keys.name(self.key[*i as usize]);
        let bytes = order.iter().map(|i| of(i).len()).sum();
        let mut names = StringBuilder::with_capacity(order.len(), bytes);
        for i in order {
            names.append_value(of(i));
        }
        Arc::new(names.finish())
    }

    /// Their values as floats, as whole numbers, and as text.
    fn values(&self, order: &[u32]) -> [ArrayRef; 3] {
        let at = |i: &u32| *i as usize;
        if order.iter().all(|i| self.kind[at(i)] == FLOAT) {
            let floats = order.iter().map(|i| f64::from_bits(self.bits[at(i)]));
            let none = |kind| new_null_array(kind, order.len());
            return [
                Arc::new(Float64Array::from_iter_values(floats)),
                none(&DataType::Int64),
                none(&DataType::Utf8),
            ];
        }
        let mut value = Float64Builder::with_capacity(order.len());
        let mut int = Int64Builder::with_capacity(order.len());
        let mut text = StringBuilder::new();
        for row in order.iter().map(|i| self.row(at(i))) {
            value.append_option(exact_f64(row.value));
            int.append_option(match row.value {
                ValueRef::Int(n) => Some(n),
                ValueRef::Bool(b) => Some(i64::from(b)),
                _ => None,
            });
            text.append_option(match row.value {
                ValueRef::Text(s) => Some(s),
                _ => None,
            });
        }
        [
            Arc::new(value.finish()),
            Arc::new(int.finish()),
            Arc::new(text.finish()),
        ]
    }
}

/// A value as a float where that loses nothing.
#[expect(clippy::cast_precision_loss, reason = "the bound makes it exact")]
fn exact_f64(value: ValueRef<'_>) -> Option<f64> {
    const EXACT: i64 = 1 << 53;
    match value {
        ValueRef::Float(x) => Some(x),
        ValueRef::Int(i) => (-EXACT..=EXACT).contains(&i).then_some(i as f64),
        ValueRef::Bool(b) => Some(if b { 1.0 } else { 0.0 }),
        ValueRef::Text(_) => None,
    }
}

/// Columns of `metrics.parquet` and of the segments.
#[must_use]
pub fn schema() -> SchemaRef {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("rank", DataType::Int32, false),
        Field::new("step", DataType::Int64, true),
        Field::new("timestamp", utc, false),
        Field::new("attempt", DataType::Int32, false),
        Field::new("seq", DataType::Int64, false),
        Field::new("kind", DataType::Int8, false),
        Field::new("value", DataType::Float64, true),
        Field::new("int_value", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(
        key: &'static str,
        rank: u32,
        step: Option<i64>,
        value: ValueRef<'static>,
    ) -> Row<'static> {
        Row {
            key,
            rank,
            step,
            timestamp_us: 7,
            attempt: 0,
            seq: 1,
            value,
        }
    }

    #[test]
    fn rows_sort_by_key_rank_step_and_arrival() {
        let mut rows = Rows::default();
        for (key, rank, step, x) in [
            ("b", 0, Some(2), 1.0),
            ("a", 1, Some(1), 2.0),
            ("a", 0, Some(9), 3.0),
            ("a", 0, Some(1), 4.0),
            ("a", 0, Some(1), 5.0),
            ("a", 0, None, 6.0),
        ] {
            rows.push_row(&row(key, rank, step, ValueRef::Float(x)));
        }
        let values: Vec<_> = rows
            .sorted()
            .into_iter()
            .map(|i| rows.value(i as usize).as_f64().unwrap())
            .collect();
        assert_eq!(values, [6.0, 4.0, 5.0, 3.0, 2.0, 1.0]);
    }

    #[test]
    fn integers_beyond_a_double_keep_only_their_exact_column() {
        let mut rows = Rows::default();
        rows.push_row(&row("n", 0, None, ValueRef::Int((1 << 53) + 1)));
        let batch = rows.batch(&[0]).unwrap();
        assert!(batch.column(7).is_null(0));
        assert_eq!(rows.value(0), Value::Int((1 << 53) + 1));
    }
}
