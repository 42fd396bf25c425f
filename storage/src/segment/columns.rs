//! The columns of a row group, from sorted rows.

mod values;

use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::schema::types::SchemaDescriptor;

use super::PAGE_ROWS;
use super::chunk::{Chunk, Packer, Span};
use super::encode::{
    put_differences, put_presence, put_runs, put_same_presence, put_text, width_for,
};
use crate::rows::{Call, KINDS, Order, Rows};
use crate::varint::put_number;

/// Names of a row group that take more bytes are written where they stand: who looks for one should not read all.
const NAMES_BYTES_MAX: usize = 1 << 20;

type Column = Result<(Bytes, ColumnCloseResult), ParquetError>;

/// Makes the columns of one row group after the other.
pub(super) struct Columns<'a> {
    rows: &'a Rows,
    schema: &'a SchemaDescriptor,
    packer: Packer,
    /// The rows of the group, and their calls.
    places: &'a [u32],
    calls: Vec<u32>,
    /// Of all rows: which kinds of value there are, whether all have a step.
    kinds: [bool; KINDS.len()],
    have_steps: bool,
    /// Numbers in a dictionary, or whether there is a value.
    numbers: Vec<u32>,
    plain: Vec<u8>,
}

impl<'a> Columns<'a> {
    pub(super) fn new(rows: &'a Rows, schema: &'a SchemaDescriptor) -> std::io::Result<Self> {
        Ok(Self {
            rows,
            schema,
            packer: Packer::new()?,
            places: &[],
            calls: Vec::new(),
            kinds: KINDS.map(|kind| rows.kind.contains(&kind)),
            have_steps: !rows.has_stepless(),
            numbers: Vec::new(),
            plain: Vec::new(),
        })
    }

    /// Hands over every column of the rows from `from` to `to` of the order.
    pub(super) fn each(
        &mut self,
        order: &'a Order,
        from: usize,
        to: usize,
        mut each: impl FnMut(Bytes, ColumnCloseResult) -> Result<(), ParquetError>,
    ) -> Result<(), ParquetError> {
        self.places = &order.places[from..to];
        self.calls.clear();
        let call = |&i: &u32| self.rows.call[i as usize];
        self.calls.extend(self.places.iter().map(call));
        for column in 0..self.schema.num_columns() {
            let (bytes, close) = match column {
                0 => self.names(order, from, to),
                1 => self.few_of_calls(column, |call| call.rank),
                2 => self.steps(),
                3 => self.rising(column, |call| call.timestamp),
                4 => self.few_of_calls(column, |call| call.attempt),
                5 => self.rising(column, |call| call.seq),
                6 => self.kinds(),
                7 => self.floats(),
                8 => self.ints(),
                _ => self.texts(),
            }?;
            each(bytes, close)?;
        }
        Ok(())
    }

