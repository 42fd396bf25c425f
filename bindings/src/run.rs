//! A run, as the Python wrapper holds it.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use expman_actors::{FlushOptions, MeshError, Origin, Refusal, Run, RunHandle};
use expman_model::limits::RECORD_BYTES_MAX;
use expman_model::{FlushScope, Level, RunStatus, check_key};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use tokio::sync::watch;

use crate::call::with_shapes;
use crate::errors::{ConfigError, to_py};
use crate::exit::{Inside, detach};
use crate::flush::CoreFlush;
use crate::metrics::with_record;
use crate::options::{config, option, seconds};
use crate::{params, values};

/// See the module.
#[pyclass(frozen, module = "monarch_like._core")]
pub(crate) struct CoreRun {
    run: Arc<Run>,
    /// Called as `on_refused(name, reason)` for every value that was left out; it warns once, or raises when strict.
    on_refused: Py<PyAny>,
    /// Called as `on_trouble(text)`, once for each kind of trouble on the way to the disk.
    on_trouble: Py<PyAny>,
}

/// Why metrics or parameters were refused as a whole.
const NO_MAPPING: &str = "not a mapping";

/// A mapping of any kind as a dict; None when it is none, or raises on the way.
fn as_dict<'py>(mapping: &Bound<'py, PyAny>) -> Option<Bound<'py, PyDict>> {
    match mapping.cast::<PyDict>() {
        Ok(dict) => Some(dict.clone()),
        Err(_other) => {
            let copied = mapping.py().get_type::<PyDict>().call1((mapping,)).ok()?;
            copied.cast_into::<PyDict>().ok()
        }
    }
}

#[pymethods]
impl CoreRun {
    #[new]
    fn new(
        py: Python<'_>,
        options: &Bound<'_, PyDict>,
        on_refused: Py<PyAny>,
        on_trouble: Py<PyAny>,
    ) -> PyResult<Self> {
        let Some(_inside) = Inside::enter() else {
            return Err(to_py(&MeshError::Closed));
        };
        let handle = option::<String>(options, "handle")?;
        let config = config(options)?;
        let handle: Option<RunHandle> = match handle {
            Some(text) => Some(serde_json::from_str(&text).map_err(|e| {
                ConfigError::new_err(format!(
                    "the handle {text:?} is not one of exp.handle(): {e}"
                ))
            })?),
            None => None,
        };
        let run = detach(py, || match handle {
            Some(handle) => Run::open_handle(config, &handle),
            None => Run::open(config),
        });
        Ok(Self {
            run: Arc::new(run.map_err(|e| to_py(&e))?),
            on_refused,
            on_trouble,
        })
    }

    #[pyo3(signature = (metrics, step=None))]
    fn log_metrics(
        &self,
        metrics: &Bound<'_, PyAny>,
        step: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let Some(_inside) = Inside::enter() else {
            return Ok(());
        };
        let py = metrics.py();
        let step = match values::step(step) {
            Ok(step) => step,
            Err(reason) => return self.refuse(py, "step", reason),
        };
        let Some(dict) = as_dict(metrics) else {
            return self.refuse(py, "metrics", NO_MAPPING);
        };
        let mut pushed = Ok(0);
        let refused = with_record(&dict, step, |record| {
            // The next call of this kind begins with this record.
            with_shapes(|shapes| shapes.learn(&dict, record));
            pushed = self.push(py, record);
        })?;
        for metric in refused {
            self.refuse(py, &metric.name, metric.reason)?;
        }
        self.accepted(py, "metrics", pushed)
    }

