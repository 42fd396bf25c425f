//! Tables as text: CSV, JSON, JSON lines.
//!
//! Floats print as `{:?}` prints them, which is the shortest text that reads back as the same number.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, AsArray, BooleanArray, Float64Array, Int8Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, Float64Type, Int8Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use expman_model::time::put_stamp;

use super::Format;
use crate::error::{At, Result};

/// Most cells are shorter, comma included.
const CELL_BYTES: usize = 20;
/// Digits of a second.
const MICROS: usize = 6;

/// Shorter texts have fewer digits than lie halfway between two others.
const LONG_TEXT: usize = 16;
/// Numbers below 1e16 and above 1e-4 that lie halfway between two shortest texts are whole numbers of 2^-22.
const BINARY_PLACES: f64 = (1 << 22) as f64;

/// How a table is written.
pub(super) struct TextTable {
    format: Format,
    /// What stands in front of the first row.
    pub(super) head: Vec<u8>,
    /// What stands in front of each cell of a row.
    before: Vec<Vec<u8>>,
}

impl TextTable {
    pub(super) fn new(names: &[&str], format: Format) -> Self {
        let mut head = Vec::new();
        let mut before = Vec::new();
        for (at, name) in names.iter().enumerate() {
            if format == Format::Csv {
                let comma = if at > 0 { &b","[..] } else { b"" };
                head.extend_from_slice(comma);
                csv_text(&mut head, name);
                before.push(comma.to_vec());
            } else {
                let mut text = if at == 0 {
                    b"{".to_vec()
                } else {
                    b",".to_vec()
                };
                put_json(&mut text, name);
                text.push(b':');
                before.push(text);
            }
        }
        match format {
            Format::Csv => head.push(b'\n'),
            Format::Json => head.push(b'['),
            Format::Jsonl | Format::Parquet => {}
        }
        Self {
            format,
            head,
            before,
        }
    }

    /// What the first rows of a table are, when these are they: nothing stands between them and the head.
    pub(super) fn first<'a>(&self, rows: &'a [u8]) -> &'a [u8] {
        match (self.format, rows) {
            (Format::Json, [b',', first @ ..]) => first,
            _ => rows,
        }
    }

    /// Some rows, as they stand behind others.
    pub(super) fn text(&self, path: &Path, batch: &RecordBatch) -> Result<Vec<u8>> {
        let columns = batch.columns().iter().map(Cells::of);
        let columns: Vec<_> = columns.collect::<Result<_, _>>().at("encode", path)?;
        let mut out = Vec::with_capacity(batch.num_rows() * columns.len() * CELL_BYTES);
        for row in 0..batch.num_rows() {
            if self.format == Format::Json {
                out.extend_from_slice(b",\n");
            }
            for (before, cells) in self.before.iter().zip(&columns) {
                out.extend_from_slice(before);
                if self.format == Format::Csv {
                    cells.csv(&mut out, row);
                } else {
                    cells.json(&mut out, row);
                }
            }
            match self.format {
                Format::Csv => out.push(b'\n'),
                Format::Json => out.push(b'}'),
                Format::Jsonl | Format::Parquet => out.extend_from_slice(b"}\n"),
            }
        }
        Ok(out)
    }
}

