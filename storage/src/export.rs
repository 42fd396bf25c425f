//! A run's rows as a file for other programs: CSV, JSON, JSON lines or Parquet, wide or long.
//!
//! Wide is one row per call, see [`crate::wide`]; long has the columns of `metrics.parquet`, one row per metric of a call.
//!
//! - CSV: a header, then one line per row. Null is an empty field, empty text is `""`; floats print so that they
//!   read back exactly, non-finite ones as `NaN`, `inf`, `-inf`; times are RFC 3339 in UTC with microseconds.
//! - JSON: an array of objects; JSON lines: one object a line. Every object has every column, absent values are `null`;
//!   JSON has no number for what is not finite, so it is written as `"NaN"`, `"inf"` or `"-inf"`.
//! - Parquet: zstd, timestamps as microseconds in UTC.

mod columnar;
pub mod logs;
pub mod stream;

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Float64Type, Int8Type, Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use expman_model::time::rfc3339_us;

use crate::durable;
use crate::error::{At, Result};
use crate::rows::{self, Rows};
use crate::wide::Wide;

/// Rows of a long table encoded at once.
const LONG_CHUNK_ROWS: usize = 65_536;

/// How the table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated, with a header.
    Csv,
    /// An array of objects.
    Json,
    /// One object a line.
    Jsonl,
    /// Columns.
    Parquet,
}

/// Which table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One row per call.
    Wide,
    /// One row per metric of a call.
    Long,
}

/// Writes a table to a file, all or nothing; what stood there is replaced. Returns the number of its rows.
///
/// A path that stands for something other than a file (a pipe, a terminal) is written to as it is.
///
/// # Errors
/// When the file can't be written; it then has its old content.
pub fn to_file(path: &Path, rows: &Rows, shape: Shape, format: Format) -> Result<usize> {
    all_or_nothing(path, |out, path| to_writer(out, path, rows, shape, format))
}

/// Lets `write` fill a file that gets its name when it is whole; what is no file is written to as it is.
fn all_or_nothing(
    path: &Path,
    write: impl FnOnce(&fs::File, &Path) -> Result<usize>,
) -> Result<usize> {
    if fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        let file = OpenOptions::new().write(true).open(path).at("open", path)?;
        return write(&file, path);
    }
    // A bare name has an empty parent, which can't be synced.
    let beside = path
        .parent()
        .is_some_and(|parent| parent.as_os_str().is_empty());
    let path = &if beside {
        Path::new(".").join(path)
    } else {
        path.to_owned()
    };
    let tmp = durable::temporary(path);
    let file = durable::create(&tmp)?;
    let written =
        write(&file, &tmp).and_then(|count| durable::publish(&tmp, &file, path).map(|()| count));
    if written.is_err() {
        // The first error is the one to tell.
        fs::remove_file(&tmp).unwrap_or_default();
    }
    written
}

/// Writes a table to `out`, which messages call `path`. Returns the number of its rows.
///
/// # Errors
/// When `out` takes no more.
pub fn to_writer(
    out: impl Write + Send,
    path: &Path,
    rows: &Rows,
    shape: Shape,
    format: Format,
) -> Result<usize> {
    match shape {
        Shape::Wide => {
            let wide = Wide::new(rows);
            encode(out, path, wide.schema(), wide.batches(), format)
        }
        Shape::Long => {
            let order = rows.sorted();
            let chunks = order.places.chunks(LONG_CHUNK_ROWS);
            let batches = chunks.map(|chunk| rows.batch(chunk));
            encode(out, path, &rows::schema(), batches, format)
        }
    }
}

fn encode(
    out: impl Write + Send,
    path: &Path,
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
    format: Format,
) -> Result<usize> {
    if format == Format::Parquet {
        return columnar::write(out, path, schema, batches);
    }
    let mut out = BufWriter::with_capacity(1 << 16, out);
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let mut rows = 0;
    text_head(&mut out, &names, format).at("write", path)?;
    for batch in batches {
        let batch = batch.at("encode", path)?;
        let cells = columns(path, &batch)?;
        for row in 0..batch.num_rows() {
            text_row(&mut out, &names, &cells, row, rows == 0, format).at("write", path)?;
            rows += 1;
        }
    }
    if format == Format::Json {
        out.write_all(if rows == 0 { b"]\n" } else { b"\n]\n" })
            .at("write", path)?;
    }
    out.flush().at("write", path)?;
    Ok(rows)
}

fn text_head(out: &mut impl Write, names: &[&str], format: Format) -> io::Result<()> {
    match format {
        Format::Csv => {
            for (i, name) in names.iter().enumerate() {
                if i > 0 {
                    out.write_all(b",")?;
                }
                csv_text(out, name)?;
            }
            out.write_all(b"\n")
        }
        Format::Json => out.write_all(b"["),
        Format::Jsonl | Format::Parquet => Ok(()),
    }
}