    /// This run's `log_metrics` for a loop, which takes a known call in at a fraction of the cost.
    #[getter]
    fn quick_log_metrics<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        crate::call::method(slf)
    }

    fn log_scalar(&self, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let Some(_inside) = Inside::enter() else {
            return Ok(());
        };
        let py = value.py();
        let Ok(key) = key.cast::<PyString>() else {
            return self.refuse(py, "scalar", "scalar name is not text");
        };
        let key = key.to_string_lossy();
        if check_key("scalar name", &key).is_err() {
            let shown: String = key.chars().take(80).collect();
            return self.refuse(py, &shown, "bad scalar name");
        }
        match values::convert(value) {
            Ok(value) => {
                let pushed = detach(py, || self.run.log_scalar(&*key, value));
                self.accepted(py, &key, pushed)
            }
            Err(reason) => self.refuse(py, &key, reason),
        }
    }

    fn log_params(&self, params: &Bound<'_, PyAny>) -> PyResult<()> {
        let Some(_inside) = Inside::enter() else {
            return Ok(());
        };
        let py = params.py();
        let Some(params) = as_dict(params) else {
            return self.refuse(py, "params", NO_MAPPING);
        };
        let entries = params::entries(&params);
        self.accepted(py, "params", detach(py, || self.run.log_params(entries)))
    }

    #[pyo3(signature = (level, text, logger = "", file = "", line = 0))]
    fn log_message(
        &self,
        level: u8,
        text: &Bound<'_, PyString>,
        logger: &str,
        file: &str,
        line: u32,
    ) -> PyResult<()> {
        let Some(_inside) = Inside::enter() else {
            return Ok(());
        };
        let py = text.py();
        let mut text = text.to_string_lossy().into_owned();
        if text.len() > RECORD_BYTES_MAX / 2 {
            let end = (0..=RECORD_BYTES_MAX / 2)
                .rev()
                .find(|&i| text.is_char_boundary(i))
                .unwrap_or(0);
            text.truncate(end);
            self.refuse(py, "message", "text cut")?;
        }
        let source = Origin {
            logger: logger.to_owned(),
            file: file.to_owned(),
            line,
        };
        self.accepted(
            py,
            "message",
            detach(py, || self.run.log_from(Level(level), source, text)),
        )
    }

    fn log_failure(
        &self,
        message: &Bound<'_, PyString>,
        traceback: &Bound<'_, PyString>,
    ) -> PyResult<()> {
        let Some(_inside) = Inside::enter() else {
            return Ok(());
        };
        let py = message.py();
        let message = message.to_string_lossy().into_owned();
        let traceback = traceback.to_string_lossy().into_owned();
        self.accepted(
            py,
            "failure",
            detach(py, || self.run.log_failure(message, traceback)),
        )
    }

    /// Copies a file or folder below artifacts/; blocks, without the GIL.
    #[expect(clippy::needless_pass_by_value, reason = "extracted from Python")]
    fn save_artifact(&self, py: Python<'_>, source: PathBuf, name: &str) -> PyResult<()> {
        let Some(_inside) = Inside::enter() else {
            return Err(to_py(&MeshError::Closed));
        };
        detach(py, || self.run.save_artifact(&source, name))
            .map_err(|e| crate::errors::ArtifactError::new_err(e.to_string()))
    }

    #[pyo3(signature = (timeout, scope="run", publish=false, tag=None))]
    fn flush(
        &self,
        timeout: f64,
        scope: &str,
        publish: bool,
        tag: Option<String>,
    ) -> PyResult<CoreFlush> {
        let Some(_inside) = Inside::enter() else {
            return Err(to_py(&MeshError::Closed));
        };
        let scope = match scope {
            "run" => FlushScope::Run,
            "rank" => FlushScope::Rank,
            other => {
                return Err(ConfigError::new_err(format!(
                    "scope={other:?} is neither \"run\" nor \"rank\""
                )));
            }
        };
        let options = FlushOptions {
            scope,
            timeout: seconds(timeout),
            publish,
            tag,
        };
        if !self.run.is_mine() {
            // Its runtime has no threads here: nobody would ever answer.
            return Err(to_py(&MeshError::Forked));
        }
        let (tell, outcome) = watch::channel(None);
        let run = Arc::clone(&self.run);
        self.run.runtime().spawn(async move {
            let done = run.flush(options).await.map_err(|e| e.to_string());
            tell.send_replace(Some(done));
        });
        Ok(CoreFlush { outcome })
    }

    /// Closes this rank; returns whether the whole run is closed.
    fn close(&self, py: Python<'_>, status: &str, timeout: f64) -> PyResult<bool> {
        let Some(_inside) = Inside::enter() else {
            return Err(to_py(&MeshError::Closed));
        };
        let status = RunStatus::parse(status)
            .filter(|s| s.is_finished())
            .ok_or_else(|| {
                let known: Vec<_> = RunStatus::ALL
                    .iter()
                    .filter(|s| s.is_finished())
                    .map(|s| s.as_str())
                    .collect();
                ConfigError::new_err(format!("status={status:?} is none of {}", known.join(", ")))
            })?;
        let closed = detach(py, || self.run.close_blocking(status, seconds(timeout)));
        self.tell_trouble(py)?;
        closed.map_err(|e| to_py(&e))
    }

    fn handle(&self) -> String {
        serde_json::to_string(&self.run.handle()).unwrap_or_default()
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.run.stats();
        let dict = PyDict::new(py);
        dict.set_item("accepted_seq", stats.ring.last_seq)?;
        dict.set_item("durable_seq", stats.forward.outbox.durable_seq)?;
        dict.set_item("queued_bytes", stats.ring.queued_bytes)?;
        dict.set_item("spooled_bytes", stats.forward.outbox.spooled_bytes)?;
        dict.set_item("dropped", stats.ring.dropped)?;
        dict.set_item("shared_memory", stats.ring.is_shared)?;
        dict.set_item("connected", stats.forward.connected)?;
        dict.set_item("reconnects", stats.forward.reconnects)?;
        dict.set_item("last_error", stats.forward.last_error)?;
        Ok(dict)
    }

    /// In a forked child: never free what the parent's threads use.
    fn leak(slf: &Bound<'_, Self>) {
        std::mem::forget(slf.clone().unbind());
    }

    #[getter]
    fn run_dir(&self) -> &OsStr {
        // Not the path itself, which becomes a `pathlib.Path`: close asks for it, and imports nothing.
        self.run.dir().as_os_str()
    }
    #[getter]
    fn run_name(&self) -> &str {
        self.run.name()
    }
    #[getter]
    fn run_id(&self) -> String {
        self.run.run_id().to_string()
    }
    #[getter]
    fn rank(&self) -> u32 {
        self.run.rank()
    }
    #[getter]
    fn attempt(&self) -> u32 {
        self.run.attempt()
    }
    #[getter]
    fn world_size(&self) -> Option<u32> {
        self.run.world_size()
    }
}