/// One column, its type known.
struct Cells<'a> {
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    Tiny(&'a Int8Array),
    Short(&'a Int32Array),
    Int(&'a Int64Array),
    Float(&'a Float64Array),
    Bool(&'a BooleanArray),
    Text(&'a StringArray),
    Time(&'a TimestampMicrosecondArray),
}

impl<'a> Cells<'a> {
    fn of(array: &'a Arc<dyn Array>) -> Result<Self, ArrowError> {
        let values = match array.data_type() {
            DataType::Int8 => Values::Tiny(array.as_primitive::<Int8Type>()),
            DataType::Int32 => Values::Short(array.as_primitive::<Int32Type>()),
            DataType::Int64 => Values::Int(array.as_primitive::<Int64Type>()),
            DataType::Float64 => Values::Float(array.as_primitive::<Float64Type>()),
            DataType::Boolean => Values::Bool(array.as_boolean()),
            DataType::Utf8 => Values::Text(array.as_string()),
            DataType::Timestamp(..) => {
                Values::Time(array.as_primitive::<TimestampMicrosecondType>())
            }
            other => {
                let what = format!("a column of {other} as text");
                return Err(ArrowError::NotYetImplemented(what));
            }
        };
        let nulls = array.nulls();
        Ok(Self { nulls, values })
    }

    fn is_null(&self, at: usize) -> bool {
        self.nulls.is_some_and(|nulls| nulls.is_null(at))
    }

    fn csv(&self, out: &mut Vec<u8>, at: usize) {
        if self.is_null(at) {
            return;
        }
        match self.values {
            Values::Float(a) => put_float(out, a.value(at)),
            Values::Text(a) => csv_text(out, a.value(at)),
            Values::Time(a) => put_stamp(out, a.value(at), MICROS),
            _ => self.plain(out, at),
        }
    }

    fn json(&self, out: &mut Vec<u8>, at: usize) {
        if self.is_null(at) {
            out.extend_from_slice(b"null");
            return;
        }
        match self.values {
            Values::Float(a) if a.value(at).is_finite() => put_json(out, &a.value(at)),
            // "NaN", "inf", "-inf"
            Values::Float(a) => {
                out.push(b'"');
                put_float(out, a.value(at));
                out.push(b'"');
            }
            Values::Text(a) => put_json(out, a.value(at)),
            Values::Time(a) => {
                out.push(b'"');
                put_stamp(out, a.value(at), MICROS);
                out.push(b'"');
            }
            _ => self.plain(out, at),
        }
    }

    /// What is written the same everywhere.
    fn plain(&self, out: &mut Vec<u8>, at: usize) {
        match self.values {
            Values::Tiny(a) => put_int(out, a.value(at).into()),
            Values::Short(a) => put_int(out, a.value(at).into()),
            Values::Int(a) => put_int(out, a.value(at)),
            Values::Bool(a) => {
                let word: &[u8] = if a.value(at) { b"true" } else { b"false" };
                out.extend_from_slice(word);
            }
            Values::Float(_) | Values::Text(_) | Values::Time(_) => {}
        }
    }
}

fn put_int(out: &mut Vec<u8>, i: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(i).as_bytes());
}

/// As `{:?}` prints it.
///
/// Both give the shortest text that reads back as the number, and of those the one that is closest to it. Where two
/// are equally close they choose differently; then the number's own digits end behind one more, a 5, which takes long
/// texts of numbers that have few binary places.
fn put_float(out: &mut Vec<u8>, x: f64) {
    // There both print digits with a point among them, and outside one of them an exponent.
    if (1e-4..1e16).contains(&x.abs()) {
        let mut buffer = zmij::Buffer::new();
        let text = buffer.format_finite(x);
        if text.len() < LONG_TEXT || (x * BINARY_PLACES).fract() != 0.0 {
            out.extend_from_slice(text.as_bytes());
            return;
        }
    }
    if write!(out, "{x:?}").is_err() {
        unreachable!("memory takes what it is given");
    }
}

fn put_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    if serde_json::to_writer(out, value).is_err() {
        unreachable!("neither texts nor numbers can fail to be JSON");
    }
}

/// Quoted where a reader would take it for something else, and when empty, since nothing at all is null.
fn csv_text(out: &mut Vec<u8>, text: &str) {
    let plain = !text.is_empty() && text.trim() == text && !text.contains([',', '"', '\n', '\r']);
    if plain {
        out.extend_from_slice(text.as_bytes());
    } else {
        out.push(b'"');
        out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
        out.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use expman_model::time::rfc3339_us;
    use proptest::prelude::*;

    use super::*;

    fn printed(x: f64) -> String {
        let mut out = Vec::new();
        put_float(&mut out, x);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn floats_of_all_sizes_print_as_they_always_did() {
        let edges = [
            0.0,
            -0.0,
            1.0,
            1e-4,
            9.999_999_999_999_999e-5,
            1e-5,
            1e15,
            1e16,
            9_999_999_999_999_998.0,
            9_007_199_254_740_993.0,
            0.1,
            0.3,
            5e-324,
            f64::MAX,
            f64::NAN,
            f64::INFINITY,
            1.5e300,
            123_456.0,
        ];
        for x in edges {
            assert_eq!(printed(x), format!("{x:?}"));
            assert_eq!(printed(-x), format!("{:?}", -x));
        }
        for n in 0..200_000u32 {
            // Short numbers, and neighbours of them.
            let short = f64::from(n) / 1_000.0;
            for x in [short, short.next_up(), short * 1e9, short.next_down()] {
                assert_eq!(printed(x), format!("{x:?}"));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]
        #[test]
        fn floats_print_as_they_always_did(bits: u64, exponent in 1_000u64..1_080) {
            let anything = f64::from_bits(bits);
            prop_assert_eq!(printed(anything), format!("{anything:?}"));
            let usual = f64::from_bits(bits & !(0x7FF << 52) | exponent << 52);
            prop_assert_eq!(printed(usual), format!("{usual:?}"));
            // Few binary places: some of them lie halfway between two shortest texts.
            for places in 0..52 {
                let few = f64::from_bits(usual.to_bits() >> places << places);
                prop_assert_eq!(printed(few), format!("{few:?}"));
            }
        }

        #[test]
        fn times_print_as_they_always_did(us: i64, recent in 0i64..4_000_000_000_000_000) {
            for us in [us, recent] {
                let mut out = Vec::new();
                put_stamp(&mut out, us, MICROS);
                prop_assert_eq!(String::from_utf8(out).unwrap(), rfc3339_us(us));
            }
        }
    }
}