fn text_row(
    out: &mut impl Write,
    names: &[&str],
    cells: &[Cells<'_>],
    row: usize,
    first: bool,
    format: Format,
) -> io::Result<()> {
    if format == Format::Csv {
        for (i, cells) in cells.iter().enumerate() {
            if i > 0 {
                out.write_all(b",")?;
            }
            csv_cell(out, cells.at(row))?;
        }
        return out.write_all(b"\n");
    }
    if format == Format::Json {
        out.write_all(if first { b"\n" } else { b",\n" })?;
    }
    for (i, (name, cells)) in names.iter().zip(cells).enumerate() {
        out.write_all(if i == 0 { b"{" } else { b"," })?;
        serde_json::to_writer(&mut *out, name)?;
        out.write_all(b":")?;
        json_cell(out, cells.at(row))?;
    }
    out.write_all(if format == Format::Jsonl {
        b"}\n"
    } else {
        b"}"
    })
}

/// One column, its type known.
#[derive(Debug, Clone, Copy)]
enum Cells<'a> {
    Tiny(&'a arrow::array::Int8Array),
    Short(&'a arrow::array::Int32Array),
    Int(&'a arrow::array::Int64Array),
    Float(&'a arrow::array::Float64Array),
    Bool(&'a arrow::array::BooleanArray),
    Text(&'a arrow::array::StringArray),
    Time(&'a arrow::array::TimestampMicrosecondArray),
}

/// One value of a table.
#[derive(Debug, Clone, Copy)]
enum Cell<'a> {
    Null,
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(&'a str),
    Time(i64),
}

impl<'a> Cells<'a> {
    fn at(self, i: usize) -> Cell<'a> {
        let array: &dyn Array = match self {
            Self::Tiny(a) => a,
            Self::Short(a) => a,
            Self::Int(a) => a,
            Self::Float(a) => a,
            Self::Bool(a) => a,
            Self::Text(a) => a,
            Self::Time(a) => a,
        };
        if array.is_null(i) {
            return Cell::Null;
        }
        match self {
            Self::Tiny(a) => Cell::Int(a.value(i).into()),
            Self::Short(a) => Cell::Int(a.value(i).into()),
            Self::Int(a) => Cell::Int(a.value(i)),
            Self::Float(a) => Cell::Float(a.value(i)),
            Self::Bool(a) => Cell::Bool(a.value(i)),
            Self::Text(a) => Cell::Text(a.value(i)),
            Self::Time(a) => Cell::Time(a.value(i)),
        }
    }
}

fn columns<'a>(path: &Path, batch: &'a RecordBatch) -> Result<Vec<Cells<'a>>> {
    let typed = |array: &'a Arc<dyn Array>| match array.data_type() {
        DataType::Int8 => Ok(Cells::Tiny(array.as_primitive::<Int8Type>())),
        DataType::Int32 => Ok(Cells::Short(array.as_primitive::<Int32Type>())),
        DataType::Int64 => Ok(Cells::Int(array.as_primitive::<Int64Type>())),
        DataType::Float64 => Ok(Cells::Float(array.as_primitive::<Float64Type>())),
        DataType::Boolean => Ok(Cells::Bool(array.as_boolean())),
        DataType::Utf8 => Ok(Cells::Text(array.as_string())),
        DataType::Timestamp(..) => Ok(Cells::Time(
            array.as_primitive::<TimestampMicrosecondType>(),
        )),
        other => Err(ArrowError::NotYetImplemented(format!(
            "a column of {other} as text"
        ))),
    };
    batch
        .columns()
        .iter()
        .map(typed)
        .collect::<Result<_, _>>()
        .at("encode", path)
}

fn csv_cell(out: &mut impl Write, cell: Cell<'_>) -> io::Result<()> {
    match cell {
        Cell::Null => Ok(()),
        Cell::Int(i) => write!(out, "{i}"),
        Cell::Float(x) => write!(out, "{x:?}"),
        Cell::Bool(b) => write!(out, "{b}"),
        Cell::Text(s) => csv_text(out, s),
        Cell::Time(us) => out.write_all(rfc3339_us(us).as_bytes()),
    }
}

/// Quoted where a reader would take it for something else, and when empty, since nothing at all is null.
fn csv_text(out: &mut impl Write, text: &str) -> io::Result<()> {
    let plain = !text.is_empty() && text.trim() == text && !text.contains([',', '"', '\n', '\r']);
    if plain {
        out.write_all(text.as_bytes())
    } else {
        write!(out, "\"{}\"", text.replace('"', "\"\""))
    }
}

fn json_cell(out: &mut impl Write, cell: Cell<'_>) -> io::Result<()> {
    match cell {
        Cell::Null => out.write_all(b"null"),
        Cell::Int(i) => write!(out, "{i}"),
        Cell::Float(x) if x.is_finite() => Ok(serde_json::to_writer(out, &x)?),
        // "NaN", "inf", "-inf"
        Cell::Float(x) => write!(out, "\"{x:?}\""),
        Cell::Bool(b) => write!(out, "{b}"),
        Cell::Text(s) => Ok(serde_json::to_writer(out, s)?),
        Cell::Time(us) => write!(out, "\"{}\"", rfc3339_us(us)),
    }
}
