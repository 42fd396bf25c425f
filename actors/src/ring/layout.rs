//! The bytes of a ring, as its process writes them and as whoever reads it after its death finds them.
//!
//! One page of header, then the records. Little endian; every field has a cache line of its own.

use expman_model::RunStatus;

/// First bytes of a ring; the last one is the layout's version.
pub const MAGIC: &[u8; 8] = b"EXPRING1";
/// Bytes in front of the records.
pub const HEADER_BYTES: usize = 4096;
/// `u64`: bytes for records.
pub const CAPACITY_AT: usize = 8;
/// `u64`, head and length of the records in one, so that one store publishes a record or gives up its room.
pub const PLACE_AT: usize = 64;
/// `u64`: last sequence number given, those of refused records included.
pub const LAST_SEQ_AT: usize = 128;
/// `u64`: first refused record that no gap record tells of yet; 0 when there is none.
pub const FIRST_UNTOLD_AT: usize = 192;
/// `u64`: how the process said that its part ended, as [`end_code`]; 0 until it closes.
pub const END_AT: usize = 256;
/// `u64`, the one field that the owner writes: how far it has written, as [`receipt`]; 0 until it did.
pub const RECEIPT_AT: usize = 320;

/// Bits of a receipt that hold a sequence number; above them are the lowest of the owner's epoch.
const SEQ_BITS: u32 = 48;

/// What the owner of an epoch says when it has everything up to a sequence number in its file; one number, so that one
/// store says it. `None` for a number that no process reaches.
#[must_use]
pub const fn receipt(epoch: u64, seq: u64) -> Option<u64> {
    if seq >> SEQ_BITS == 0 {
        Some(epoch << SEQ_BITS | seq)
    } else {
        None
    }
}

/// The sequence number of a receipt, when the owner of this epoch wrote it: an earlier one counts no more.
#[must_use]
pub const fn receipt_of(epoch: u64, receipt: u64) -> Option<u64> {
    if (receipt >> SEQ_BITS) == (epoch << SEQ_BITS) >> SEQ_BITS {
        Some(receipt & ((1 << SEQ_BITS) - 1))
    } else {
        None
    }
}

/// A status as the number that stands for it.
#[must_use]
pub fn end_code(status: RunStatus) -> u64 {
    let place = RunStatus::ALL.iter().position(|known| *known == status);
    place.map_or(0, |place| place as u64 + 1)
}

/// The status again, when it is one that ends something.
#[must_use]
pub fn end_of(code: u64) -> Option<RunStatus> {
    let place = usize::try_from(code.checked_sub(1)?).ok()?;
    let status = RunStatus::ALL.get(place)?;
    status.is_finished().then_some(*status)
}

/// Head and length as one number.
#[must_use]
pub const fn place(head: usize, len: usize) -> u64 {
    ((head as u64) << 32) | len as u64
}

/// The two again.
#[must_use]
pub const fn split_place(place: u64) -> (usize, usize) {
    ((place >> 32) as usize, (place & 0xffff_ffff) as usize)
}
