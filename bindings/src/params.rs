//! Nested Python values as parameters.

use expman_model::{Param, Value};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFrozenSet, PyList, PySet, PyTuple};

use crate::values::convert;

/// Deeper values are stored as their text.
const DEPTH_MAX: usize = 32;

/// A dict as the list that a map is made of.
pub(crate) fn entries(dict: &Bound<'_, PyDict>) -> Vec<(String, Param)> {
    dict.iter()
        .map(|(k, v)| (text(&k), at_depth(&v, 1)))
        .collect()
}

fn at_depth(value: &Bound<'_, PyAny>, depth: usize) -> Param {
    if value.is_none() {
        return Param::Null;
    }
    if depth <= DEPTH_MAX {
        if let Ok(dict) = value.cast::<PyDict>() {
            return Param::Map(
                dict.iter()
                    .map(|(k, v)| (text(&k), at_depth(&v, depth + 1)))
                    .collect(),
            );
        }
        let sequence = value.cast::<PyList>().is_ok() || value.cast::<PyTuple>().is_ok();
        let set = value.cast::<PySet>().is_ok() || value.cast::<PyFrozenSet>().is_ok();
        if (sequence || set)
            && let Ok(items) = value.try_iter()
        {
            return Param::List(
                items
                    .flatten()
                    .map(|item| at_depth(&item, depth + 1))
                    .collect(),
            );
        }
    }
    match convert(value) {
        Ok(Value::Float(x)) => Param::Float(x),
        Ok(Value::Int(i)) => Param::Int(i),
        Ok(Value::Bool(b)) => Param::Bool(b),
        Ok(Value::Text(s)) => Param::Text(s),
        Err(_reason) => Param::Text(text(value)),
    }
}

fn text(value: &Bound<'_, PyAny>) -> String {
    value.str().map_or_else(
        |_raised| "<unprintable>".to_owned(),
        |s| s.to_string_lossy().into_owned(),
    )
}
