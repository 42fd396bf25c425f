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
mod text;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use self::text::TextTable;
use crate::durable;
use crate::error::{At, Result, StorageError};
use crate::rows::{self, Rows};
use crate::spread::ahead;
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
            let make = |at| wide.piece(at);
            encode(out, path, wide.schema(), wide.pieces(), make, format)
        }
        Shape::Long => {
            let order = rows.sorted();
            let chunks: Vec<_> = order.places.chunks(LONG_CHUNK_ROWS).collect();
            let make = |at: usize| rows.batch(chunks[at]);
            encode(out, path, &rows::schema(), chunks.len(), make, format)
        }
    }
}

/// Writes a table that comes in pieces, which are made while others are written.
fn encode(
    mut out: impl Write + Send,
    path: &Path,
    schema: &SchemaRef,
    pieces: usize,
    make: impl Fn(usize) -> Result<RecordBatch, ArrowError> + Sync,
    format: Format,
) -> Result<usize> {
    if format == Format::Parquet {
        return thread::scope(|scope| {
            let (give, batches) = mpsc::sync_channel(1);
            let make = &make;
            scope.spawn(move || (0..pieces).try_for_each(|at| give.send(make(at))));
            columnar::write(out, path, schema, batches.into_iter())
        });
    }
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let table = TextTable::new(&names, format);
    let mut rows = 0;
    out.write_all(&table.head).at("write", path)?;
    let piece = |at: usize| {
        let batch = make(at).at("encode", path)?;
        Ok::<_, StorageError>((table.piece(path, &batch, at == 0)?, batch.num_rows()))
    };
    ahead(pieces, piece, |piece| {
        let (text, count) = piece?;
        rows += count;
        out.write_all(&text).at("write", path)
    })?;
    if format == Format::Json {
        out.write_all(if rows == 0 { b"]\n" } else { b"\n]\n" })
            .at("write", path)?;
    }
    out.flush().at("write", path)?;
    Ok(rows)
}
