//! Output that Python captures by itself.

use expman_model::record::Stream;
use pyo3::prelude::*;

use crate::errors::ConfigError;
use crate::exit::{Inside, detach};
use crate::run::CoreRun;

/// Hands a run what was written to `stream`, `"out"` or `"err"`; `wait` for threads that may wait for room.
#[pyfunction]
#[pyo3(signature = (run, stream, data, wait = false))]
pub(crate) fn write_console(
    py: Python<'_>,
    run: &Bound<'_, CoreRun>,
    stream: &str,
    data: &[u8],
    wait: bool,
) -> PyResult<()> {
    let Some(_inside) = Inside::enter() else {
        return Ok(());
    };
    let stream = match stream {
        "out" => Stream::Out,
        "err" => Stream::Err,
        other => {
            return Err(ConfigError::new_err(format!(
                "stream={other:?} is neither \"out\" nor \"err\""
            )));
        }
    };
    let run = run.get().run();
    if wait {
        detach(py, || run.write_console(stream, data, true));
    } else {
        run.write_console(stream, data, false);
    }
    Ok(())
}
