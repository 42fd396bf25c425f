//! The memory of a ring: a memfd that outlives a killed process as long as its owner holds the descriptor.
//!
//! Where no memfd can be made (an old kernel, a sandbox, a limit) it is private memory with the same layout: then a
//! killed process takes along what it had not sent yet.

#![expect(
    unsafe_code,
    reason = "the one mapping of this crate: made and unmapped here, of a size that is sealed, every access checked against it"
)]

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use expman_model::RunStatus;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use rustix::process::{Resource, getrlimit};

use super::layout::{
    CAPACITY_AT, END_AT, FIRST_UNTOLD_AT, HEADER_BYTES, LAST_SEQ_AT, MAGIC, PLACE_AT, RECEIPT_AT,
};
use crate::error::{MeshError, Result};

/// No page is smaller; a larger one is made whole.
const PAGE_BYTES: usize = 4096;

/// See the module. Only the ring writes, under its lock, and only where nothing is published; but for the one field
/// that is the owner's.
#[derive(Debug)]
pub(super) struct Memory {
    base: NonNull<u8>,
    capacity: usize,
    /// Bytes from the front whose pages are there.
    warm: AtomicUsize,
}

// The pointer is to memory that belongs to this value alone; what several threads touch are atomics and published bytes.
unsafe impl Send for Memory {}
unsafe impl Sync for Memory {}

impl Memory {
    /// Room for `capacity` bytes of records, whose pages cost nothing until they are used; with the descriptor, or
    /// why there is none and the memory is private.
    pub(super) fn new(capacity: usize) -> Result<(Self, Result<OwnedFd, String>)> {
        let bytes = HEADER_BYTES + capacity;
        let shared = memfd(bytes as u64).and_then(|fd| Ok((map_shared(&fd, bytes)?, fd)));
        let (base, shared) = match shared {
            Ok((base, fd)) => (base, Ok(fd)),
            Err(e) => (map_private(bytes)?, Err(e.to_string())),
        };
        let memory = Self {
            base,
            capacity,
            warm: AtomicUsize::new(0),
        };
        memory
            .field(CAPACITY_AT)
            .store((capacity as u64).to_le(), Ordering::Relaxed);
        let magic = u64::from_ne_bytes(*MAGIC);
        memory.field(0).store(magic, Ordering::Release);
        Ok((memory, shared))
    }

    pub(super) const fn capacity(&self) -> usize {
        self.capacity
    }

    fn field(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= HEADER_BYTES);
        // A mapping starts at a page.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    /// Publishes where the records are.
    pub(super) fn set_place(&self, head: usize, len: usize) {
        let place = super::layout::place(head, len);
        self.field(PLACE_AT).store(place.to_le(), Ordering::Release);
    }

    pub(super) fn set_last_seq(&self, seq: u64) {
        self.field(LAST_SEQ_AT)
            .store(seq.to_le(), Ordering::Release);
    }

    pub(super) fn set_first_untold(&self, seq: u64) {
        self.field(FIRST_UNTOLD_AT)
            .store(seq.to_le(), Ordering::Release);
    }

    pub(super) fn set_end(&self, status: RunStatus) {
        let code = super::layout::end_code(status);
        self.field(END_AT).store(code.to_le(), Ordering::Release);
    }

    /// What the owner wrote there.
    pub(super) fn receipt(&self) -> u64 {
        u64::from_le(self.field(RECEIPT_AT).load(Ordering::Acquire))
    }

    /// Has the kernel make the pages up to this byte of the records, which is slow where memory is short or comes
    /// from a hypervisor. What it can't do now is done at the first write, as without this.
    pub(super) fn warm(&self, upto: usize) {
        let upto = upto.min(self.capacity);
        let from = self.warm.fetch_max(upto, Ordering::Relaxed);
        if from >= upto {
            return;
        }
        // The header's page is the first; the call wants whole pages.
        let start = (HEADER_BYTES + from) / PAGE_BYTES * PAGE_BYTES;
        let bytes = HEADER_BYTES + upto - start;
        let made = unsafe {
            let first = self.base.as_ptr().add(start);
            madvise(first.cast(), bytes, Advice::LinuxPopulateWrite)
        };
        if let Err(e) = made {
            tracing::debug!("the ring's pages: {e}");
        }
    }

    /// Writes at `at`, and from the front when the end is reached.
    pub(super) fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at < self.capacity && bytes.len() <= self.capacity);
        let (first, rest) = bytes.split_at(bytes.len().min(self.capacity - at));
        unsafe {
            let records = self.base.as_ptr().add(HEADER_BYTES);
            records
                .add(at)
                .copy_from_nonoverlapping(first.as_ptr(), first.len());
            records.copy_from_nonoverlapping(rest.as_ptr(), rest.len());
        }
    }

    /// Reads what `write` wrote.
    pub(super) fn read(&self, at: usize, out: &mut [u8]) {
        assert!(at < self.capacity && out.len() <= self.capacity);
        let first_bytes = out.len().min(self.capacity - at);
        let (first, rest) = out.split_at_mut(first_bytes);
        unsafe {
            let records = self.base.as_ptr().add(HEADER_BYTES);
            first
                .as_mut_ptr()
                .copy_from_nonoverlapping(records.add(at), first.len());
            rest.as_mut_ptr()
                .copy_from_nonoverlapping(records, rest.len());
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // In a forked child this gives up the child's view only.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), HEADER_BYTES + self.capacity) };
        if let Err(e) = unmapped {
            tracing::debug!("the ring's memory: {e}");
        }
    }
}

/// A memfd of a size that nobody can change any more.
fn memfd(bytes: u64) -> Result<OwnedFd, Errno> {
    // Beyond its limit a process is not only refused, it is signalled.
    if getrlimit(Resource::Fsize)
        .current
        .is_some_and(|limit| limit < bytes)
    {
        return Err(Errno::FBIG);
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match memfd_create(c"expman-ring", flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => memfd_create(c"expman-ring", flags)?,
        made => made?,
    };
    ftruncate(&fd, bytes)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

fn map_shared(fd: &OwnedFd, bytes: usize) -> Result<NonNull<u8>, Errno> {
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    let base = unsafe { mmap(std::ptr::null_mut(), bytes, prot, flags, fd, 0) }?;
    NonNull::new(base.cast()).ok_or(Errno::NOMEM)
}

fn map_private(bytes: usize) -> Result<NonNull<u8>> {
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, prot, flags) }
        .and_then(|base| NonNull::new(base.cast()).ok_or(Errno::NOMEM))
        .map_err(|e| MeshError::io("map memory for", "the queue")(e.into()))
}
