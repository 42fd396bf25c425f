//! The options of a run, from Python's words to the core's.

use std::path::PathBuf;
use std::time::Duration;

use expman_actors::{OnFull, OwnerMode, RunConfig};
use expman_model::RunMeta;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::ConfigError;

/// Seconds as people give them: what is below zero is none, what is beyond all measure is long.
pub(crate) fn seconds(secs: f64) -> Duration {
    Duration::try_from_secs_f64(secs.max(0.0)).unwrap_or(Duration::from_secs(u32::MAX.into()))
}

/// An option of the constructor.
pub(crate) fn option<'py, T>(options: &Bound<'py, PyDict>, name: &str) -> PyResult<Option<T>>
where
    T: FromPyObjectOwned<'py>,
{
    match options.get_item(name)? {
        Some(value) if !value.is_none() => {
            let given = value.repr()?.to_string();
            value.extract().map(Some).map_err(|_other| {
                ConfigError::new_err(format!("{name}={given} is not of the right type"))
            })
        }
        _ => Ok(None),
    }
}

/// All options, as the core has them.
pub(crate) fn config(options: &Bound<'_, PyDict>) -> PyResult<RunConfig> {
    let mut config = RunConfig::new(option::<String>(options, "experiment")?.unwrap_or_default());
    config.run_name = option(options, "run_name")?;
    config.base_dir =
        option::<PathBuf>(options, "base_dir")?.unwrap_or_else(|| "experiments".into());
    config.rank = option(options, "rank")?;
    config.world_size = option(options, "world_size")?;
    config.launch_key = option(options, "launch_key")?;
    config.resume = option(options, "resume")?.unwrap_or(false);
    config.capture = option(options, "capture")?.unwrap_or(false);
    config.batch_age = seconds(option::<f64>(options, "flush_interval_ms")?.unwrap_or(20.0) / 1e3);
    config.timeout = seconds(option(options, "timeout")?.unwrap_or(10.0));
    if let Some(secs) = option::<f64>(options, "block_secs")? {
        config.on_full = OnFull::Block(seconds(secs));
    }
    if let Some(command) = option::<Vec<String>>(options, "owner_command")? {
        config.owner = OwnerMode::Process(command);
    }
    config.origin = RunMeta {
        language: Some("python".to_owned()),
        description: option(options, "description")?,
        tags: option(options, "tags")?.unwrap_or_default(),
        env_path: option(options, "env_path")?,
        command: option(options, "command")?.unwrap_or_default(),
        launcher: option(options, "launcher")?,
        ..RunMeta::default()
    };
    Ok(config)
}
