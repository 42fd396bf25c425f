//! The first rows of a table that a run saved, as text for people.

use std::fmt::{Display, Write};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, make_array};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use serde::Serialize;

use crate::error::{At, Result, StorageError};
use crate::guard::guarded;
use crate::nesting;

/// Columns that are shown.
const COLUMNS_MAX: usize = 200;
/// Characters of a cell.
const CELL_CHARS: usize = 200;

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 64;

/// In place of a value that has no text form here.
const UNSHOWN: &str = "(not shown)";

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableColumn {
    /// Its name.
    pub name: String,
    /// Its type, in the words of the format; empty where the format has none.
    pub r#type: String,
}

/// The beginning of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Table {
    /// Its columns.
    pub columns: Vec<TableColumn>,
    /// Its first rows, a text for each column; none for a null.
    pub rows: Vec<Vec<Option<String>>>,
    /// How many it has, where that is known without reading them.
    pub total_rows: Option<u64>,
    /// Whether there are rows or columns that are not here.
    pub truncated: bool,
}

/// The beginning of a Parquet file.
///
/// # Errors
/// When it is none, or damaged.
pub fn parquet_table(file: File, path: &Path, rows_max: usize) -> Result<Table> {
    nesting::check(&file, path)?;
    guarded(path, || {
        let known = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).at("read", path)?;
        let meta = known.metadata();
        let total = meta.file_metadata().num_rows();
        let fields = known.schema().fields();
        let shown = fields.len().min(COLUMNS_MAX);
        let columns = fields[..shown].iter().map(|field| TableColumn {
            name: clipped(field.name()),
            r#type: clipped(field.data_type()),
        });
        let mut table = Table {
            columns: columns.collect(),
            rows: Vec::new(),
            total_rows: u64::try_from(total).ok(),
            truncated: shown < fields.len(),
        };
        let views = fields.iter().map(|field| Arc::new(viewed(field)));
        let views =
            Schema::new_with_metadata(views.collect::<Fields>(), known.schema().metadata().clone());
        let options = ArrowReaderOptions::new().with_schema(Arc::new(views));
        let known = ArrowReaderMetadata::try_new(Arc::clone(meta), options).at("read", path)?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, known);
        let mask = ProjectionMask::roots(builder.parquet_schema(), 0..shown);
        let reader = builder
            .with_projection(mask)
            .with_batch_size(rows_max.clamp(1, BATCH_ROWS))
            .with_limit(rows_max)
            .build()
            .at("read", path)?;
        let options = FormatOptions::default().with_null("");
        for batch in reader {
            let batch = batch.map_err(|source| StorageError::Arrow {
                path: path.to_owned(),
                source,
            })?;
            let columns: Vec<ArrayRef> = batch.columns().iter().map(without_zone).collect();
            let cells: Vec<_> = columns
                .iter()
                .map(|column| ArrayFormatter::try_new(column, &options))
                .collect();
            for row in 0..batch.num_rows() {
                let texts = cells.iter().zip(&columns).map(|(cell, column)| {
                    let text = match cell {
                        Ok(cell) => clipped(cell.value(row)),
                        Err(_) => UNSHOWN.to_owned(),
                    };
                    (!column.is_null(row)).then_some(text)
                });
                table.rows.push(texts.collect());
            }
        }
        table.truncated |= table
            .total_rows
            .is_some_and(|n| n > table.rows.len() as u64);
        Ok(table)
    })
}

/// A column of texts or bytes as one that points to them: a long one in a dictionary may be that of every row.
fn viewed(field: &Field) -> Field {
    let r#type = match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        other => other.clone(),
    };
    field.clone().with_data_type(r#type)
}

/// Moments of a time zone as those of UTC, which is how they are stored; zones by name are not known here.
fn without_zone(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Timestamp(unit, Some(_)) => {
            let plain = DataType::Timestamp(*unit, None);
            let data = column.to_data().into_builder().data_type(plain).build();
            data.map_or_else(|_kept| Arc::clone(column), make_array)
        }
        _ => Arc::clone(column),
    }
}

