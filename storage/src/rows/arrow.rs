//! Rows as record batches, for exports.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Float64Builder, Int8Array, Int32Array, Int64Array, Int64Builder,
    RecordBatch, StringBuilder, TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use expman_model::record::ValueRef;

use super::{Call, FLOAT, Rows};

impl Rows {
    /// Some rows, in the given order, as a record batch with the columns of `metrics.parquet`.
    ///
    /// # Errors
    /// When arrow refuses the columns.
    pub fn batch(&self, order: &[u32]) -> Result<RecordBatch, arrow::error::ArrowError> {
        let calls: Vec<&Call> = order.iter().map(|i| self.call(*i as usize)).collect();
        let [value, int, text] = self.values(order);
        #[expect(clippy::cast_possible_wrap, reason = "kinds are 0 to 3")]
        let kind = order.iter().map(|i| self.kind[*i as usize] as i8);
        RecordBatch::try_new(
            schema(),
            vec![
                self.names(order),
                Arc::new(Int32Array::from_iter_values(calls.iter().map(|c| c.rank))),
                Arc::new(calls.iter().map(|c| c.step()).collect::<Int64Array>()),
                Arc::new(
                    TimestampMicrosecondArray::from_iter_values(calls.iter().map(|c| c.timestamp))
                        .with_timezone("UTC"),
                ),
                Arc::new(Int32Array::from_iter_values(
                    calls.iter().map(|c| c.attempt),
                )),
                Arc::new(Int64Array::from_iter_values(calls.iter().map(|c| c.seq))),
                Arc::new(Int8Array::from_iter_values(kind)),
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
pub(crate) fn exact_f64(value: ValueRef<'_>) -> Option<f64> {
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
