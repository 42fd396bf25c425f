//! Python values as logged values: exact types at once, everything number-like with patience, nothing by force.

use expman_model::Value;
use expman_model::limits::TEXT_BYTES_MAX;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString};

/// Why a value was refused; also the reason of its gap.
pub(crate) const BAD_VALUE: &str = "bad value";
/// See [`BAD_VALUE`].
pub(crate) const ON_DEVICE: &str = "value on an accelerator";
/// See [`BAD_VALUE`].
pub(crate) const TOO_LARGE_INT: &str = "integer beyond 64 bits";
/// See [`BAD_VALUE`].
pub(crate) const TOO_LONG_TEXT: &str = "text too long";

/// A value, or why there is none. Never raises: what Python code raises on the way is a reason.
pub(crate) fn convert(value: &Bound<'_, PyAny>) -> Result<Value, &'static str> {
    if let Ok(x) = value.cast_exact::<PyFloat>() {
        return Ok(Value::Float(x.value()));
    }
    plain(value).unwrap_or_else(|| number_like(value))
}

/// Exact Python types and their subclasses.
fn plain(value: &Bound<'_, PyAny>) -> Option<Result<Value, &'static str>> {
    if let Ok(b) = value.cast::<PyBool>() {
        return Some(Ok(Value::Bool(b.is_true())));
    }
    if value.cast::<PyInt>().is_ok() {
        return Some(
            value
                .extract::<i64>()
                .map(Value::Int)
                .map_err(|_overflow| TOO_LARGE_INT),
        );
    }
    if let Ok(x) = value.cast::<PyFloat>() {
        return Some(Ok(Value::Float(x.value())));
    }
    if let Ok(s) = value.cast::<PyString>() {
        // Lone surrogates have no UTF-8; they are shown, not lost.
        let text = s.to_string_lossy().into_owned();
        return Some(if text.len() <= TEXT_BYTES_MAX {
            Ok(Value::Text(text))
        } else {
            Err(TOO_LONG_TEXT)
        });
    }
    None
}

/// NumPy scalars and 0-d arrays, tensors on the CPU, Decimal and whatever else turns into a number by itself.
fn number_like(value: &Bound<'_, PyAny>) -> Result<Value, &'static str> {
    if value.is_none() || value.cast::<PyBytes>().is_ok() {
        return Err(BAD_VALUE);
    }
    let mut value = value.clone();
    if let Ok(item) = value.getattr("item") {
        if let Ok(device) = value.getattr("device") {
            let on_cpu = device
                .str()
                .is_ok_and(|d| d.to_string_lossy().to_ascii_lowercase().contains("cpu"));
            if !on_cpu {
                return Err(ON_DEVICE);
            }
        }
        value = item.call0().map_err(|_raised| BAD_VALUE)?;
        if let Some(done) = plain(&value) {
            return done;
        }
    }
    if let Ok(index) = value.call_method0("__index__") {
        return plain(&index).unwrap_or(Err(BAD_VALUE));
    }
    let float = value
        .call_method0("__float__")
        .map_err(|_raised| BAD_VALUE)?;
    float
        .cast::<PyFloat>()
        .map(|x| Value::Float(x.value()))
        .map_err(|_other| BAD_VALUE)
}

/// A step: none, or anything that is a whole number of 64 bits.
pub(crate) fn step(step: Option<&Bound<'_, PyAny>>) -> Result<Option<i64>, &'static str> {
    let Some(step) = step.filter(|s| !s.is_none()) else {
        return Ok(None);
    };
    if let Ok(n) = step.extract::<i64>() {
        return Ok(Some(n));
    }
    match convert(step) {
        Ok(Value::Int(n)) => Ok(Some(n)),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "checked to be whole and in range"
        )]
        Ok(Value::Float(x)) if x.fract() == 0.0 && x.abs() < i64::MAX as f64 => Ok(Some(x as i64)),
        _ => Err("bad step"),
    }
}
