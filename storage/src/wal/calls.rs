//! The calls of a batch, as its frame holds them: what the rows of a call share stands once, and so do names.
//!
//! Payload behind the kind byte, little endian:
//! `u32 writer | u64 upto_seq | u64 end of run.log | u64 end of console.log | u32 rows | u32 length | u32 stored`,
//! then the rest, in `stored` bytes, then the calls, then a byte that is not zero: zeros at a log's end are no frame's.
//!
//! The rest is `u32 names | (u32 number, name)… | text values… | other records`, each text behind its `u32` length.
//! It has `length` bytes; where fewer are stored, they are zstd.
//!
//! A call is a byte of flags, the difference of its step (if it has one), time and number from the call before, in
//! zigzag LEB128, its shape if that is another than the call's before, and its values.
//! A shape is the number of points and then, for each, the difference of its name's number, times four, plus its kind.
//! The values are half a byte for each, the lower half first, which tells its bytes, and then all these bytes. What
//! differs from the value at the same place of the call before, if that had the same shape, is stored without the
//! zeros at its lower end (of a float) or its upper one (of anything else): a value that stays takes no byte, one that
//! was a float of 32 bits five. A text has none: it stands in the rest.

use std::borrow::Cow;
use std::ops::Range;

use expman_model::CodecError;
use expman_model::codec::{Reader, put_bytes};
use expman_model::record::ValueRef;

use super::PAYLOAD_BYTES_MAX;
use crate::rows::{BOOL, Call, FLOAT, INT, Rows, TEXT};
use crate::varint::{put_number, put_signed, take_number, take_signed, unzigzag, zigzag};

/// Of a call that has a step.
const STEP: u8 = 1;
/// Of a call whose shape follows.
const SHAPE: u8 = 2;
/// Fewer bytes are not worth packing.
const PACKED_MIN: usize = 1 << 10;
/// Compression of the rest: fastest level.
const ZSTD_LEVEL: i32 = 1;

/// Ends the payload.
const END: u8 = 0xED;

/// Adds the calls of these rows; `told` is handed the number of every name that they have.
pub(super) fn put(out: &mut Vec<u8>, rows: &Rows, range: Range<usize>, mut told: impl FnMut(u32)) {
    let mut last = Call {
        rank: 0,
        attempt: 0,
        step: 0,
        has_step: false,
        timestamp: 0,
        seq: 0,
    };
    let mut shape = range.start..range.start;
    let mut at = range.start;
    while at < range.end {
        let number = rows.call[at];
        // Most calls are as long as the one before.
        let guess = at + shape.len();
        let is_end = |end: usize| end == range.end || end < range.end && rows.call[end] != number;
        let end = if guess > at && rows.call[guess.min(range.end) - 1] == number && is_end(guess) {
            guess
        } else {
            let own = rows.call[at..range.end]
                .iter()
                .take_while(|&&c| c == number);
            at + own.count()
        };
        let call = rows.calls[number as usize];
        let (keys, kinds) = (&rows.key[at..end], &rows.kind[at..end]);
        let repeats = rows.key[shape.clone()] == *keys && rows.kind[shape.clone()] == *kinds;
        out.push(u8::from(call.has_step) * STEP + u8::from(!repeats) * SHAPE);
        if call.has_step {
            put_signed(out, call.step.wrapping_sub(last.step));
            last.step = call.step;
        }
        put_signed(out, call.timestamp.wrapping_sub(last.timestamp));
        put_signed(out, call.seq.wrapping_sub(last.seq));
        (last.timestamp, last.seq) = (call.timestamp, call.seq);
        if !repeats {
            put_number(out, keys.len() as u64);
            let mut before = 0;
            for (&key, &kind) in keys.iter().zip(kinds) {
                told(key);
                let key = i64::from(key);
                put_number(out, zigzag(key - before) << 2 | u64::from(kind));
                before = key;
            }
        }
        let before = repeats.then(|| &rows.bits[shape]);
        put_values(out, &rows.bits[at..end], kinds, before);
        shape = at..end;
        at = end;
    }
    out.push(END);
}

/// What a value differs by, with the zeros that are left out at its lower end.
#[inline]
const fn turned(bits: u64, kind: u8) -> u64 {
    if kind == FLOAT {
        bits
    } else {
        bits.swap_bytes()
    }
}

fn put_values(out: &mut Vec<u8>, bits: &[u64], kinds: &[u8], before: Option<&[u64]>) {
    let at = out.len();
    let (n, widths) = (bits.len(), bits.len().div_ceil(2));
    out.resize(at + widths + 8 * n, 0);
    let (widths, bytes) = out[at..].split_at_mut(widths);
    let mut end = 0;
    for (i, (&bits, &kind)) in bits.iter().zip(kinds).enumerate() {
        let known = before.map_or(0, |before| before[i]);
        let differs = if kind == TEXT {
            0
        } else {
            turned(bits ^ known, kind)
        };
        let zeros = differs.trailing_zeros() / 8;
        let word = differs.checked_shr(8 * zeros).unwrap_or(0).to_le_bytes();
        bytes[end..end + 8].copy_from_slice(&word);
        end += 8 - zeros as usize;
        widths[i / 2] |= (8 - zeros).to_le_bytes()[0] << (4 * (i % 2));
    }
    let whole = at + widths.len() + end;
    out.truncate(whole);
}

