//! What a dead process left in its ring, read through the descriptor that came with its link.
//!
//! The process may have been stopped between any two stores, and its memory may hold anything: it is only read here,
//! never mapped, and nothing in it is believed before it was checked.

use std::os::fd::{AsFd, BorrowedFd};

use expman_model::record::RECORD_HEADER_BYTES;
use expman_model::{Record, RunStatus};
use rustix::fs::{SealFlags, fcntl_get_seals};
use rustix::io::{Errno, pread};

use super::layout::{
    CAPACITY_AT, END_AT, FIRST_UNTOLD_AT, HEADER_BYTES, LAST_SEQ_AT, MAGIC, PLACE_AT, end_of,
    split_place,
};
use crate::error::{MeshError, Result};

/// A ring that claims to be larger is none of ours.
const CAPACITY_MAX: usize = 64 << 20;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftover {
    /// Whole, valid records, oldest first; some may have been sent already.
    pub records: Vec<u8>,
    /// Last sequence number that was given, those of refused records included.
    pub last_seq: u64,
    /// Refused records that no gap record tells of yet: first, last, count.
    pub gap: Option<(u64, u64, u64)>,
    /// How the process said that its part ended, when it came to close.
    pub end: Option<RunStatus>,
    /// Why not everything that the ring claims to hold was taken.
    pub problem: Option<String>,
}

impl Leftover {
    /// Reads the ring of a process that is dead.
    ///
    /// # Errors
    /// When the descriptor is no ring.
    pub fn read(fd: BorrowedFd<'_>) -> Result<Self> {
        check_sealed(fd)?;
        let header = read_at(fd, 0, HEADER_BYTES)?;
        if header.get(..8) != Some(MAGIC.as_slice()) {
            return Err(no_ring("it does not begin like one"));
        }
        let capacity = long(&header, CAPACITY_AT);
        let capacity = usize::try_from(capacity)
            .ok()
            .filter(|n| (RECORD_HEADER_BYTES..=CAPACITY_MAX).contains(n))
            .ok_or_else(|| no_ring(&format!("it claims {capacity} bytes")))?;
        let (head, len) = split_place(long(&header, PLACE_AT));
        if head >= capacity || len > capacity {
            return Err(no_ring(&format!("place {head} + {len} of {capacity}")));
        }
        let first = len.min(capacity - head);
        let mut records = read_at(fd, HEADER_BYTES + head, first)?;
        records.extend(read_at(fd, HEADER_BYTES, len - first)?);
        let (whole, last_record, problem) = check(&records);
        records.truncate(whole);
        let told = long(&header, LAST_SEQ_AT);
        let last_seq = told.max(last_record);
        let first_untold = long(&header, FIRST_UNTOLD_AT);
        // A gap record that is in the ring already covers it.
        let gap = (first_untold > last_record && first_untold <= last_seq)
            .then(|| (first_untold, last_seq, last_seq - first_untold + 1));
        Ok(Self {
            records,
            last_seq,
            gap,
            end: end_of(long(&header, END_AT)),
            problem,
        })
    }
}

/// Sealed memory can't be a pipe that blocks or a file that shrinks while it is used.
pub(super) fn check_sealed(fd: impl AsFd) -> Result<()> {
    let seals = fcntl_get_seals(fd).map_err(|e| no_ring(&format!("it has no seals: {e}")))?;
    if seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
        Ok(())
    } else {
        Err(no_ring("it is not sealed"))
    }
}

/// How many bytes are whole records in rising order, the number of the last, and what ended them early.
fn check(bytes: &[u8]) -> (usize, u64, Option<String>) {
    let (mut end, mut last_seq) = (0, 0);
    while end < bytes.len() {
        match Record::decode(&bytes[end..]) {
            Ok((record, used)) if record.seq > last_seq => {
                end += used;
                last_seq = record.seq;
            }
            Ok((record, _)) => {
                let what = format!("record {} behind record {last_seq}", record.seq);
                return (end, last_seq, Some(what));
            }
            Err(e) => {
                let what = format!("behind record {last_seq}: {e}");
                return (end, last_seq, Some(what));
            }
        }
    }
    (end, last_seq, None)
}

fn no_ring(why: &str) -> MeshError {
    MeshError::Protocol(format!("a descriptor that is no ring: {why}"))
}

fn long(header: &[u8], at: usize) -> u64 {
    header
        .get(at..)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn read_at(fd: BorrowedFd<'_>, offset: usize, n: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; n];
    let mut filled = 0;
    while filled < n {
        match pread(fd, &mut bytes[filled..], (offset + filled) as u64) {
            Ok(0) => return Err(no_ring("it is shorter than it claims")),
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(e) => {
                return Err(MeshError::io("read", "the ring of a dead process")(
                    e.into(),
                ));
            }
        }
    }
    Ok(bytes)
}
