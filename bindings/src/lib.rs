//! `monarch_like._core`: the border between Python and the mesh. It converts, and nothing else.

use pyo3::prelude::*;

mod call;
mod console;
mod entry;
mod errors;
mod exit;
mod flush;
mod metrics;
mod options;
mod params;
mod run;
mod shapes;
mod text;
mod values;

#[pymodule]
mod _core {
    #[pymodule_export]
    use crate::console::write_console;
    #[pymodule_export]
    use crate::entry::{cli_main, owner_main};
    #[pymodule_export]
    use crate::errors::{
        ArtifactError, ConfigError, ExpmanError, FlushError, JoinError, RunExistsError,
        StorageError,
    };
    #[pymodule_export]
    use crate::exit::{forked, interpreter_ends};
    #[pymodule_export]
    use crate::flush::CoreFlush;
    #[pymodule_export]
    use crate::run::CoreRun;
    #[pymodule_export]
    use crate::text::{forward, forwarding, stop_stream, stream};
}
