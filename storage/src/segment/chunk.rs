//! A column of a row group, page by page, with what an index of its pages tells.

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, Type, ZstdLevel};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnDescPtr;
use zstd::stream::raw::{Encoder, InBuffer, Operation, OutBuffer};

use super::encode::{Page, put_head};

/// Compression of pages; what it can't make smaller it passes over quickly.
const ZSTD_LEVEL: i32 = 3;
/// The first planes of floats, which are noise mostly, or nothing, and stay together.
const PLANES_TOGETHER: usize = 6;
/// Shorter planes are not worth blocks of their own.
const PLANE_MIN: usize = 512;

/// The least and the greatest value of some rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Span {
    Int32(i32, i32),
    Int64(i64, i64),
    Text(Vec<u8>, Vec<u8>),
}

impl Span {
    /// Both as an index of pages holds them.
    fn bytes(&self) -> (Vec<u8>, Vec<u8>) {
        match self {
            Self::Int32(a, b) => (a.to_le_bytes().to_vec(), b.to_le_bytes().to_vec()),
            Self::Int64(a, b) => (a.to_le_bytes().to_vec(), b.to_le_bytes().to_vec()),
            Self::Text(a, b) => (a.clone(), b.clone()),
        }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Int32(a, b), Self::Int32(c, d)) => Self::Int32(a.min(c), b.max(d)),
            (Self::Int64(a, b), Self::Int64(c, d)) => Self::Int64(a.min(c), b.max(d)),
            (Self::Text(a, b), Self::Text(c, d)) => Self::Text(a.min(c), b.max(d)),
            (mine, _) => mine,
        }
    }
}

/// Packs pages; kept, because making one costs more than a page.
pub(super) struct Packer(Encoder<'static>);

impl Packer {
    pub(super) fn new() -> std::io::Result<Self> {
        Encoder::new(ZSTD_LEVEL).map(Self)
    }

    /// Packs a page as one frame, which begins a block at each of these places: bytes that nothing can make smaller
    /// spoil a block for the others.
    fn pack(&mut self, plain: &[u8], blocks: &[usize], out: &mut Vec<u8>) -> std::io::Result<()> {
        out.clear();
        // More than any frame takes, with a head and checks of as many blocks.
        out.resize(
            zstd::zstd_safe::compress_bound(plain.len()) + 32 * (blocks.len() + 1),
            0,
        );
        self.0.reinit()?;
        self.0.set_pledged_src_size(Some(plain.len() as u64))?;
        let mut output = OutBuffer::around(out.as_mut_slice());
        let mut from = 0;
        for &to in blocks.iter().chain([&plain.len()]) {
            let mut input = InBuffer::around(&plain[from..to]);
            while input.pos() < to - from {
                self.0.run(&mut input, &mut output)?;
            }
            let open = if to == plain.len() {
                self.0.finish(&mut output, true)?
            } else {
                self.0.flush(&mut output)?
            };
            if open > 0 {
                return Err(std::io::Error::other("a packed page has no room"));
            }
            from = to;
        }
        let length = output.pos();
        out.truncate(length);
        Ok(())
    }
}

/// A column of a row group that is being made.
pub(super) struct Chunk<'a> {
    descriptor: ColumnDescPtr,
    packer: Option<&'a mut Packer>,
    bytes: Vec<u8>,
    packed: Vec<u8>,
    plain_bytes: usize,
    dictionary_bytes: Option<usize>,
    rows: usize,
    nulls: usize,
    encodings: Vec<Encoding>,
    pages: OffsetIndexBuilder,
    index: ColumnIndexBuilder,
    /// Whether the values' least and greatest are told.
    told: bool,
    span: Option<Span>,
}

impl<'a> Chunk<'a> {
    /// One whose pages are packed if there is somebody to do that.
    pub(super) fn new(
        descriptor: ColumnDescPtr,
        packer: Option<&'a mut Packer>,
        told: bool,
    ) -> Self {
        Self {
            index: ColumnIndexBuilder::new(descriptor.physical_type()),
            descriptor,
            packer,
            bytes: Vec::new(),
            packed: Vec::new(),
            plain_bytes: 0,
            dictionary_bytes: None,
            rows: 0,
            nulls: 0,
            // Which rows have a value is told in runs.
            encodings: vec![Encoding::RLE],
            pages: OffsetIndexBuilder::new(),
            told,
            span: None,
        }
    }

    /// Adds the values that pages name by their number.
    pub(super) fn dictionary(&mut self, values: usize, plain: &[u8]) -> Result<(), ParquetError> {
        self.put(Page::Dictionary(values), plain, &[])?;
        self.dictionary_bytes = Some(self.bytes.len());
        self.encodings.push(Encoding::PLAIN);
        Ok(())
    }

