//! Columns of any width as those of the four types that values have.
//!
//! By hand, because arrow's `cast` brings the conversions between all of its types into the binary.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Float64Array, Int64Array, StringArray,
};
use arrow::datatypes::{
    DataType, Float16Type, Float32Type, Int8Type, Int16Type, Int32Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};

/// The column as floats, whole numbers, truth values or texts; `None` where it has another type.
pub(super) fn typed(column: &ArrayRef) -> Option<ArrayRef> {
    Some(match column.data_type() {
        DataType::Boolean | DataType::Float64 | DataType::Int64 | DataType::Utf8 => {
            Arc::clone(column)
        }
        DataType::Float16 => floats::<Float16Type>(column),
        DataType::Float32 => floats::<Float32Type>(column),
        DataType::Int8 => whole::<Int8Type>(column),
        DataType::Int16 => whole::<Int16Type>(column),
        DataType::Int32 => whole::<Int32Type>(column),
        DataType::UInt8 => whole::<UInt8Type>(column),
        DataType::UInt16 => whole::<UInt16Type>(column),
        DataType::UInt32 => whole::<UInt32Type>(column),
        DataType::UInt64 => whole::<UInt64Type>(column),
        DataType::LargeUtf8 => texts(column.as_string::<i64>().iter()),
        DataType::Utf8View => texts(column.as_string_view().iter()),
        _ => return None,
    })
}

fn floats<T: ArrowPrimitiveType<Native: Into<f64>>>(column: &ArrayRef) -> ArrayRef {
    let values = column.as_primitive::<T>().iter();
    Arc::new(values.map(|x| x.map(Into::into)).collect::<Float64Array>())
}

/// What is too large is missing.
fn whole<T: ArrowPrimitiveType<Native: TryInto<i64>>>(column: &ArrayRef) -> ArrayRef {
    let values = column.as_primitive::<T>().iter();
    let values = values.map(|n| n.and_then(|n| n.try_into().ok()));
    Arc::new(values.collect::<Int64Array>())
}

fn texts<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Float16Array, Float32Array, Int8Array, LargeStringArray, StringViewArray,
        TimestampSecondArray, UInt64Array,
    };
    use arrow::compute::cast;

    use super::*;

    #[test]
    fn every_width_becomes_what_arrow_casts_it_to() {
        let half = Float32Array::from(vec![Some(0.5), None, Some(-2.0), Some(f32::INFINITY)]);
        let half: Float16Array = cast(&half, &DataType::Float16)
            .unwrap()
            .as_primitive()
            .clone();
        let columns: [(ArrayRef, DataType); 6] = [
            (Arc::new(half), DataType::Float64),
            (
                Arc::new(Float32Array::from(vec![Some(0.1), None])),
                DataType::Float64,
            ),
            (
                Arc::new(Int8Array::from(vec![Some(-7), None])),
                DataType::Int64,
            ),
            (
                Arc::new(UInt64Array::from(vec![Some(7), Some(u64::MAX), None])),
                DataType::Int64,
            ),
            (
                Arc::new(LargeStringArray::from(vec![Some("a"), None])),
                DataType::Utf8,
            ),
            (
                Arc::new(StringViewArray::from(vec![
                    Some("a text of more than twelve bytes"),
                    None,
                ])),
                DataType::Utf8,
            ),
        ];
        for (column, to) in columns {
            assert_eq!(&*typed(&column).unwrap(), &*cast(&column, &to).unwrap());
        }
        let time: ArrayRef = Arc::new(TimestampSecondArray::from(vec![1]));
        assert!(typed(&time).is_none());
    }
}
