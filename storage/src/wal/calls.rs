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
//! zigzag LEB128, its shape if that is another than the call's before, and its values: eight bytes of a float or an
//! int, one of a bool, none of a text.
//! A shape is the number of points and then, for each, the difference of its name's number, times four, plus its kind.

use std::borrow::Cow;
use std::ops::Range;

use expman_model::CodecError;
use expman_model::codec::{Reader, put_bytes};
use expman_model::record::ValueRef;

use super::PAYLOAD_BYTES_MAX;
use crate::rows::{Call, Rows, TEXT};

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

const BOOL: u8 = 2;

fn put_number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n.to_le_bytes()[0] | 0x80);
        n >>= 7;
    }
    out.push(n.to_le_bytes()[0]);
}

fn take_number(r: &mut Reader<'_>, what: &'static str) -> Result<u64, CodecError> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let byte = r.u8(what)?;
        let bits = u64::from(byte & 0x7F);
        if shift == 63 && bits > 1 {
            break;
        }
        n |= bits << shift;
        if byte < 0x80 {
            return Ok(n);
        }
    }
    Err(CodecError::Unknown { what, value: n })
}

const fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)).cast_unsigned()
}

const fn unzigzag(n: u64) -> i64 {
    ((n >> 1) ^ (n & 1).wrapping_neg()).cast_signed()
}

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
            put_number(out, zigzag(call.step.wrapping_sub(last.step)));
            last.step = call.step;
        }
        put_number(out, zigzag(call.timestamp.wrapping_sub(last.timestamp)));
        put_number(out, zigzag(call.seq.wrapping_sub(last.seq)));
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
        put_values(out, &rows.bits[at..end], kinds);
        shape = at..end;
        at = end;
    }
    out.push(END);
}

fn put_values(out: &mut Vec<u8>, bits: &[u64], kinds: &[u8]) {
    if kinds.iter().all(|&kind| kind < BOOL) {
        let at = out.len();
        out.resize(at + 8 * bits.len(), 0);
        for (to, bits) in out[at..].chunks_exact_mut(8).zip(bits) {
            to.copy_from_slice(&bits.to_le_bytes());
        }
        return;
    }
    for (bits, &kind) in bits.iter().zip(kinds) {
        match kind {
            TEXT => {}
            BOOL => out.push(u8::from(*bits != 0)),
            _ => out.extend_from_slice(&bits.to_le_bytes()),
        }
    }
}

/// The text values of these rows.
pub(super) fn put_texts(out: &mut Vec<u8>, rows: &Rows, range: Range<usize>) {
    for (bits, _) in rows.bits[range.clone()]
        .iter()
        .zip(&rows.kind[range])
        .filter(|(_, kind)| **kind == TEXT)
    {
        let at = usize::try_from(*bits).unwrap_or(usize::MAX);
        put_bytes(out, rows.texts[at].as_bytes());
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
    while rows.len() < n {
        let flags = r.u8("flags of a call")?;
        let has_step = flags & STEP != 0;
        if flags & !(STEP | SHAPE) != 0 {
            return Err(unknown("flags of a call", flags.into()));
        }
        if has_step {
            step = step.wrapping_add(unzigzag(take_number(r, "step")?));
        }
        timestamp = timestamp.wrapping_add(unzigzag(take_number(r, "timestamp")?));
        seq = seq.wrapping_add(unzigzag(take_number(r, "seq")?));
        if flags & SHAPE != 0 {
            take_shape(r, rows, &mut shape, &mut name)?;
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
        for &(key, kind) in &shape {
            let value = match kind {
                0 => ValueRef::Float(f64::from_bits(r.u64("float value")?)),
                1 => ValueRef::Int(r.i64("int value")?),
                BOOL => ValueRef::Bool(r.u8("bool value")? != 0),
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
