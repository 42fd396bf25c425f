//! The hot path: a dict of metrics into one encoded record, without allocating.

use std::cell::Cell;

use expman_model::codec::put_bytes;
use expman_model::limits::{KEY_BYTES_MAX, POINTS_PER_CALL_MAX};
use expman_model::record::{KIND_METRICS, put_metrics_head, put_record, put_value};
use expman_model::time::now_us;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString};

use crate::values::{BAD_VALUE, convert};

/// Names that are remembered by the identity of their string object.
const REMEMBERED: usize = 1024;

thread_local! {
    /// The buffer of the last record; a nested call (from a `__float__`, say) finds it taken and makes its own.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static NAMES: Cell<Vec<Option<Remembered>>> = const { Cell::new(Vec::new()) };
}

/// A name's UTF-8 bytes; holding the string object keeps its address from meaning another one.
struct Remembered {
    object: Py<PyString>,
    bytes: Box<[u8]>,
}

/// A metric that was left out.
pub(crate) struct Refused {
    pub(crate) name: String,
    pub(crate) reason: &'static str,
}

/// Encodes a call and hands the record to `push`; returns what was left out.
///
/// Plain names and values are read from the dict itself. Others may run Python code that changes it meanwhile:
/// then the call starts again on a copy.
pub(crate) fn with_record(
    metrics: &Bound<'_, PyDict>,
    step: Option<i64>,
    push: impl FnOnce(&mut [u8]),
) -> PyResult<Vec<Refused>> {
    let mut buffer = BUFFER.take();
    let mut names = NAMES.take();
    names.resize_with(REMEMBERED, || None);
    let at_once = encode(&mut buffer, &mut names, metrics, step, true);
    let (points, refused) = if let Some(done) = at_once {
        done
    } else {
        let copy = metrics.copy()?;
        encode(&mut buffer, &mut names, &copy, step, false).unwrap_or_default()
    };
    if points > 0 {
        push(&mut buffer);
    }
    NAMES.set(names);
    BUFFER.set(buffer);
    Ok(refused)
}

/// One record of all that can be logged: how many points, and what was left out.
/// With `plain_only`, `None` as soon as Python code would run.
fn encode(
    buffer: &mut Vec<u8>,
    names: &mut [Option<Remembered>],
    metrics: &Bound<'_, PyDict>,
    step: Option<i64>,
    plain_only: bool,
) -> Option<(u32, Vec<Refused>)> {
    buffer.clear();
    let mut refused = Vec::new();
    let mut points = 0u32;
    let mut is_done = true;
    put_record(buffer, KIND_METRICS, 0, now_us(), |out| {
        let head = out.len();
        put_metrics_head(out, step, 0);
        for (key, value) in metrics.iter() {
            if plain_only && !is_plain(&value) {
                is_done = false;
                return;
            }
            let start = out.len();
            let done = put_key(out, names, &key).and_then(|()| put(out, &value));
            match done {
                Ok(()) if (points as usize) < POINTS_PER_CALL_MAX => points += 1,
                _ if plain_only => {
                    // Showing a name that is refused runs its `__repr__`.
                    is_done = false;
                    return;
                }
                done => {
                    out.truncate(start);
                    let reason = done.err().unwrap_or("too many metrics in one call");
                    refused.push(Refused {
                        name: shown(&key),
                        reason,
                    });
                }
            }
        }
        out[head + 9..head + 13].copy_from_slice(&points.to_le_bytes());
    });
    is_done.then_some((points, refused))
}

/// Whether reading a value runs no code but ours.
fn is_plain(value: &Bound<'_, PyAny>) -> bool {
    value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_exact_instance_of::<PyString>()
}

fn put(out: &mut Vec<u8>, value: &Bound<'_, PyAny>) -> Result<(), &'static str> {
    if let Ok(x) = value.cast_exact::<PyFloat>() {
        out.push(0);
        out.extend_from_slice(&x.value().to_bits().to_le_bytes());
        return Ok(());
    }
    put_value(out, &convert(value)?);
    Ok(())
}

fn put_key(
    out: &mut Vec<u8>,
    names: &mut [Option<Remembered>],
    key: &Bound<'_, PyAny>,
) -> Result<(), &'static str> {
    let address = key.as_ptr() as usize;
    let slot = &mut names[(address >> 4) % REMEMBERED];
    if let Some(known) = slot
        && known.object.as_ptr() == key.as_ptr()
    {
        put_bytes(out, &known.bytes);
        return Ok(());
    }
    let Ok(name) = key.cast::<PyString>() else {
        return Err("metric name is not text");
    };
    let text = name.to_string_lossy();
    if text.is_empty() {
        return Err("empty metric name");
    }
    if text.len() > KEY_BYTES_MAX {
        return Err("metric name too long");
    }
    put_bytes(out, text.as_bytes());
    *slot = Some(Remembered {
        object: name.clone().unbind(),
        bytes: text.as_bytes().into(),
    });
    Ok(())
}

/// How a name is told in a warning.
fn shown(key: &Bound<'_, PyAny>) -> String {
    let text = key.repr().map_or_else(
        |_raised| BAD_VALUE.to_owned(),
        |r| r.to_string_lossy().into_owned(),
    );
    text.chars().take(80).collect()
}
