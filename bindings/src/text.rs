//! What becomes of the text of all ranks: which is forwarded, and which is shown here.

use expman_actors::MeshError;
use expman_model::Level;
use expman_model::forwarding::ForwardingChange;
use pyo3::prelude::*;

use crate::errors::to_py;
use crate::exit::{Inside, detach};
use crate::options::seconds;
use crate::run::CoreRun;

/// Has other text forwarded in every rank; returns whether it is, and from which level on.
#[pyfunction]
#[pyo3(signature = (core, on, level, timeout))]
pub(crate) fn forward(
    py: Python<'_>,
    core: &CoreRun,
    on: Option<bool>,
    level: Option<u8>,
    timeout: f64,
) -> PyResult<(bool, u8)> {
    let Some(_inside) = Inside::enter() else {
        return Err(to_py(&MeshError::Closed));
    };
    let change = ForwardingChange {
        on,
        level: level.map(Level),
    };
    let now = detach(py, || core.run().forward_blocking(change, seconds(timeout)));
    now.map(|now| (now.on, now.level.0)).map_err(|e| to_py(&e))
}

/// Whether text is forwarded, and from which level on, as far as this process knows.
#[pyfunction]
pub(crate) fn forwarding(core: &CoreRun) -> (bool, u8) {
    let now = core.run().forwarding();
    (now.on, now.level.0)
}

/// Shows the lines of all other ranks here; with a window in seconds, alike lines within it once.
#[pyfunction]
#[pyo3(signature = (core, window))]
pub(crate) fn stream(py: Python<'_>, core: &CoreRun, window: Option<f64>) -> PyResult<()> {
    detach(py, || core.run().stream(window.map(seconds))).map_err(|e| to_py(&e))
}

/// Ends that.
#[pyfunction]
pub(crate) fn stop_stream(py: Python<'_>, core: &CoreRun) {
    detach(py, || core.run().stop_stream());
}
