//! Parquet files of rows: sorted writing, and publishing by splicing whole row groups.

mod chunk;
mod columns;
mod encode;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use parquet::arrow::ArrowSchemaConverter;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescriptor;

use self::columns::Columns;
use crate::durable::{self, Prepared};
use crate::error::{At, Result, StorageError};
use crate::guard::guarded;
use crate::nesting;
use crate::rows::{Order, Rows, schema};

/// Rows of a row group.
const ROW_GROUP_ROWS: usize = 262_144;
/// Rows of a data page: a multiple of 1,024, so that the pages of all columns align.
const PAGE_ROWS: usize = 8_192;
/// Where a file tells that it holds the rows `[0, hi)`.
const HI: &str = "expman.hi";

fn properties(hi: u64) -> WriterProperties {
    WriterProperties::builder()
        .set_created_by(concat!("expman-mesh version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(vec![KeyValue::new(HI.to_owned(), hi.to_string())]))
        .build()
}

fn descriptor() -> Result<SchemaDescriptor, ParquetError> {
    ArrowSchemaConverter::new().convert(&schema())
}

/// Writes rows, sorted, as one file that claims the rows up to `hi`.
///
/// # Errors
/// When encoding or writing fails; `path` then has its old content.
pub fn write_sorted(path: &Path, rows: &Rows, hi: u64) -> Result<()> {
    prepare_sorted(path, rows, hi)?.publish(None)
}

/// [`write_sorted`], up to the moment when it gets its name.
pub(crate) fn prepare_sorted(path: &Path, rows: &Rows, hi: u64) -> Result<Prepared> {
    prepare_in_order(path, rows, &rows.sorted(), hi)
}

/// [`prepare_sorted`] for who has sorted them.
pub(crate) fn prepare_in_order(
    path: &Path,
    rows: &Rows,
    order: &Order,
    hi: u64,
) -> Result<Prepared> {
    let mut next = Prepared::new(path)?;
    let tmp = next.tmp.clone();
    let descriptor = descriptor().at("encode", &tmp)?;
    let props = Arc::new(properties(hi));
    let mut out = SerializedFileWriter::new(&mut next.file, descriptor.root_schema_ptr(), props)
        .at("encode", &tmp)?;
    let mut columns = Columns::new(rows, &descriptor).at("encode", &tmp)?;
    for from in (0..order.places.len()).step_by(ROW_GROUP_ROWS) {
        let to = order.places.len().min(from + ROW_GROUP_ROWS);
        let mut group = out.next_row_group().at("encode", &tmp)?;
        columns
            .each(order, from, to, |bytes, close| {
                group.append_column(&bytes, close)
            })
            .at("encode", &tmp)?;
        group.close().at("encode", &tmp)?;
    }
    out.close().at("encode", &tmp)?;
    plain_column_orders(&next.file, &tmp)?;
    Ok(next)
}

/// Joins whole files into one without decoding them: the row groups of `sources` in their order.
///
/// The bytes up to the last row group of the first source stay where they are, so that a reader
/// which opened the old file and the new one by the same name reads the same pages.
///
/// # Errors
/// When a source can't be read or the result can't be written; `path` then has its old content.
pub fn splice(path: &Path, sources: &[&Path], hi: u64) -> Result<()> {
    prepare_spliced(path, sources, hi)?.publish(None)
}

/// [`splice`], up to the moment when it gets its name.
pub(crate) fn prepare_spliced(path: &Path, sources: &[&Path], hi: u64) -> Result<Prepared> {
    guarded(path, || join(path, sources, hi))
}

fn join(path: &Path, sources: &[&Path], hi: u64) -> Result<Prepared> {
    let mut next = Prepared::new(path)?;
    let tmp = next.tmp.clone();
    let props = Arc::new(properties(hi));
    let descriptor = descriptor().at("encode", &tmp)?;
    let mut out = SerializedFileWriter::new(&mut next.file, descriptor.root_schema_ptr(), props)
        .at("encode", &tmp)?;
    for source in sources {
        let input = durable::open_read(source)?;
        let meta = metadata(&input, source)?;
        for (group, group_meta) in meta.row_groups().iter().enumerate() {
            let index = meta.page_index_for_row_group(group);
            let mut to = out.next_row_group().at("encode", &tmp)?;
            for (column, chunk) in group_meta.columns().iter().enumerate() {
                let close = ColumnCloseResult {
                    bytes_written: u64::try_from(chunk.compressed_size()).unwrap_or(0),
                    rows_written: u64::try_from(group_meta.num_rows()).unwrap_or(0),
                    metadata: chunk.clone(),
                    bloom_filter: None,
                    column_index: index.column_index(column).cloned(),
                    offset_index: index.offset_index(column).cloned(),
                };
                to.append_column(&input, close).at("copy", &tmp)?;
            }
            to.close().at("encode", &tmp)?;
        }
    }
    out.close().at("encode", &tmp)?;
    next.file.flush().at("write", &tmp)?;
    plain_column_orders(&next.file, &tmp)?;
    Ok(next)
}

fn metadata(file: &File, path: &Path) -> Result<ParquetMetaData> {
    nesting::check(file, path)?;
    guarded(path, || {
        ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Optional)
            .parse_and_finish(file)
            .at("read", path)
    })
}

/// The `hi` that a file claims; `None` when it is not ours.
#[must_use]
pub fn claimed_hi(meta: &ParquetMetaData) -> Option<u64> {
    let pairs = meta.file_metadata().key_value_metadata()?;
    pairs
        .iter()
        .find(|kv| kv.key == HI)?
        .value
        .as_ref()?
        .parse()
        .ok()
}

/// The `hi` of a published file.
///
/// # Errors
/// When it is no Parquet file, or not ours.
pub fn read_hi(path: &Path) -> Result<u64> {
    extent(path).map(|(hi, _)| hi)
}

/// The `hi` of a published file, and its number of row groups.
pub(crate) fn extent(path: &Path) -> Result<(u64, usize)> {
    let meta = footer(path)?;
    let hi = claimed_hi(&meta).ok_or_else(|| StorageError::Damaged {
        path: path.to_owned(),
        offset: 0,
        what: format!("its metadata lacks {HI}"),
    })?;
    Ok((hi, meta.num_row_groups()))
}

/// A file's metadata without its page index.
fn footer(path: &Path) -> Result<ParquetMetaData> {
    let file = durable::open_read(path)?;
    nesting::check(&file, path)?;
    guarded(path, || {
        ParquetMetaDataReader::new()
            .parse_and_finish(&file)
            .at("read", path)
    })
}

/// Declares the type-defined column order for every column.
///
/// The encoder declares the IEEE 754 total order for floats, which readers as new as polars 1.42 and `DataFusion` 50
/// refuse to open; no statistics depend on it here. The orders are the footer's last field, three bytes each.
fn plain_column_orders(file: &File, path: &Path) -> Result<()> {
    const TRAILER: u64 = 8 + 1;
    let columns = schema().fields().len();
    let length = file.metadata().at("stat", path)?.len();
    let damaged = |what: &str| StorageError::Damaged {
        path: path.to_owned(),
        offset: length,
        what: what.to_owned(),
    };
    let start = length
        .checked_sub(TRAILER + 3 * columns as u64)
        .ok_or_else(|| damaged("the footer is too short"))?;
    let mut orders = durable::read_at(file, path, start, 3 * columns)?;
    for order in orders.chunks_exact_mut(3) {
        match order {
            [0x1C | 0x2C, 0, 0] => order[0] = 0x1C,
            _ => return Err(damaged("the footer does not end with column orders")),
        }
    }
    file.write_all_at(&orders, start).at("write", path)
}
