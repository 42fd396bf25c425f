//! The owner's one word in a process's ring: how far it has written. It is there when the process looks, and wakes
//! nobody, as a frame would.
//!
//! The descriptor comes from outside: it must be sealed memory, is written with one call at a fixed place, and is
//! never mapped.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::pwrite;

use super::layout::{RECEIPT_AT, receipt};
use super::leftover::check_sealed;

/// See the module.
#[derive(Debug)]
pub(crate) struct Receipt {
    ring: Arc<OwnedFd>,
    epoch: u64,
}

impl Receipt {
    /// The word of the owner of `epoch`; `None` when the descriptor is no ring.
    pub(crate) fn new(ring: Arc<OwnedFd>, epoch: u64) -> Option<Self> {
        check_sealed(&*ring).is_ok().then_some(Self { ring, epoch })
    }

    /// Says that everything up to `seq` is in a file; false when it must be said otherwise.
    pub(crate) fn tell(&self, seq: u64) -> bool {
        let Some(word) = receipt(self.epoch, seq) else {
            return false;
        };
        let bytes = word.to_le_bytes();
        pwrite(&*self.ring, &bytes, RECEIPT_AT as u64).is_ok_and(|n| n == bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

    use super::*;
    use crate::ring::Ring;

    #[test]
    fn a_process_finds_what_its_owner_says_and_nothing_of_a_former_one() {
        let ring = Ring::new(64 << 10, 1 << 10).unwrap();
        assert_eq!(ring.written(3), None);
        let first = Receipt::new(ring.shared().unwrap(), 3).unwrap();
        assert!(first.tell(41) && first.tell(42));
        assert_eq!(ring.written(3), Some(42));
        assert_eq!(ring.written(4), None, "the next owner may not have it");
        assert!(Receipt::new(ring.shared().unwrap(), 4).unwrap().tell(7));
        assert_eq!((ring.written(3), ring.written(4)), (None, Some(7)));
        let of_epoch = |epoch| Receipt::new(ring.shared().unwrap(), epoch).unwrap();
        assert!(of_epoch((1 << 16) + 5).tell(9), "only its lowest bits");
        assert_eq!(ring.written((1 << 16) + 5), Some(9));
        assert!(!first.tell(1 << 48), "no room for such a number");
        assert_eq!(ring.written((1 << 16) + 5), Some(9));
    }

    #[test]
    fn what_is_no_ring_is_not_written_to() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let unsealed = Arc::new(memfd_create("other", flags).unwrap());
        assert!(Receipt::new(Arc::clone(&unsealed), 1).is_none());
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        assert!(Receipt::new(Arc::new(file), 1).is_none());
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        fcntl_add_seals(&unsealed, seals).unwrap();
        let read_only = Receipt::new(unsealed, 1).unwrap();
        assert!(!read_only.tell(1), "then a frame says it");
    }
}
