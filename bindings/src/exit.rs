//! The end of the interpreter, for threads that are inside of this library when it comes.
//!
//! Before version 3.14 `CPython` takes away a daemon thread that asks for the GIL too late by unwinding its stack,
//! and Rust code on that stack turns the unwinding into an abort of the whole process.
//! So who is inside is counted; the end waits until nobody is, lets nobody in afterwards,
//! and a thread that comes back later still stays where it is.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use pyo3::marker::Ungil;
use pyo3::prelude::*;

/// How often the end looks whether somebody is inside.
const LOOK: Duration = Duration::from_millis(1);

/// Nobody is let in any more.
static ENDING: AtomicBool = AtomicBool::new(false);
/// Who is still out may not come back; set by the thread that ends the interpreter.
static OVER: OnceLock<ThreadId> = OnceLock::new();
static INSIDE: AtomicUsize = AtomicUsize::new(0);

/// Held by whoever is inside and may run Python code or ask for the GIL.
pub(crate) struct Inside(());

impl Inside {
    /// Goes in; none when the interpreter is ending.
    pub(crate) fn enter() -> Option<Self> {
        INSIDE.fetch_add(1, Ordering::SeqCst);
        let inside = Self(());
        (!ENDING.load(Ordering::SeqCst)).then_some(inside)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether the interpreter is about to end. Who holds the GIL, does not give it up and finds that it is not needs to
/// go in no further.
#[inline]
pub(crate) fn is_ending() -> bool {
    ENDING.load(Ordering::Relaxed)
}

/// Works without the GIL, and does not ask for it again when the interpreter is gone.
pub(crate) fn detach<T: Ungil>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    py.detach(|| {
        let done = work();
        while OVER
            .get()
            .is_some_and(|ender| *ender != thread::current().id())
        {
            thread::park();
        }
        done
    })
}

/// Does what asks for the GIL, unless the interpreter is ending: then nobody is there to be told of anything.
pub(crate) fn attaching(work: impl FnOnce()) {
    match Inside::enter() {
        Some(_inside) => work(),
        None => std::mem::forget(work),
    }
}

/// The interpreter is about to end: waits at most `timeout` seconds until nobody is inside.
#[pyfunction]
pub(crate) fn interpreter_ends(py: Python<'_>, timeout: f64) {
    ENDING.store(true, Ordering::SeqCst);
    let limit = Duration::try_from_secs_f64(timeout.max(0.0)).unwrap_or(Duration::MAX);
    py.detach(|| {
        let start = Instant::now();
        while INSIDE.load(Ordering::SeqCst) > 0 && start.elapsed() < limit {
            thread::sleep(LOOK);
        }
    });
    OVER.get_or_init(|| thread::current().id());
}

/// In a forked child: those who were inside are threads of the parent.
#[pyfunction]
pub(crate) fn forked() {
    INSIDE.store(0, Ordering::SeqCst);
}
