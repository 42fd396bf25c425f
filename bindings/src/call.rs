//! `log_metrics` as the interpreter calls it at the least cost: a C function that gets its arguments where they lie,
//! not in a tuple and a dict.
//!
//! It serves calls that look like an earlier one ([`crate::shapes`]) and find room at once; nothing of that runs
//! Python code or gives up the GIL. Every other call goes to [`CoreRun`]'s method.

#![expect(
    unsafe_code,
    reason = "a function of the C API: CPython gives it borrowed references and holds the GIL"
)]

use std::cell::RefCell;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use expman_model::record::set_moment;
use expman_model::time::now_us;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi::{self, Py_ssize_t, PyCFunction, PyMethodDef, PyMethodDefPointer, PyObject};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::exit::is_ending;
use crate::run::CoreRun;
use crate::shapes::{Shapes, whole};

/// `METH_FASTCALL`: every `CPython` since 3.7 has it, and those from 3.10 on promise to keep it.
const METH_FASTCALL: c_int = 0x80;

type Fast = unsafe extern "C" fn(
    *mut PyObject,
    *const *mut PyObject,
    Py_ssize_t,
    *mut PyObject,
) -> *mut PyObject;

/// What `CPython` keeps a pointer to.
struct Def(PyMethodDef);

// Nobody writes to it.
unsafe impl Sync for Def {}

static LOG_METRICS: Def = Def(PyMethodDef {
    ml_name: c"log_metrics".as_ptr(),
    ml_meth: PyMethodDefPointer {
        // What the flags say it is.
        PyCFunction: unsafe { std::mem::transmute::<Fast, PyCFunction>(log_metrics) },
    },
    ml_flags: METH_FASTCALL | ffi::METH_KEYWORDS,
    ml_doc: c"log_metrics($self, metrics, step=None)\n--\n\nLogs the metrics of one call; returns at once.".as_ptr(),
});

thread_local! {
    static SHAPES: RefCell<Shapes> = RefCell::default();
}

/// Uses this thread's [`Shapes`]; none when they are in use, or the thread ends.
#[inline]
pub(crate) fn with_shapes<T>(work: impl FnOnce(&mut Shapes) -> Option<T>) -> Option<T> {
    let used = SHAPES.try_with(|shapes| work(&mut *shapes.try_borrow_mut().ok()?));
    used.ok()?
}

/// A run's `log_metrics`, for the loop to call.
pub(crate) fn method<'py>(run: &Bound<'py, CoreRun>) -> PyResult<Bound<'py, PyAny>> {
    unsafe {
        let def = (&raw const LOG_METRICS.0).cast_mut();
        let made = ffi::PyCFunction_NewEx(def, run.as_ptr(), null_mut());
        Bound::from_owned_ptr_or_err(run.py(), made)
    }
}

/// The arguments of a call: those by place, then those by name, whose names `keywords` holds.
struct Given<'a> {
    values: &'a [*mut PyObject],
    by_place: usize,
    keywords: *mut PyObject,
}

impl Given<'_> {
    /// What `CPython` calls the function with.
    unsafe fn new(args: *const *mut PyObject, count: Py_ssize_t, keywords: *mut PyObject) -> Self {
        let by_place = usize::try_from(count).unwrap_or(0);
        let by_name = if keywords.is_null() {
            0
        } else {
            usize::try_from(unsafe { ffi::PyTuple_Size(keywords) }).unwrap_or(0)
        };
        let values = match by_place + by_name {
            0 => &[][..],
            all => unsafe { std::slice::from_raw_parts(args, all) },
        };
        Self {
            values,
            by_place,
            keywords,
        }
    }

    /// `(metrics, step)` or `(metrics, step=step)`; None for anything else.
    #[inline]
    fn usual(&self, py: Python<'_>) -> Option<(*mut PyObject, Option<*mut PyObject>)> {
        match (self.values, self.by_place) {
            ([metrics], 1) => Some((*metrics, None)),
            ([metrics, step], 2) => Some((*metrics, Some(*step))),
            ([metrics, step], 1) => {
                let name = unsafe { ffi::PyTuple_GetItem(self.keywords, 0) };
                (name == intern!(py, "step").as_ptr()).then_some((*metrics, Some(*step)))
            }
            _ => None,
        }
    }
}

/// The call, if it is one of those of the module's first lines.
#[inline]
fn at_once(run: &Bound<'_, CoreRun>, given: &Given<'_>) -> Option<u64> {
    let py = run.py();
    let run = run.get().run();
    if is_ending() || run.has_notices() {
        return None;
    }
    let (metrics, step) = given.usual(py)?;
    let metrics = unsafe { Borrowed::from_ptr(py, metrics) };
    let metrics = metrics.cast::<PyDict>().ok()?;
    let step = match step.filter(|step| *step != unsafe { ffi::Py_None() }) {
        Some(step) => Some(whole(step)?),
        None => None,
    };
    with_shapes(|shapes| {
        let record = shapes.fill(&metrics)?;
        set_moment(record, now_us(), step);
        run.push_at_once(record)
    })
}

/// The call, whatever it is: by the method, which knows all cases and says what is wrong with others.
fn patiently(run: &Bound<'_, CoreRun>, given: &Given<'_>) -> PyResult<()> {
    let py = run.py();
    let value = |at: *mut PyObject| unsafe { Bound::from_borrowed_ptr(py, at) };
    let (by_place, by_name) = given.values.split_at(given.by_place);
    let args = PyTuple::new(py, by_place.iter().map(|at| value(*at)))?;
    let kwargs = PyDict::new(py);
    for (at, given_value) in (0..).zip(by_name) {
        let name = value(unsafe { ffi::PyTuple_GetItem(given.keywords, at) });
        kwargs.set_item(name, value(*given_value))?;
    }
    run.call_method(intern!(py, "log_metrics"), args, Some(&kwargs))
        .map(drop)
}

unsafe extern "C" fn log_metrics(
    run: *mut PyObject,
    args: *const *mut PyObject,
    count: Py_ssize_t,
    keywords: *mut PyObject,
) -> *mut PyObject {
    let called = catch_unwind(AssertUnwindSafe(|| unsafe {
        let given = Given::new(args, count, keywords);
        let py = Python::assume_attached();
        let run = Borrowed::from_ptr(py, run).cast_unchecked::<CoreRun>();
        if at_once(&run, &given).is_some() {
            return Ok(());
        }
        // This tells pyo3 that the GIL is held, too: from here on it may drop what it holds.
        Python::attach(|_| patiently(&run, &given))
    }));
    let raised = match called {
        Ok(Ok(())) => return unsafe { Python::assume_attached() }.None().into_ptr(),
        Ok(Err(raised)) => raised,
        Err(_panic) => PyRuntimeError::new_err("log_metrics failed within: this is a bug"),
    };
    raised.restore(unsafe { Python::assume_attached() });
    null_mut()
}
