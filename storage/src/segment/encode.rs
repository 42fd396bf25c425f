//! Values as the bytes of Parquet pages: the encodings that files of rows are written in.

use crate::varint::{put_number, put_signed};

/// Values of a block of differences, and of each of its four parts: what other writers of 64-bit numbers use.
const BLOCK: usize = 256;
const PART: usize = BLOCK / 4;
/// So many equal values are a run.
const RUN: usize = 8;

/// How many bits a number takes.
const fn bits(n: u64) -> u32 {
    64 - n.leading_zeros()
}

/// Adds numbers of `width` bits each, without a gap; the last byte is filled with zeros.
fn put_packed(out: &mut Vec<u8>, numbers: impl Iterator<Item = u64>, width: u32) {
    let (mut word, mut filled) = (0_u64, 0);
    for n in numbers {
        word |= n << filled;
        filled += width;
        if filled >= 64 {
            out.extend_from_slice(&word.to_le_bytes());
            filled -= 64;
            // What did not fit; a shift by all bits is none.
            word = n.checked_shr(width - filled).unwrap_or(0);
        }
    }
    let bytes = filled.div_ceil(8) as usize;
    out.extend_from_slice(&word.to_le_bytes()[..bytes]);
}

/// `DELTA_BINARY_PACKED`: numbers that rise evenly take next to nothing. Returns the least and the greatest of them.
pub(super) fn put_differences(out: &mut Vec<u8>, values: &[i64]) -> Option<(i64, i64)> {
    for n in [BLOCK, BLOCK / PART, values.len()] {
        put_number(out, n as u64);
    }
    let mut last = values.first().copied().unwrap_or(0);
    put_signed(out, last);
    let mut differences = [0_i64; BLOCK];
    let mut falls = false;
    for block in values.get(1..).unwrap_or_default().chunks(BLOCK) {
        let differences = &mut differences[..block.len()];
        for (difference, value) in differences.iter_mut().zip(block) {
            *difference = value.wrapping_sub(last);
            falls |= *value < last;
            last = *value;
        }
        let least = differences.iter().copied().min().unwrap_or(0);
        put_signed(out, least);
        let above = |difference: &i64| difference.wrapping_sub(least).cast_unsigned();
        let mut widths = [0; BLOCK / PART];
        for (width, part) in widths.iter_mut().zip(differences.chunks(PART)) {
            *width = bits(part.iter().map(above).fold(0, |all, n| all | n));
        }
        out.extend(widths.iter().map(|width| width.to_le_bytes()[0]));
        for (&width, part) in widths.iter().zip(differences.chunks(PART)) {
            if width > 0 {
                // A part is always whole.
                let filler = std::iter::repeat_n(0, PART - part.len());
                put_packed(out, part.iter().map(above).chain(filler), width);
            }
        }
    }
    if falls {
        let least = values.iter().copied().min();
        least.zip(values.iter().copied().max())
    } else {
        values.first().copied().zip(values.last().copied())
    }
}

/// `RLE`: runs of equal numbers, and between them eights of numbers that are packed.
pub(super) fn put_runs(out: &mut Vec<u8>, numbers: &[u32], width: u32) {
    let mut at = 0;
    while at < numbers.len() {
        let run = run_at(numbers, at);
        if run >= RUN {
            put_number(out, (run as u64) << 1);
            let bytes = width.div_ceil(8) as usize;
            out.extend_from_slice(&numbers[at].to_le_bytes()[..bytes]);
            at += run;
            continue;
        }
        let start = at;
        while at < numbers.len() && run_at(numbers, at) < RUN {
            at += RUN;
        }
        at = at.min(numbers.len());
        let eights = (at - start).div_ceil(RUN);
        put_number(out, (eights as u64) << 1 | 1);
        let filler = std::iter::repeat_n(0, eights * RUN - (at - start));
        let own = numbers[start..at].iter().map(|n| u64::from(*n));
        put_packed(out, own.chain(filler), width);
    }
}

/// How many numbers from a place on are equal.
fn run_at(numbers: &[u32], at: usize) -> usize {
    /// Compared at once.
    const MANY: usize = 64;
    let (first, rest) = (numbers[at], &numbers[at..]);
    let is_same = |many: &&[u32]| many.iter().fold(0, |all, n| all | (n ^ first)) == 0;
    let same = MANY * rest.chunks_exact(MANY).take_while(is_same).count();
    same + rest[same..].iter().take_while(|n| **n == first).count()
}

/// The bits that numbers up to one need: at least one, because not every reader knows numbers of none.
pub(super) const fn width_for(greatest: u32) -> u32 {
    let bits = 32 - greatest.leading_zeros();
    if bits == 0 { 1 } else { bits }
}

/// That all rows have a value, or none.
pub(super) fn put_same_presence(out: &mut Vec<u8>, rows: usize, present: bool) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    put_number(out, (rows as u64) << 1);
    out.push(u8::from(present));
    let length = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

/// Which of the rows have a value.
pub(super) fn put_presence(out: &mut Vec<u8>, present: &[u32]) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    put_runs(out, present, 1);
    let length = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

/// `BYTE_STREAM_SPLIT`: all lowest bytes, then the next ones …
pub(super) fn put_planes(out: &mut Vec<u8>, values: &[u64]) {
    let n = values.len();
    if n == 0 {
        return;
    }
    let at = out.len();
    out.resize(at + 8 * n, 0);
    for (plane, bytes) in out[at..].chunks_exact_mut(n).enumerate() {
        for (byte, bits) in bytes.iter_mut().zip(values) {
            *byte = (bits >> (8 * plane)).to_le_bytes()[0];
        }
    }
}

/// `PLAIN` texts.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// What a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    /// So many values of a dictionary.
    Dictionary(usize),
    /// So many rows in an encoding, by its number in the format.
    Rows(usize, i32),
}

/// The head of a page, in Thrift's compact protocol: a byte for each field, and numbers as signed LEB128.
pub(super) fn put_head(out: &mut Vec<u8>, page: Page, plain: usize, stored: usize) {
    /// A number in the field behind the last one.
    const NUMBER: u8 = 0x15;
    const RLE: i64 = 3;
    let size = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let (kind, field, own) = match page {
        // The sixth and the eighth field of a head are for each kind of page.
        Page::Rows(n, encoding) => (0, 0x2C, vec![size(n), encoding.into(), RLE, RLE]),
        Page::Dictionary(n) => (2, 0x4C, vec![size(n), 0]),
    };
    for n in [kind, size(plain), size(stored)] {
        out.push(NUMBER);
        put_signed(out, n);
    }
    out.push(field);
    for n in own {
        out.push(NUMBER);
        put_signed(out, n);
    }
    out.extend_from_slice(&[0, 0]);
}
