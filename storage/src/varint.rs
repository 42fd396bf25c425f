//! Numbers in as few bytes as they need: LEB128, signed ones in zigzag.

use expman_model::CodecError;
use expman_model::codec::Reader;

/// Adds an unsigned number.
#[inline]
pub(crate) fn put_number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n.to_le_bytes()[0] | 0x80);
        n >>= 7;
    }
    out.push(n.to_le_bytes()[0]);
}

/// Adds a signed one.
#[inline]
pub(crate) fn put_signed(out: &mut Vec<u8>, n: i64) {
    put_number(out, zigzag(n));
}

/// Reads an unsigned number.
#[inline]
pub(crate) fn take_number(r: &mut Reader<'_>, what: &'static str) -> Result<u64, CodecError> {
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

/// Reads a signed one.
#[inline]
pub(crate) fn take_signed(r: &mut Reader<'_>, what: &'static str) -> Result<i64, CodecError> {
    Ok(unzigzag(take_number(r, what)?))
}

/// A signed number as one that is small where it is near zero.
#[inline]
pub(crate) const fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)).cast_unsigned()
}

/// What [`zigzag`] was made of.
#[inline]
pub(crate) const fn unzigzag(n: u64) -> i64 {
    ((n >> 1) ^ (n & 1).wrapping_neg()).cast_signed()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_read_back(n in any::<u64>(), lost in 0..64_u32) {
            let n = n >> lost;
            let mut bytes = Vec::new();
            put_number(&mut bytes, n);
            put_signed(&mut bytes, n.cast_signed());
            let mut r = Reader::new(&bytes);
            prop_assert_eq!(take_number(&mut r, "n"), Ok(n));
            prop_assert_eq!(take_signed(&mut r, "n"), Ok(n.cast_signed()));
            prop_assert!(r.is_empty());
        }
    }

    #[test]
    fn more_than_a_number_is_refused() {
        let mut long = [0xFF; 10];
        let read = |bytes: &[u8]| take_number(&mut Reader::new(bytes), "n");
        long[9] = 1;
        assert_eq!(read(&long), Ok(u64::MAX));
        for last in [2, 0x81] {
            long[9] = last;
            assert!(matches!(read(&long), Err(CodecError::Unknown { .. })));
        }
        assert_eq!(read(&long[..9]), Err(CodecError::Truncated("n")));
    }
}