/// The beginning of comma-separated values: the first line names the columns.
///
/// `text` may end in the middle of a row; `is_whole` says that it does not.
#[must_use]
pub fn csv_table(text: &[u8], is_whole: bool, rows_max: usize) -> Table {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text);
    let utf8 = |bytes: &[u8]| clipped(String::from_utf8_lossy(bytes));
    let names = reader.byte_headers().cloned().unwrap_or_default();
    let shown = names.len().min(COLUMNS_MAX);
    let columns = names.iter().take(shown).map(|name| TableColumn {
        name: utf8(name),
        r#type: String::new(),
    });
    let mut table = Table {
        columns: columns.collect(),
        rows: Vec::new(),
        total_rows: None,
        truncated: shown < names.len() || !is_whole,
    };
    let mut records = reader.into_byte_records().map_while(Result::ok).peekable();
    while let Some(record) = records.next() {
        if table.rows.len() == rows_max {
            table.truncated = true;
            return table;
        }
        // The last row of a piece may go on behind it.
        if is_whole || records.peek().is_some() {
            let cells = (0..shown).map(|n| record.get(n).map(utf8));
            table.rows.push(cells.collect());
        }
    }
    if is_whole {
        table.total_rows = Some(table.rows.len() as u64);
    }
    table
}

/// The beginning of a text; no more of it is made.
fn clipped(text: impl Display) -> String {
    let mut clip = Clip {
        text: String::new(),
        room: CELL_CHARS,
    };
    if write!(clip, "{text}").is_err() {
        clip.text.push('…');
    }
    clip.text
}

/// Takes a text until it is full.
struct Clip {
    text: String,
    /// Characters that it still takes.
    room: usize,
}

impl Write for Clip {
    fn write_str(&mut self, more: &str) -> std::fmt::Result {
        let end = more.char_indices().nth(self.room).map(|(at, _)| at);
        let taken = &more[..end.unwrap_or(more.len())];
        self.text.push_str(taken);
        self.room -= taken.chars().count();
        end.map_or(Ok(()), |_more| Err(std::fmt::Error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_csv_that_was_cut_shows_whole_rows_only() {
        let text = b"a,b\n1,\"x,\ny\"\n2,z\n3,ha";
        let cut = csv_table(text, false, 10);
        let row = |cells: [&str; 2]| cells.map(|c| Some(c.to_owned())).to_vec();
        assert_eq!(cut.rows, [row(["1", "x,\ny"]), row(["2", "z"])]);
        assert!(cut.truncated && cut.total_rows.is_none());
        let whole = csv_table(text, true, 10);
        assert_eq!(
            (whole.rows.len(), whole.total_rows, whole.truncated),
            (3, Some(3), false)
        );
        assert!(csv_table(text, true, 2).truncated);
        assert_eq!(csv_table(b"", true, 10).columns, []);
    }

    #[test]
    fn moments_of_a_named_zone_are_shown() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("x.parquet");
        let mut rows = crate::Rows::default();
        rows.push_row(&crate::Row {
            key: "loss",
            rank: 0,
            step: Some(1),
            timestamp_us: 1_767_225_600_000_000,
            attempt: 0,
            seq: 1,
            value: expman_model::record::ValueRef::Float(0.5),
        });
        crate::segment::write_sorted(&path, &rows, 1).unwrap();
        let table = parquet_table(File::open(&path).unwrap(), &path, 5).unwrap();
        let at = |name: &str| table.columns.iter().position(|c| c.name == name).unwrap();
        let cell = |name: &str| table.rows[0][at(name)].clone().unwrap();
        assert_eq!(
            (cell("key").as_str(), cell("value").as_str()),
            ("loss", "0.5")
        );
        assert!(
            cell("timestamp").starts_with("2026-01-01T00:00:00"),
            "{}",
            cell("timestamp")
        );
    }

    #[test]
    fn little_of_a_long_value_is_made() {
        let room = "é".repeat(CELL_CHARS);
        assert_eq!(clipped(&room), room);
        assert_eq!(clipped(format!("{room}x")), format!("{room}…"));
        assert_eq!(clipped(format_args!("{room}{}", 1)), format!("{room}…"));
    }

    #[test]
    fn what_is_no_parquet_is_an_error() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("x.parquet");
        crate::durable::replace(&path, b"PAR1 nothing PAR1").unwrap();
        assert!(parquet_table(File::open(&path).unwrap(), &path, 5).is_err());
    }
}
