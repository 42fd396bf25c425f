//! Every Rust error as the Python exception that callers catch.

use expman_actors::MeshError;
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(
    monarch_like,
    ExpmanError,
    PyException,
    "Base of every error of this package."
);
create_exception!(
    monarch_like,
    ConfigError,
    ExpmanError,
    "A name or an option is not allowed."
);
create_exception!(
    monarch_like,
    JoinError,
    ExpmanError,
    "The run, or its owner, could not be reached."
);
create_exception!(
    monarch_like,
    RunExistsError,
    JoinError,
    "The run exists and belongs to another launch."
);
create_exception!(
    monarch_like,
    StorageError,
    ExpmanError,
    "A file could not be read or written."
);
create_exception!(
    monarch_like,
    ArtifactError,
    StorageError,
    "An artifact could not be saved."
);
create_exception!(
    monarch_like,
    FlushError,
    ExpmanError,
    "A flush or a close was not completed."
);

pub(crate) fn to_py(e: &MeshError) -> PyErr {
    let text = e.to_string();
    match e {
        MeshError::Name(_) | MeshError::Storage(expman_storage::StorageError::Name(_)) => {
            ConfigError::new_err(text)
        }
        MeshError::RunExists { .. } => RunExistsError::new_err(text),
        MeshError::Storage(_) | MeshError::Io { .. } => StorageError::new_err(text),
        MeshError::CloseTimeout { .. } | MeshError::FlushTimeout(_) => FlushError::new_err(text),
        MeshError::Refused(_) | MeshError::OwnerStart(_) | MeshError::JoinTimeout { .. } => {
            JoinError::new_err(text)
        }
        _ => ExpmanError::new_err(text),
    }
}
