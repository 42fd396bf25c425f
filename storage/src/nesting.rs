//! How deep the columns of a Parquet file are nested: its decoder goes down there by itself, and a file that some
//! kilobytes of footer make deep enough would end its stack, and with it the process.

use std::fs::File;
use std::path::Path;

use crate::durable;
use crate::error::{At, Result, StorageError};

/// Deeper than any table is.
const DEPTH_MAX: usize = 64;
/// Length of the footer and magic number.
const TRAILER_BYTES: usize = 8;
const MAGIC: &[u8] = b"PAR1";
/// Structures within an element of the schema.
const STRUCTS_MAX: usize = 16;

/// Types of compact Thrift.
mod thrift {
    pub const STOP: u8 = 0;
    pub const I32: u8 = 5;
    pub const BINARY: u8 = 8;
    pub const LIST: u8 = 9;
    pub const STRUCT: u8 = 12;
}

/// Refuses a file whose columns are nested too deep; what is no Parquet file at all is left to the decoder.
///
/// # Errors
/// When it can't be read, or is nested too deep, or its footer begins with something else than its columns.
pub(crate) fn check(file: &File, path: &Path) -> Result<()> {
    let length = file.metadata().at("stat", path)?.len();
    let Some(trailer_at) = length.checked_sub(TRAILER_BYTES as u64) else {
        return Ok(());
    };
    let trailer = durable::read_at(file, path, trailer_at, TRAILER_BYTES)?;
    let (Some(footer), true) = (trailer.first_chunk(), trailer.ends_with(MAGIC)) else {
        return Ok(());
    };
    let footer = u32::from_le_bytes(*footer);
    let Some(footer_at) = trailer_at.checked_sub(footer.into()) else {
        return Ok(());
    };
    let whole = usize::try_from(footer).unwrap_or(usize::MAX);
    // The columns stand in front, and there are mostly few of them.
    let mut read = whole.min(1 << 12);
    loop {
        let bytes = durable::read_at(file, path, footer_at, read)?;
        match depth(&bytes) {
            Some(depth) if depth <= DEPTH_MAX => return Ok(()),
            None if read < whole => read = whole,
            found => {
                let what = match found {
                    Some(_) => "its columns are nested too deep",
                    None => "its footer does not begin with its columns",
                };
                return Err(StorageError::Damaged {
                    path: path.to_owned(),
                    offset: footer_at,
                    what: what.to_owned(),
                });
            }
        }
    }
}

/// How deep the columns are nested, or a bound of it that is low enough; none when the bytes end before that.
fn depth(footer: &[u8]) -> Option<usize> {
    let mut from = Thrift(footer);
    // The version, then the columns: both must be there, and the decoder takes the first ones.
    if from.byte()? != 0x15 {
        return None;
    }
    from.number()?;
    if from.byte()? != 0x19 {
        return None;
    }
    let (kind, elements) = from.list()?;
    if elements <= DEPTH_MAX as u64 {
        return Some(DEPTH_MAX);
    }
    if kind != thrift::STRUCT {
        return None;
    }
    // How many children each group that is open still has.
    let mut open: Vec<u64> = Vec::new();
    let mut deepest = 0;
    for _ in 0..elements {
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        let children = from.children()?;
        if children > 0 {
            open.push(children);
            deepest = deepest.max(open.len());
            if deepest > DEPTH_MAX {
                break;
            }
        }
        while open.last() == Some(&0) {
            open.pop();
        }
    }
    Some(deepest)
}

