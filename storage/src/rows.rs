//! Metric rows in columns: what the commit log holds, segments are sorted from, and readers return.
//!
//! One row is one metric of one call; what all rows of a call share is kept once.

mod arrow;
mod order;

use expman_model::Value;
use expman_model::record::ValueRef;

pub(crate) use self::arrow::exact_f64;
pub use self::arrow::schema;
pub use self::order::{Group, Order};
pub use crate::keys::KeyTable;

/// The kinds of value, as the column `kind` and the commit log number them.
pub(crate) const FLOAT: u8 = 0;
pub(crate) const INT: u8 = 1;
pub(crate) const BOOL: u8 = 2;
pub(crate) const TEXT: u8 = 3;
/// All of them, each at its number.
pub(crate) const KINDS: [u8; 4] = [FLOAT, INT, BOOL, TEXT];

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

/// What the rows of one call share, in the types of the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) rank: i32,
    pub(crate) attempt: i32,
    /// 0 where there is none.
    pub(crate) step: i64,
    pub(crate) has_step: bool,
    pub(crate) timestamp: i64,
    pub(crate) seq: i64,
}

impl Call {
    #[expect(
        clippy::cast_possible_wrap,
        reason = "ranks and attempts stay far below 2^31, seqs below 2^63"
    )]
    #[inline]
    pub(crate) fn of(row: &Row<'_>) -> Self {
        Self {
            rank: row.rank as i32,
            attempt: row.attempt as i32,
            step: row.step.unwrap_or(0),
            has_step: row.step.is_some(),
            timestamp: row.timestamp_us,
            seq: row.seq as i64,
        }
    }

    #[inline]
    pub(crate) fn step(&self) -> Option<i64> {
        self.has_step.then_some(self.step)
    }
}

/// Rows in columns.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// Names behind `key`.
    pub keys: KeyTable,
    pub(crate) key: Vec<u32>,
    /// The place in `calls`; rises from row to row.
    pub(crate) call: Vec<u32>,
    pub(crate) calls: Vec<Call>,
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
        self.calls.iter().any(|call| !call.has_step)
    }

    /// Adds a row whose name was interned in `self.keys`.
    pub fn push(&mut self, key: u32, row: &Row<'_>) {
        self.begin(Call::of(row));
        self.put(key, row.value);
        self.end();
    }

    /// The rows that are put next are of this call.
    #[inline]
    pub(crate) fn begin(&mut self, call: Call) {
        if self.calls.last() != Some(&call) {
            self.calls.push(call);
        }
    }

    /// Adds a row of the call that began last, and that must end before anything else.
    #[inline]
    pub(crate) fn put(&mut self, key: u32, value: ValueRef<'_>) {
        let (kind, bits) = match value {
            ValueRef::Float(x) => (FLOAT, x.to_bits()),
            ValueRef::Int(i) => (INT, i.cast_unsigned()),
            ValueRef::Bool(b) => (BOOL, u64::from(b)),
            ValueRef::Text(s) => {
                self.texts.push(s.into());
                (TEXT, self.texts.len() as u64 - 1)
            }
        };
        self.key.push(key);
        self.kind.push(kind);
        self.bits.push(bits);
    }

    /// All rows of the call that began last have been put.
    #[inline]
    pub(crate) fn end(&mut self) {
        let number = u32::try_from(self.calls.len()).unwrap_or(u32::MAX) - 1;
        self.call.resize(self.key.len(), number);
    }

    /// Forgets everything and keeps the room.
    pub(crate) fn clear(&mut self) {
        self.truncate(0);
        self.keys = KeyTable::default();
    }

    /// Keeps the first `n` rows; names stay.
    pub fn truncate(&mut self, n: usize) {
        self.key.truncate(n);
        self.call.truncate(n);
        self.kind.truncate(n);
        self.bits.truncate(n);
        self.calls
            .truncate(self.call.last().map_or(0, |last| *last as usize + 1));
        if self.texts.is_empty() {
            return;
        }
        let texts = self
            .kind
            .iter()
            .zip(&self.bits)
            .rev()
            .find(|(k, _)| **k == TEXT);
        self.texts
            .truncate(texts.map_or(0, |(_, at)| place(*at).saturating_add(1)));
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
            self.begin(*other.call(i));
            self.put(map[other.key[i] as usize], other.value_ref(i));
            self.end();
        }
    }

    /// The row at a place.
    #[must_use]
    #[expect(clippy::cast_sign_loss, reason = "undoes the casts of Call::of")]
    pub fn row(&self, i: usize) -> Row<'_> {
        let call = self.call(i);
        Row {
            key: self.keys.name(self.key[i]),
            rank: call.rank as u32,
            step: call.step(),
            timestamp_us: call.timestamp,
            attempt: call.attempt as u32,
            seq: call.seq as u64,
            value: self.value_ref(i),
        }
    }

    /// What one row shares with the others of its call.
    #[inline]
    pub(crate) fn call(&self, i: usize) -> &Call {
        &self.calls[self.call[i] as usize]
    }

    /// One row's value.
    #[inline]
    pub(crate) fn value_ref(&self, i: usize) -> ValueRef<'_> {
        let bits = self.bits[i];
        match self.kind[i] {
            FLOAT => ValueRef::Float(f64::from_bits(bits)),
            INT => ValueRef::Int(bits.cast_signed()),
            BOOL => ValueRef::Bool(bits != 0),
            _ => ValueRef::Text(self.texts.get(place(bits)).map_or("", |t| t)),
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
}

/// Where a text is.
fn place(bits: u64) -> usize {
    usize::try_from(bits).unwrap_or(usize::MAX)
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
            .places
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
