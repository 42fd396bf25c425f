//! One tokio runtime per process, rebuilt in a forked child.
//!
//! A runtime that a fork copied has no threads behind it: whatever is asked of it never happens.
//! So it is tagged with its process id, and a child that finds a foreign tag leaks it and builds its own.

use std::sync::atomic::{AtomicPtr, Ordering};

use tokio::runtime::Runtime;

use crate::error::{MeshError, Result};

/// What the runtime, a link and the start of an owner need at once.
const DESCRIPTORS: usize = 16;

struct Tagged {
    pid: u32,
    runtime: Runtime,
}

static CURRENT: AtomicPtr<Tagged> = AtomicPtr::new(std::ptr::null_mut());

/// The runtime of this process.
///
/// # Errors
/// When no thread can be started.
pub fn current() -> Result<&'static Runtime> {
    let pid = std::process::id();
    let known = CURRENT.load(Ordering::Acquire);
    if let Some(tagged) = get(known)
        && tagged.pid == pid
    {
        return Ok(&tagged.runtime);
    }
    spare_descriptors()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("expman-mesh")
        .enable_all()
        .build()
        .map_err(MeshError::io("start a runtime for", "this process"))?;
    let fresh = Box::into_raw(Box::new(Tagged { pid, runtime }));
    // Whoever loses the race leaks an idle runtime, once.
    match CURRENT.compare_exchange(known, fresh, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => current(),
        Err(_other) => current(),
    }
}

/// Refuses in words what the runtime's own start would answer with a panic.
fn spare_descriptors() -> Result<()> {
    let opened: std::io::Result<Vec<_>> = (0..DESCRIPTORS)
        .map(|_| std::fs::File::open("/dev/null"))
        .collect();
    opened.map(drop).map_err(MeshError::io(
        "find 16 free descriptors for",
        "this process",
    ))
}

#[expect(
    unsafe_code,
    reason = "the pointer is null or came from Box::into_raw and is never freed"
)]
const fn get(tagged: *mut Tagged) -> Option<&'static Tagged> {
    unsafe { tagged.as_ref() }
}