    /// Adds a page of `rows` rows, `nulls` of which have no value.
    pub(super) fn page(
        &mut self,
        rows: usize,
        nulls: usize,
        encoding: Encoding,
        span: Option<Span>,
        plain: &[u8],
    ) -> Result<(), ParquetError> {
        let at = self.bytes.len();
        let number = match encoding {
            Encoding::PLAIN => 0,
            Encoding::DELTA_BINARY_PACKED => 5,
            Encoding::RLE_DICTIONARY => 8,
            Encoding::BYTE_STREAM_SPLIT => 9,
            other => return Err(ParquetError::NYI(format!("pages in {other}"))),
        };
        // Each plane of bytes is a block of its own: those of a mantissa's end are noise.
        let plane = rows - nulls;
        let first = plain.len().saturating_sub(8 * plane);
        let planes: Vec<usize> = match encoding {
            Encoding::BYTE_STREAM_SPLIT if plane >= PLANE_MIN => {
                (PLANES_TOGETHER..8).map(|n| first + n * plane).collect()
            }
            _ => Vec::new(),
        };
        self.put(Page::Rows(rows, number), plain, &planes)?;
        if !self.encodings.contains(&encoding) {
            self.encodings.push(encoding);
        }
        self.pages
            .append_offset_and_size(signed(at), narrow(self.bytes.len() - at)?);
        self.pages.append_row_count(signed(rows));
        let (least, greatest) = span.as_ref().map(Span::bytes).unwrap_or_default();
        self.index
            .append(nulls == rows, least, greatest, signed(nulls), None);
        self.rows += rows;
        self.nulls += nulls;
        self.span = match (self.span.take(), span) {
            (Some(mine), Some(other)) => Some(mine.and(other)),
            (mine, other) => mine.or(other),
        };
        Ok(())
    }

    fn put(&mut self, page: Page, plain: &[u8], blocks: &[usize]) -> Result<(), ParquetError> {
        narrow(plain.len())?;
        let at = self.bytes.len();
        let stored = match &mut self.packer {
            Some(packer) => {
                packer.pack(plain, blocks, &mut self.packed)?;
                self.packed.as_slice()
            }
            None => plain,
        };
        put_head(&mut self.bytes, page, plain.len(), stored.len());
        self.plain_bytes += self.bytes.len() - at + plain.len();
        self.bytes.extend_from_slice(stored);
        Ok(())
    }

    /// Its bytes, and what a file's footer tells of it as if it began with them.
    pub(super) fn close(mut self) -> Result<(Bytes, ColumnCloseResult), ParquetError> {
        let compression = match self.packer {
            Some(_) => Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?),
            None => Compression::UNCOMPRESSED,
        };
        let kind = self.descriptor.physical_type();
        let mut metadata = ColumnChunkMetaData::builder(self.descriptor)
            .set_encodings(self.encodings)
            .set_compression(compression)
            .set_total_compressed_size(signed(self.bytes.len()))
            .set_total_uncompressed_size(signed(self.plain_bytes))
            .set_num_values(signed(self.rows))
            .set_data_page_offset(signed(self.dictionary_bytes.unwrap_or(0)))
            .set_dictionary_page_offset(self.dictionary_bytes.map(|_| 0));
        if self.told {
            let nulls = Some(self.nulls as u64);
            let text = |bytes: Vec<u8>| Some(ByteArray::from(bytes));
            metadata = metadata.set_statistics(match self.span {
                Some(Span::Int32(a, b)) => Statistics::int32(Some(a), Some(b), None, nulls, false),
                Some(Span::Int64(a, b)) => Statistics::int64(Some(a), Some(b), None, nulls, false),
                Some(Span::Text(a, b)) => {
                    Statistics::byte_array(text(a), text(b), None, nulls, false)
                }
                None if kind == Type::BYTE_ARRAY => {
                    Statistics::byte_array(None, None, None, nulls, false)
                }
                None => Statistics::int64(None, None, None, nulls, false),
            });
        } else {
            self.index.to_invalid();
        }
        let index = self.told.then(|| self.index.build()).transpose()?;
        let close = ColumnCloseResult {
            bytes_written: self.bytes.len() as u64,
            rows_written: self.rows as u64,
            metadata: metadata.build()?,
            bloom_filter: None,
            column_index: index,
            offset_index: Some(self.pages.build()),
        };
        Ok((self.bytes.into(), close))
    }
}

fn signed(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn narrow(n: usize) -> Result<i32, ParquetError> {
    i32::try_from(n).map_err(|_large| ParquetError::General(format!("a page of {n} bytes")))
}
