//! The columns of values: floats, whole numbers, texts.

use expman_model::ValueRef;
use parquet::basic::Encoding;

use super::super::PAGE_ROWS;
use super::super::chunk::{Chunk, Span};
use super::super::encode::{put_planes, put_presence, put_same_presence, put_text};
use super::{Column, Columns, optional};
use crate::rows::{BOOL, INT, TEXT, exact_f64};

impl Columns<'_> {
    /// Whether some row, of any group, has a value of this kind.
    fn has(&self, kind: u8) -> bool {
        self.kinds[usize::from(kind)]
    }

    /// The column `int_value`.
    pub(super) fn ints(&mut self) -> Column {
        let rows = self.rows;
        let int = |at: usize| {
            let i = self.places[at] as usize;
            matches!(rows.kind[i], INT | BOOL).then(|| rows.bits[i].cast_signed())
        };
        if !self.has(INT) && !self.has(BOOL) {
            return self.nothing(8);
        }
        let mut chunk = Chunk::new(self.schema.column(8), Some(&mut self.packer), true);
        let pages = self.places.len();
        optional(&mut chunk, pages, int, &mut self.numbers, &mut self.plain)?;
        chunk.close()
    }

    /// The column `value`. Nothing is told of its span: readers do not agree on the order of floats.
    pub(super) fn floats(&mut self) -> Column {
        let rows = self.rows;
        let all_floats = ![INT, BOOL, TEXT].into_iter().any(|kind| self.has(kind));
        let mut chunk = Chunk::new(self.schema.column(7), Some(&mut self.packer), false);
        let mut values = Vec::with_capacity(PAGE_ROWS);
        for places in self.places.chunks(PAGE_ROWS) {
            values.clear();
            self.plain.clear();
            self.numbers.clear();
            if all_floats {
                values.extend(places.iter().map(|&i| rows.bits[i as usize]));
                put_same_presence(&mut self.plain, places.len(), true);
            } else {
                for &i in places {
                    let value = exact_f64(rows.value_ref(i as usize));
                    self.numbers.push(u32::from(value.is_some()));
                    values.extend(value.map(f64::to_bits));
                }
                put_presence(&mut self.plain, &self.numbers);
            }
            put_planes(&mut self.plain, &values);
            let nulls = places.len() - values.len();
            chunk.page(
                places.len(),
                nulls,
                Encoding::BYTE_STREAM_SPLIT,
                None,
                &self.plain,
            )?;
        }
        chunk.close()
    }

    /// The column `text`.
    pub(super) fn texts(&mut self) -> Column {
        let rows = self.rows;
        if !self.has(TEXT) {
            return self.nothing(9);
        }
        let mut chunk = Chunk::new(self.schema.column(9), Some(&mut self.packer), true);
        for places in self.places.chunks(PAGE_ROWS) {
            let is_text = |&i: &u32| rows.kind[i as usize] == TEXT;
            self.numbers.clear();
            self.numbers
                .extend(places.iter().map(|i| u32::from(is_text(i))));
            self.plain.clear();
            put_presence(&mut self.plain, &self.numbers);
            let mut span: Option<(&str, &str)> = None;
            let mut nulls = places.len();
            for &i in places.iter().filter(|i| is_text(i)) {
                if let ValueRef::Text(text) = rows.value_ref(i as usize) {
                    put_text(&mut self.plain, text);
                    let (least, greatest) = span.unwrap_or((text, text));
                    span = Some((least.min(text), greatest.max(text)));
                }
                nulls -= 1;
            }
            let span = span.map(|(a, b)| Span::Text(a.into(), b.into()));
            chunk.page(places.len(), nulls, Encoding::PLAIN, span, &self.plain)?;
        }
        chunk.close()
    }

    /// A column without a value.
    fn nothing(&mut self, column: usize) -> Column {
        let mut chunk = self.chunk(column);
        for places in self.places.chunks(PAGE_ROWS) {
            self.plain.clear();
            put_same_presence(&mut self.plain, places.len(), false);
            chunk.page(
                places.len(),
                places.len(),
                Encoding::PLAIN,
                None,
                &self.plain,
            )?;
        }
        chunk.close()
    }
}