    fn chunk(&self, column: usize) -> Chunk<'static> {
        Chunk::new(self.schema.column(column), None, true)
    }

    /// The column `key`.
    fn names(&mut self, order: &Order, from: usize, to: usize) -> Column {
        let first = order
            .groups
            .partition_point(|group| group.places.end <= from);
        let groups = order.groups[first..].iter();
        let groups: Vec<_> = groups.take_while(|group| group.places.start < to).collect();
        let mut keys: Vec<u32> = groups.iter().map(|group| group.key).collect();
        keys.dedup();
        let names: Vec<&str> = keys
            .iter()
            .map(|&key| &**self.rows.keys.name(key))
            .collect();
        self.numbers.clear();
        let mut number = 0;
        for group in groups {
            if keys[number as usize] != group.key {
                number += 1;
            }
            let end = group.places.end.min(to) - from;
            self.numbers.resize(end, number);
        }
        let mut chunk = Chunk::new(self.schema.column(0), Some(&mut self.packer), true);
        let span = |numbers: &[u32]| {
            let bytes = |n: Option<&u32>| names[n.map_or(0, |n| *n as usize)].as_bytes().to_vec();
            Some(Span::Text(bytes(numbers.first()), bytes(numbers.last())))
        };
        let plain = &mut self.plain;
        if names.iter().map(|name| name.len()).sum::<usize>() > NAMES_BYTES_MAX {
            for page in self.numbers.chunks(PAGE_ROWS) {
                plain.clear();
                for &n in page {
                    put_text(plain, names[n as usize]);
                }
                chunk.page(page.len(), 0, Encoding::PLAIN, span(page), plain)?;
            }
            return chunk.close();
        }
        plain.clear();
        for name in &names {
            put_text(plain, name);
        }
        chunk.dictionary(names.len(), plain)?;
        put_numbered(&mut chunk, &self.numbers, names.len(), plain, span)?;
        chunk.close()
    }

    /// A column of numbers that calls have, few of which differ.
    fn few_of_calls(&mut self, column: usize, of: impl Fn(&Call) -> i32) -> Column {
        let calls = &self.rows.calls;
        let first = calls.first().map_or(0, &of);
        if calls.iter().all(|call| of(call) == first) {
            return self.constant(column, first);
        }
        let places = std::mem::take(&mut self.calls);
        let done = self.few(column, places.iter().map(|&call| of(&calls[call as usize])));
        self.calls = places;
        done
    }

    /// A column of numbers, few of which differ.
    fn few(&mut self, column: usize, values: impl Iterator<Item = i32> + Clone) -> Column {
        let mut known: Vec<i32> = Vec::new();
        let mut last = None;
        for value in values.clone() {
            if last != Some(value) {
                last = Some(value);
                if let Err(at) = known.binary_search(&value) {
                    known.insert(at, value);
                }
            }
        }
        let mut last = None;
        let mut number = 0;
        let numbers = values.map(|value| {
            if last != Some(value) {
                last = Some(value);
                let at = known.partition_point(|known| *known < value);
                number = u32::try_from(at).unwrap_or(u32::MAX);
            }
            number
        });
        self.numbers.clear();
        self.numbers.extend(numbers);
        self.numbered(column, &known)
    }

    /// A column of one number.
    fn constant(&mut self, column: usize, value: i32) -> Column {
        let mut chunk = self.chunk(column);
        chunk.dictionary(1, &value.to_le_bytes())?;
        for places in self.places.chunks(PAGE_ROWS) {
            self.plain.clear();
            self.plain.push(1);
            put_number(&mut self.plain, (places.len() as u64) << 1);
            self.plain.push(0);
            let span = Some(Span::Int32(value, value));
            let encoding = Encoding::RLE_DICTIONARY;
            chunk.page(places.len(), 0, encoding, span, &self.plain)?;
        }
        chunk.close()
    }

    /// The column `kind`.
    fn kinds(&mut self) -> Column {
        if self.kinds.iter().filter(|there| **there).count() == 1 {
            let kind = KINDS.into_iter().zip(self.kinds).find(|(_, there)| *there);
            return self.constant(6, kind.map_or(0, |(kind, _)| kind.into()));
        }
        let (rows, places) = (self.rows, self.places);
        self.few(6, places.iter().map(|&i| rows.kind[i as usize].into()))
    }

    fn numbered(&mut self, column: usize, known: &[i32]) -> Column {
        let mut chunk = self.chunk(column);
        self.plain.clear();
        self.plain
            .extend(known.iter().flat_map(|n| n.to_le_bytes()));
        chunk.dictionary(known.len(), &self.plain)?;
        put_numbered(
            &mut chunk,
            &self.numbers,
            known.len(),
            &mut self.plain,
            |numbers| {
                let least = numbers.iter().min().map(|n| known[*n as usize]);
                let greatest = numbers.iter().max().map(|n| known[*n as usize]);
                least.zip(greatest).map(|(a, b)| Span::Int32(a, b))
            },
        )?;
        chunk.close()
    }

    /// A column of numbers that rise.
    fn rising(&mut self, column: usize, of: impl Fn(&Call) -> i64) -> Column {
        let descriptor = self.schema.column(column);
        let mut chunk = Chunk::new(self.schema.column(column), Some(&mut self.packer), true);
        let mut values = Vec::with_capacity(PAGE_ROWS);
        for calls in self.calls.chunks(PAGE_ROWS) {
            values.clear();
            values.extend(
                calls
                    .iter()
                    .map(|call| of(&self.rows.calls[*call as usize])),
            );
            self.plain.clear();
            if descriptor.max_def_level() > 0 {
                put_same_presence(&mut self.plain, calls.len(), true);
            }
            let span = put_differences(&mut self.plain, &values);
            let span = span.map(|(a, b)| Span::Int64(a, b));
            chunk.page(
                calls.len(),
                0,
                Encoding::DELTA_BINARY_PACKED,
                span,
                &self.plain,
            )?;
        }
        chunk.close()
    }

    /// The column `step`.
    fn steps(&mut self) -> Column {
        if self.have_steps {
            return self.rising(2, |call| call.step);
        }
        let rows = self.rows;
        let step = |at: usize| rows.calls[self.calls[at] as usize].step();
        let mut chunk = Chunk::new(self.schema.column(2), Some(&mut self.packer), true);
        let pages = self.calls.len();
        optional(&mut chunk, pages, step, &mut self.numbers, &mut self.plain)?;
        chunk.close()
    }
}

/// Adds pages of numbers in a dictionary of `known` values.
fn put_numbered(
    chunk: &mut Chunk<'_>,
    numbers: &[u32],
    known: usize,
    plain: &mut Vec<u8>,
    span: impl Fn(&[u32]) -> Option<Span>,
) -> Result<(), ParquetError> {
    let width = width_for(u32::try_from(known).unwrap_or(u32::MAX).saturating_sub(1));
    for page in numbers.chunks(PAGE_ROWS) {
        plain.clear();
        plain.push(width.to_le_bytes()[0]);
        put_runs(plain, page, width);
        chunk.page(page.len(), 0, Encoding::RLE_DICTIONARY, span(page), plain)?;
    }
    Ok(())
}

/// Adds pages of `rows` numbers that may be missing.
fn optional(
    chunk: &mut Chunk<'_>,
    rows: usize,
    of: impl Fn(usize) -> Option<i64>,
    numbers: &mut Vec<u32>,
    plain: &mut Vec<u8>,
) -> Result<(), ParquetError> {
    let mut values = Vec::with_capacity(PAGE_ROWS);
    for from in (0..rows).step_by(PAGE_ROWS) {
        let page = from..rows.min(from + PAGE_ROWS);
        values.clear();
        numbers.clear();
        plain.clear();
        values.extend(page.clone().filter_map(&of));
        numbers.extend(page.clone().map(|at| u32::from(of(at).is_some())));
        put_presence(plain, numbers);
        let span = put_differences(plain, &values);
        let span = span.map(|(a, b)| Span::Int64(a, b));
        let nulls = page.len() - values.len();
        let encoding = Encoding::DELTA_BINARY_PACKED;
        chunk.page(page.len(), nulls, encoding, span, plain)?;
    }
    Ok(())
}
