//! Whole programs in the wheel: the command line, and the owner process.

use pyo3::prelude::*;

/// Runs `expman` with these arguments and returns its exit code.
#[pyfunction]
pub(crate) fn cli_main(py: Python<'_>, args: Vec<std::ffi::OsString>) -> i32 {
    py.detach(|| i32::from(expman_cli::run(args)))
}

/// The whole life of an owner process; returns its exit code.
#[pyfunction]
pub(crate) fn owner_main(py: Python<'_>) -> i32 {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("EXPMAN_LOG")
                .unwrap_or_else(|_unset| "warn".into()),
        )
        .with_writer(std::io::stderr)
        // Its log may lie on the disk that is full, and that must not end the owner.
        .log_internal_errors(false)
        .with_ansi(false)
        .init();
    match py.detach(expman_actors::owner::main) {
        Ok(()) => 0,
        Err(e) => {
            tracing::error!("{e}");
            1
        }
    }
}