/// What is left of some compact Thrift.
struct Thrift<'a>(&'a [u8]);

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn pass(&mut self, bytes: u64) -> Option<()> {
        self.0 = self.0.get(usize::try_from(bytes).ok()?..)?;
        Some(())
    }

    /// Type and number of a list's elements.
    fn list(&mut self) -> Option<(u8, u64)> {
        let header = self.byte()?;
        let count = match header >> 4 {
            15 => self.number()?,
            few => few.into(),
        };
        Some((header & 0xf, count))
    }

    /// Number and type of the next field; the type is [`thrift::STOP`] behind the last one.
    fn field(&mut self, last: u64) -> Option<(u64, u8)> {
        let header = self.byte()?;
        let kind = header & 0xf;
        let id = match header >> 4 {
            _ if kind == thrift::STOP => 0,
            // A field that stands in front of others is not what writers write.
            0 => return None,
            delta => last + u64::from(delta),
        };
        Some((id, kind))
    }

    /// Passes over an element of the schema; how many children it has.
    fn children(&mut self) -> Option<u64> {
        let (mut last, mut children) = (0, 0);
        loop {
            let (id, kind) = self.field(last)?;
            let is_known = match id {
                4 => kind == thrift::BINARY,
                10 => kind == thrift::STRUCT,
                1..=9 => kind == thrift::I32,
                _ => true,
            };
            if kind == thrift::STOP {
                return Some(children);
            }
            if !is_known {
                return None;
            }
            if id == 5 {
                // Twice the number; an odd one is negative, which the decoder refuses.
                children = self.number()? >> 1;
            } else {
                self.skip(kind, STRUCTS_MAX)?;
            }
            last = id;
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            1 | 2 => Some(()),
            3 => self.pass(1),
            4..=6 => self.number().map(drop),
            7 => self.pass(8),
            thrift::BINARY => {
                let length = self.number()?;
                self.pass(length)
            }
            thrift::LIST | 10 => {
                let (kind, count) = self.list()?;
                let depth = depth.checked_sub(1)?;
                for _ in 0..count {
                    // Truth values in lists have a byte.
                    self.skip(if kind <= 2 { 3 } else { kind }, depth)?;
                }
                Some(())
            }
            thrift::STRUCT => {
                let (depth, mut last) = (depth.checked_sub(1)?, 0);
                loop {
                    let (id, kind) = self.field(last)?;
                    if kind == thrift::STOP {
                        return Some(());
                    }
                    self.skip(kind, depth)?;
                    last = id;
                }
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Array, RecordBatch, StructArray};
    use arrow::datatypes::{DataType, Field};
    use parquet::arrow::ArrowWriter;

    use super::*;

    /// A table of `columns` columns, each of them `levels` structures around a number.
    fn table(path: &Path, columns: usize, levels: usize) -> File {
        let mut array: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        for _ in 0..levels {
            let field = Field::new("a", array.data_type().clone(), false);
            array = Arc::new(StructArray::from(vec![(Arc::new(field), array)]));
        }
        assert!(levels == 0 || matches!(array.data_type(), DataType::Struct(_)));
        let all = (0..columns).map(|n| (format!("c{n}"), Arc::clone(&array)));
        let batch = RecordBatch::try_from_iter(all).unwrap();
        let file = File::create(path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        File::open(path).unwrap()
    }

    /// A footer of nothing but columns: `columns` of them, each a number within `levels` groups.
    fn footer(columns: u8, levels: u8) -> Vec<u8> {
        // Version 1, and so many structures.
        let mut bytes = vec![0x15, 2, 0x19, 0xfc];
        let count = u64::from(columns) * (u64::from(levels) + 1) + 1;
        bytes.extend([count % 128 + 128, count / 128].map(|n| u8::try_from(n).unwrap()));
        // Named "a", with so many children.
        let mut group = |children: u8| {
            let twice = u16::from(children) * 2;
            let number = [twice % 128 + 128, twice / 128].map(|n| u8::try_from(n).unwrap());
            bytes.extend([0x35, 0, 0x18, 1, b'a', 0x15, number[0], number[1], 0]);
        };
        group(columns);
        for _ in 0..columns {
            for _ in 0..levels {
                group(1);
            }
            group(0);
        }
        bytes
    }

    #[test]
    fn wide_tables_are_read_and_deep_ones_are_not() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("x.parquet");
        for (columns, levels) in [(1, 0), (3, 2), (1, 50), (70, 20), (2_000, 0)] {
            let file = table(&path, columns, levels);
            check(&file, &path).unwrap();
            let table = crate::preview::parquet_table(file, &path, 1).unwrap();
            assert_eq!(
                (table.columns.len(), table.rows.len()),
                (columns.min(200), 1)
            );
        }
        for (columns, levels) in [(1, 63), (100, 63), (200, 10)] {
            assert!(depth(&footer(columns, levels)).unwrap() <= DEPTH_MAX);
        }
        for (columns, levels) in [(1, 64), (2, 64), (60, 100), (1, 255)] {
            assert!(depth(&footer(columns, levels)).unwrap() > DEPTH_MAX);
        }
        for cut in 0..300 {
            assert_eq!(depth(&footer(1, 80)[..cut]), None, "{cut}");
        }
    }
}