impl CoreRun {
    pub(crate) fn run(&self) -> &Run {
        &self.run
    }

    /// Pushes with the GIL held when that can't block, without it when there is no room and the caller asked to wait.
    fn push(&self, py: Python<'_>, record: &mut [u8]) -> Result<u64, Refusal> {
        if let Some(seq) = self.run.push_at_once(record) {
            return Ok(seq);
        }
        if self.run.may_wait() {
            detach(py, || self.run.push(record))
        } else {
            self.run.push(record)
        }
    }

    /// Counts a value that was left out and tells the wrapper.
    fn refuse(&self, py: Python<'_>, name: &str, reason: &'static str) -> PyResult<()> {
        self.run.refuse(reason, 1);
        self.on_refused.call1(py, (name, reason)).map(drop)
    }

    fn tell_trouble(&self, py: Python<'_>) -> PyResult<()> {
        for text in self.run.notices() {
            self.on_trouble.call1(py, (text,))?;
        }
        Ok(())
    }

    fn accepted(&self, py: Python<'_>, name: &str, pushed: Result<u64, Refusal>) -> PyResult<()> {
        self.tell_trouble(py)?;
        let reason = match pushed {
            Ok(_) => return Ok(()),
            Err(Refusal::Full) => "queue full",
            Err(Refusal::TooLarge) => "record too large",
            Err(Refusal::Closed) => "the run is closed",
            Err(Refusal::Forked) => "the run belongs to the process that this one was forked from",
        };
        self.on_refused.call1(py, (name, reason)).map(drop)
    }
}
