//! Columns of numbers as bytes: plain or as differences, split into planes, which zstd makes small.

use expman_model::CodecError;
use expman_model::codec::Reader;

use super::series::{Bucket, Moment};

/// Adds a column: all lowest bytes, then the next ones …
pub fn put(out: &mut Vec<u8>, values: impl Iterator<Item = u64>) {
    let values: Vec<[u8; 8]> = values.map(u64::to_le_bytes).collect();
    for plane in 0..8 {
        out.extend(values.iter().map(|bytes| bytes[plane]));
    }
}

/// Adds a column as differences, which are small where neighbours are alike.
pub fn put_delta(out: &mut Vec<u8>, values: impl Iterator<Item = u64>) {
    let mut last = 0;
    let deltas: Vec<u64> = values
        .map(|value| {
            let delta = value
                .wrapping_sub(std::mem::replace(&mut last, value))
                .cast_signed();
            // The sign at the low end, so that small steps back are small, too.
            ((delta << 1) ^ (delta >> 63)).cast_unsigned()
        })
        .collect();
    put(out, deltas.iter().copied());
}

/// Reads a column of `n` numbers.
///
/// # Errors
/// When there are fewer bytes.
pub fn take(from: &mut Reader<'_>, n: usize) -> Result<Vec<u64>, CodecError> {
    let bytes = from.take(n.saturating_mul(8), "a column")?;
    let mut values = vec![0; n];
    if n > 0 {
        for (plane, bytes) in bytes.chunks_exact(n).enumerate() {
            for (value, byte) in values.iter_mut().zip(bytes) {
                *value |= u64::from(*byte) << (8 * plane);
            }
        }
    }
    Ok(values)
}

/// Reads a column of differences.
///
/// # Errors
/// When there are fewer bytes.
pub fn take_delta(from: &mut Reader<'_>, n: usize) -> Result<Vec<u64>, CodecError> {
    let mut last = 0_u64;
    let mut values = take(from, n)?;
    for value in &mut values {
        let delta = (*value >> 1) ^ (*value & 1).wrapping_neg();
        last = last.wrapping_add(delta);
        *value = last;
    }
    Ok(values)
}

/// Buckets as columns.
pub fn put_buckets(out: &mut Vec<u8>, buckets: &[Bucket]) {
    put_delta(out, buckets.iter().map(|b| b.index.cast_unsigned()));
    put(out, buckets.iter().map(|b| b.n));
    let floats: [fn(&Bucket) -> f64; 4] = [|b| b.min, |b| b.max, |b| b.sum, |b| b.last];
    for float in floats {
        put(out, buckets.iter().map(|b| float(b).to_bits()));
    }
    put_delta(
        out,
        buckets.iter().map(|b| b.at.timestamp_us.cast_unsigned()),
    );
    put(out, buckets.iter().map(|b| u64::from(b.at.attempt)));
    put_delta(out, buckets.iter().map(|b| b.at.seq));
}

/// Reads `n` buckets.
///
/// # Errors
/// When there are fewer bytes, or a number can't be one.
pub fn take_buckets(from: &mut Reader<'_>, n: usize) -> Result<Vec<Bucket>, CodecError> {
    let index = take_delta(from, n)?;
    let counts = take(from, n)?;
    let mut floats = Vec::new();
    for _ in 0..4 {
        floats.push(take(from, n)?);
    }
    let timestamp = take_delta(from, n)?;
    let attempt = take(from, n)?;
    let seq = take_delta(from, n)?;
    let bucket = |i: usize| {
        let float = |column: usize| f64::from_bits(floats[column][i]);
        Ok(Bucket {
            index: index[i].cast_signed(),
            n: counts[i],
            min: float(0),
            max: float(1),
            sum: float(2),
            last: float(3),
            at: Moment {
                timestamp_us: timestamp[i].cast_signed(),
                attempt: small(attempt[i])?,
                seq: seq[i],
            },
        })
    };
    (0..n).map(bucket).collect()
}

/// A number that fits into 32 bits.
///
/// # Errors
/// When it does not.
pub fn small(value: u64) -> Result<u32, CodecError> {
    u32::try_from(value).map_err(|_too_large| CodecError::Unknown {
        what: "small number",
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_read_back() {
        let values = [0, 1, u64::MAX, 5, 4, 1 << 63];
        let mut bytes = Vec::new();
        put(&mut bytes, values.iter().copied());
        put_delta(&mut bytes, values.iter().copied());
        let mut from = Reader::new(&bytes);
        assert_eq!(take(&mut from, values.len()).unwrap(), values);
        assert_eq!(take_delta(&mut from, values.len()).unwrap(), values);
        assert!(take(&mut from, 1).is_err());
        assert!(take(&mut from, 0).unwrap().is_empty());
    }
}
