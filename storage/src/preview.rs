//! The first rows of a table that a run saved, as text for people.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::datatypes::{
    ArrowTimestampType, DataType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Serialize;

use crate::error::{At, Result, StorageError};
use crate::guard::guarded;

/// Columns that are shown.
const COLUMNS_MAX: usize = 200;
/// Characters of a cell.
const CELL_CHARS: usize = 200;

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
    guarded(path, || {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).at("read", path)?;
        let total = builder.metadata().file_metadata().num_rows();
        let fields = builder.schema().fields().clone();
        let shown = fields.len().min(COLUMNS_MAX);
        let columns = fields[..shown].iter().map(|field| TableColumn {
            name: field.name().clone(),
            r#type: field.data_type().to_string(),
        });
        let mut table = Table {
            columns: columns.collect(),
            rows: Vec::new(),
            total_rows: u64::try_from(total).ok(),
            truncated: shown < fields.len(),
        };
        let mask = parquet::arrow::ProjectionMask::roots(builder.parquet_schema(), 0..shown);
        let reader = builder
            .with_projection(mask)
            .with_batch_size(rows_max.max(1))
            .with_limit(rows_max)
            .build()
            .at("read", path)?;
        let options = FormatOptions::default().with_null("");
        let columns_error = |source| StorageError::Arrow {
            path: path.to_owned(),
            source,
        };
        for batch in reader {
            let batch = batch.map_err(columns_error)?;
            let shown: Vec<_> = batch.columns().iter().map(in_utc).collect();
            let cells = shown
                .iter()
                .map(|column| ArrayFormatter::try_new(column, &options))
                .collect::<Result<Vec<_>, _>>()
                .map_err(columns_error)?;
            for row in 0..batch.num_rows() {
                let texts = cells.iter().zip(batch.columns()).map(|(cell, column)| {
                    (!column.is_null(row)).then(|| clipped(&cell.value(row).to_string()))
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

/// The beginning of comma-separated values: the first line names the columns.
///
/// `text` may end in the middle of a row; `is_whole` says that it does not.
#[must_use]
pub fn csv_table(text: &[u8], is_whole: bool, rows_max: usize) -> Table {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text);
    let utf8 = |bytes: &[u8]| clipped(&String::from_utf8_lossy(bytes));
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

/// The same moments told in UTC: the formatter knows no time zone by its name, not even that one's.
fn in_utc(column: &ArrayRef) -> ArrayRef {
    fn told<T: ArrowTimestampType>(column: &ArrayRef) -> ArrayRef {
        let times: PrimitiveArray<T> = column.as_primitive::<T>().clone();
        Arc::new(times.with_timezone("+00:00"))
    }
    match column.data_type() {
        DataType::Timestamp(TimeUnit::Second, Some(_)) => told::<TimestampSecondType>(column),
        DataType::Timestamp(TimeUnit::Millisecond, Some(_)) => {
            told::<TimestampMillisecondType>(column)
        }
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
            told::<TimestampMicrosecondType>(column)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, Some(_)) => {
            told::<TimestampNanosecondType>(column)
        }
        _ => Arc::clone(column),
    }
}

fn clipped(text: &str) -> String {
    match text.char_indices().nth(CELL_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
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
    fn what_is_no_parquet_is_an_error() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("x.parquet");
        crate::durable::replace(&path, b"PAR1 nothing PAR1").unwrap();
        assert!(parquet_table(File::open(&path).unwrap(), &path, 5).is_err());
    }
}