/// Reads the values of a call, which are told by what they differ by from those of the call before.
fn take_values(
    r: &mut Reader<'_>,
    shape: &[(u32, u8)],
    known: &mut [u64],
) -> Result<(), CodecError> {
    let widths = r.take(shape.len().div_ceil(2), "values")?;
    let width_of = |i: usize| widths[i / 2] >> (4 * (i % 2)) & 0xF;
    for (i, (&(_, kind), known)) in shape.iter().zip(known).enumerate() {
        let width = width_of(i);
        if width > if kind == TEXT { 0 } else { 8 } {
            return Err(unknown("bytes of a value", width.into()));
        }
        let width = usize::from(width);
        let mut word = [0; 8];
        word[8 - width..].copy_from_slice(r.take(width, "value")?);
        *known ^= turned(u64::from_le_bytes(word), kind);
    }
    if !shape.len().is_multiple_of(2) && width_of(shape.len()) > 0 {
        return Err(unknown("bytes of a value", width_of(shape.len()).into()));
    }
    Ok(())
}

/// The text values of these rows.
pub(super) fn put_texts(out: &mut Vec<u8>, rows: &Rows, range: Range<usize>) {
    for i in range.filter(|&i| rows.kind[i] == TEXT) {
        if let ValueRef::Text(text) = rows.value_ref(i) {
            put_bytes(out, text.as_bytes());
        }
    }
}

/// The rest as it is stored: packed, if that makes it smaller.
pub(super) fn packed(
    rest: &[u8],
    packer: &mut Option<zstd::bulk::Compressor<'static>>,
) -> std::io::Result<Option<Vec<u8>>> {
    if rest.len() < PACKED_MIN {
        return Ok(None);
    }
    let packer = match packer {
        Some(packer) => packer,
        none => none.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
    };
    let packed = packer.compress(rest)?;
    Ok((packed.len() < rest.len()).then_some(packed))
}

/// The rest, unpacked, of what stands behind its two lengths.
pub(super) fn take_rest<'a>(r: &mut Reader<'a>) -> Result<Cow<'a, [u8]>, CodecError> {
    let (length, stored) = (r.u32("rest")? as usize, r.u32("stored rest")? as usize);
    let bytes = r.take(stored, "rest")?;
    if stored == length {
        return Ok(Cow::Borrowed(bytes));
    }
    if stored > length || length > PAYLOAD_BYTES_MAX * 4 {
        return Err(CodecError::Truncated("rest"));
    }
    let plain =
        zstd::bulk::decompress(bytes, length).map_err(|_bad| CodecError::Truncated("rest"))?;
    if plain.len() != length {
        return Err(CodecError::Truncated("rest"));
    }
    Ok(Cow::Owned(plain))
}

/// Reads `n` rows, all of one writer and all that is left; `text` is the next text value, `name` the number that a
/// name has in `rows`.
pub(super) fn take<'a>(
    r: &mut Reader<'_>,
    n: usize,
    rows: &mut Rows,
    (rank, attempt): (u32, u32),
    mut name: impl FnMut(&mut Rows, u32) -> Result<u32, CodecError>,
    mut text: impl FnMut() -> Result<&'a str, CodecError>,
) -> Result<(), CodecError> {
    let (mut step, mut timestamp, mut seq) = (0_i64, 0_i64, 0_i64);
    // Numbers in `rows`, and kinds.
    let mut shape: Vec<(u32, u8)> = Vec::new();
    let mut bits: Vec<u64> = Vec::new();
    while rows.len() < n {
        let flags = r.u8("flags of a call")?;
        let has_step = flags & STEP != 0;
        if flags & !(STEP | SHAPE) != 0 {
            return Err(unknown("flags of a call", flags.into()));
        }
        if has_step {
            step = step.wrapping_add(take_signed(r, "step")?);
        }
        timestamp = timestamp.wrapping_add(take_signed(r, "timestamp")?);
        seq = seq.wrapping_add(take_signed(r, "seq")?);
        if flags & SHAPE != 0 {
            take_shape(r, rows, &mut shape, &mut name)?;
            bits.clear();
            bits.resize(shape.len(), 0);
        }
        if shape.is_empty() || shape.len() > n - rows.len() {
            return Err(unknown("number of points", shape.len() as u64));
        }
        rows.begin(Call {
            rank: rank.cast_signed(),
            attempt: attempt.cast_signed(),
            step: if has_step { step } else { 0 },
            has_step,
            timestamp,
            seq,
        });
        take_values(r, &shape, &mut bits)?;
        for (&(key, kind), &bits) in shape.iter().zip(&bits) {
            let value = match kind {
                FLOAT => ValueRef::Float(f64::from_bits(bits)),
                INT => ValueRef::Int(bits.cast_signed()),
                BOOL => ValueRef::Bool(bits != 0),
                _ => ValueRef::Text(text()?),
            };
            rows.put(key, value);
        }
        rows.end();
    }
    match r.rest() {
        [END] => Ok(()),
        other => Err(unknown("bytes behind the calls", other.len() as u64)),
    }
}

fn take_shape(
    r: &mut Reader<'_>,
    rows: &mut Rows,
    shape: &mut Vec<(u32, u8)>,
    name: &mut impl FnMut(&mut Rows, u32) -> Result<u32, CodecError>,
) -> Result<(), CodecError> {
    let points = take_number(r, "number of points")?;
    if points > r.rest().len() as u64 {
        return Err(CodecError::Truncated("shape of a call"));
    }
    shape.clear();
    let mut key = 0_i64;
    for _ in 0..points {
        let word = take_number(r, "name number")?;
        key = key.wrapping_add(unzigzag(word >> 2));
        let id =
            u32::try_from(key).map_err(|_large| unknown("metric name", key.cast_unsigned()))?;
        shape.push((name(rows, id)?, word.to_le_bytes()[0] & 3));
    }
    Ok(())
}

const fn unknown(what: &'static str, value: u64) -> CodecError {
    CodecError::Unknown { what, value }
}
