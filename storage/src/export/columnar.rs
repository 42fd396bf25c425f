//! Parquet exports: encoding that suits metrics, and a footer that older readers open.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::error::{At, Result};

/// Cells of a Parquet row group, so that very wide tables don't fill the memory.
const ROW_GROUP_CELLS: usize = 16 << 20;
/// Rows of a Parquet row group.
const ROW_GROUP_ROWS: usize = 262_144;
/// Bytes of the columns of a row group that are held until it is written.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// Writes the batches as one Parquet file and returns the number of its rows.
pub(super) fn write(
    out: impl Write + Send,
    path: &Path,
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch>>,
) -> Result<usize> {
    let options = ArrowWriterOptions::new()
        .with_properties(properties(schema).at("encode", path)?)
        .with_skip_arrow_metadata(true);
    let out = FooterPatch::new(out, schema.fields().len());
    let mut writer =
        ArrowWriter::try_new_with_options(out, Arc::clone(schema), options).at("encode", path)?;
    let mut rows = 0;
    for batch in batches {
        let batch = batch?;
        writer.write(&batch).at("encode", path)?;
        rows += batch.num_rows();
        if writer.memory_size() > ROW_GROUP_BYTES {
            writer.flush().at("encode", path)?;
        }
    }
    let out = writer.into_inner().at("encode", path)?;
    out.finish().at("write", path)?;
    Ok(rows)
}

fn properties(schema: &SchemaRef) -> parquet::errors::Result<WriterProperties> {
    let group_rows = (ROW_GROUP_CELLS / schema.fields().len()).clamp(1_024, ROW_GROUP_ROWS);
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("expman-mesh version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_max_row_group_row_count(Some(group_rows));
    for field in schema.fields() {
        // The whole name is one part of the path, dots and all.
        let column = ColumnPath::new(vec![field.name().clone()]);
        let encoding = match field.data_type() {
            DataType::Float64 => Encoding::BYTE_STREAM_SPLIT,
            DataType::Int64 | DataType::UInt64 | DataType::Timestamp(..) => {
                Encoding::DELTA_BINARY_PACKED
            }
            _ => continue,
        };
        properties = properties
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_encoding(column.clone(), encoding);
        if *field.data_type() == DataType::Float64 {
            // Readers disagree about the order of floats and NaN in statistics.
            properties = properties.set_column_statistics_enabled(column, EnabledStatistics::None);
        }
    }
    Ok(properties.build())
}

/// Passes a Parquet file through, and declares the type-defined column order for every column in its footer.
///
/// The encoder declares the IEEE 754 total order for floats, which readers as new as polars 1.42 and `DataFusion` 50
/// refuse to open. The orders are the footer's last field, three bytes each, so only the file's end is held back.
struct FooterPatch<W> {
    out: W,
    held: Vec<u8>,
    columns: usize,
}

impl<W: Write> FooterPatch<W> {
    /// Behind the orders: the end of the footer's structure, its length and the magic.
    const TRAILER: usize = 1 + 4 + 4;

    const fn new(out: W, columns: usize) -> Self {
        Self {
            out,
            held: Vec::new(),
            columns,
        }
    }

    const fn end(&self) -> usize {
        3 * self.columns + Self::TRAILER
    }

    fn finish(mut self) -> io::Result<W> {
        let strange = || io::Error::other("the Parquet footer does not end with column orders");
        let start = self
            .held
            .len()
            .checked_sub(self.end())
            .ok_or_else(strange)?;
        for order in self.held[start..start + 3 * self.columns].chunks_exact_mut(3) {
            match order {
                [0x1C | 0x2C, 0, 0] => order[0] = 0x1C,
                _ => return Err(strange()),
            }
        }
        self.out.write_all(&self.held)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

impl<W: Write> Write for FooterPatch<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        // In large pieces, so that a small write moves nothing.
        if self.held.len() > (1 << 16) + self.end() {
            let ready = self.held.len() - self.end();
            self.out.write_all(&self.held[..ready])?;
            self.held.drain(..ready);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
