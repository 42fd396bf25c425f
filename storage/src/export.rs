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
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::thread;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use self::text::TextTable;
use crate::catalog::{RunEntry, RunKind};
use crate::durable;
use crate::error::{At, Result, StorageError};
use crate::legacy::read_rows;
use crate::reader::{Files, Filter};
use crate::rows::{self, Rows};
use crate::spread::ahead;
use crate::wide::{Parts, Wide};

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

/// A table of a run: its rows, or where they are, to be read while it is written.
#[derive(Debug)]
pub struct Table {
    source: Source,
    shape: Shape,
    problems: Vec<String>,
}

#[derive(Debug)]
enum Source {
    Rows(Rows),
    Parts(Parts),
}

impl Table {
    /// The wanted rows of a run as they stand now.
    ///
    /// # Errors
    /// When a file can't be read, or is damaged.
    pub fn open(run: &RunEntry, filter: &Filter, shape: Shape) -> Result<Self> {
        if run.kind == RunKind::Mesh && shape == Shape::Wide {
            // What is wrong with a file is told by who reads all of it.
            let parts = Files::settled(&run.dir).and_then(|files| Parts::of(files, filter));
            if let Ok(Some(parts)) = parts {
                return Ok(Self {
                    source: Source::Parts(parts),
                    shape,
                    problems: Vec::new(),
                });
            }
        }
        let read = read_rows(run, filter)?;
        Ok(Self {
            source: Source::Rows(read.rows),
            shape,
            problems: read.problems,
        })
    }

    /// Whether some row is of a metric.
    #[must_use]
    pub fn has(&self, metric: &str) -> bool {
        match &self.source {
            Source::Rows(rows) => rows.keys.get(metric).is_some(),
            Source::Parts(parts) => parts.layout().has(metric),
        }
    }

    /// What was found damaged and left out.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// As [`to_file`].
    ///
    /// # Errors
    /// See there.
    pub fn to_file(&self, path: &Path, format: Format) -> Result<usize> {
        all_or_nothing(path, |out, path| self.to_writer(out, path, format))
    }

    /// As [`to_writer`].
    ///
    /// # Errors
    /// See there; and when a file of the run can't be read.
    pub fn to_writer(&self, out: impl Write + Send, path: &Path, format: Format) -> Result<usize> {
        match &self.source {
            Source::Rows(rows) => to_writer(out, path, rows, self.shape, format),
            Source::Parts(parts) => {
                let read = AtomicU64::new(0);
                let make = |at, give: &mut Give<'_>| {
                    read.fetch_add(parts.part(at, path, give), Relaxed);
                };
                let rows = encode(out, path, &parts.layout().schema, parts.len(), make, format)?;
                parts.check(read.into_inner())?;
                Ok(rows)
            }
        }
    }
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
            let make = |at, give: &mut Give<'_>| {
                give(wide.piece(at).at("encode", path));
            };
            encode(out, path, wide.schema(), wide.pieces(), make, format)
        }
        Shape::Long => {
            let order = rows.sorted();
            let chunks: Vec<_> = order.places.chunks(LONG_CHUNK_ROWS).collect();
            let make = |at: usize, give: &mut Give<'_>| {
                give(rows.batch(chunks[at]).at("encode", path));
            };
            encode(out, path, &rows::schema(), chunks.len(), make, format)
        }
    }
}

/// Takes rows of a table, and says whether more are wanted.
type Give<'a> = dyn FnMut(Result<RecordBatch>) -> bool + 'a;

/// Writes a table that comes in pieces, which are made while others are written.
fn encode(
    mut out: impl Write + Send,
    path: &Path,
    schema: &SchemaRef,
    pieces: usize,
    make: impl Fn(usize, &mut Give<'_>) + Sync,
    format: Format,
) -> Result<usize> {
    if format == Format::Parquet {
        return thread::scope(|scope| {
            let (give, batches) = mpsc::sync_channel(1);
            let make = &make;
            scope.spawn(move || ahead(pieces, |at, give| make(at, give), |batch| give.send(batch)));
            columnar::write(out, path, schema, batches.into_iter())
        });
    }
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let table = TextTable::new(&names, format);
    let mut rows = 0;
    out.write_all(&table.head).at("write", path)?;
    let printed = |batch: Result<RecordBatch>| {
        let batch = batch?;
        Ok::<_, StorageError>((table.text(path, &batch)?, batch.num_rows()))
    };
    let print = |at: usize, give: &mut dyn FnMut(_) -> bool| {
        make(at, &mut |batch| give(printed(batch)));
    };
    ahead(pieces, print, |piece| {
        let (text, count) = piece?;
        let text = if rows == 0 { table.first(&text) } else { &text };
        rows += count;
        out.write_all(text).at("write", path)
    })?;
    if format == Format::Json {
        out.write_all(if rows == 0 { b"]\n" } else { b"\n]\n" })
            .at("write", path)?;
    }
    out.flush().at("write", path)?;
    Ok(rows)
}
