//! Whether this is still the process that made something, or a forked copy of it: one load, no system call.
//!
//! A page that the kernel empties in every forked child (`MADV_WIPEONFORK`) holds a number; what belongs to a process
//! remembers it. A child finds zero there, and takes a number of its own when it makes something itself.

#![expect(
    unsafe_code,
    reason = "the page is mapped here, aligned, shared as an atomic only, and never unmapped"
)]

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

const PAGE_BYTES: usize = 4096;

static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
/// The last number taken; a child goes on counting behind its parent.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Remembers the process in which it was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Birth {
    /// None where the kernel does not empty pages: then the process id is compared.
    page: Option<&'static AtomicU64>,
    number: u64,
}

impl Birth {
    /// This process.
    pub(crate) fn here() -> Self {
        let Some(page) = page() else {
            return Self {
                page: None,
                number: u64::from(std::process::id()),
            };
        };
        let fresh = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let known = page.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed);
        Self {
            page: Some(page),
            number: known.err().unwrap_or(fresh),
        }
    }

    /// Whether this is that process.
    #[inline]
    pub(crate) fn is_here(self) -> bool {
        match self.page {
            Some(page) => page.load(Ordering::Relaxed) == self.number,
            None => u64::from(std::process::id()) == self.number,
        }
    }
}

fn page() -> Option<&'static AtomicU64> {
    let known = PAGE.load(Ordering::Acquire);
    if let Some(page) = unsafe { known.as_ref() } {
        return Some(page);
    }
    let fresh = unsafe {
        let page = mmap_anonymous(
            std::ptr::null_mut(),
            PAGE_BYTES,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
        .ok()?;
        madvise(page, PAGE_BYTES, Advice::LinuxWipeOnFork).ok()?;
        page.cast::<AtomicU64>()
    };
    // Whoever loses the race leaks an empty page, once.
    let kept = match PAGE.compare_exchange(known, fresh, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => fresh,
        Err(other) => other,
    };
    unsafe { kept.as_ref() }
}
