//! One flush, awaited, waited for, or both.

use std::time::Duration;

use expman_actors::park;
use expman_model::{FlushReport, RankOutcomeState};
use pyo3::IntoPyObjectExt;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::sync::watch;

use crate::errors::ExpmanError;
use crate::exit::{Inside, attaching, detach};

/// How often a blocked caller looks for Ctrl-C.
const LOOK: Duration = Duration::from_millis(100);

/// The outcome, once there is one; the error is text because several callers may get it.
pub(crate) type Outcome = Option<Result<FlushReport, String>>;

/// See the module. Reports are plain dicts here; the wrapper gives them their type.
#[pyclass(frozen, module = "monarch_like._core")]
pub(crate) struct CoreFlush {
    pub(crate) outcome: watch::Receiver<Outcome>,
}

#[pymethods]
impl CoreFlush {
    /// Blocks until the outcome is there, or for `timeout` seconds; None when it is not.
    #[pyo3(signature = (timeout=None))]
    fn wait<'py>(
        &self,
        py: Python<'py>,
        timeout: Option<f64>,
    ) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(_inside) = Inside::enter() else {
            return Err(ExpmanError::new_err("the interpreter is ending"));
        };
        let limit =
            timeout.map(|secs| Duration::try_from_secs_f64(secs.max(0.0)).unwrap_or(Duration::MAX));
        let start = std::time::Instant::now();
        loop {
            let left = limit.map_or(LOOK, |limit| {
                limit.saturating_sub(start.elapsed()).min(LOOK)
            });
            let mut outcome = self.outcome.clone();
            let done = detach(py, || {
                let outcome = async { outcome.wait_for(Option::is_some).await.map(|o| o.clone()) };
                park::wait(outcome, left)
            });
            match done {
                Some(Ok(outcome)) => return report(py, outcome).map(Some),
                Some(Err(_gone)) => return Err(ExpmanError::new_err("the run is closed")),
                None => py.check_signals()?,
            }
            if limit.is_some_and(|limit| start.elapsed() >= limit) {
                return Ok(None);
            }
        }
    }

    /// An asyncio future of the outcome on the running loop; cancelling it only stops waiting.
    fn future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let Some(_inside) = Inside::enter() else {
            return Err(ExpmanError::new_err("the interpreter is ending"));
        };
        let runtime = expman_actors::runtime::current().map_err(|e| crate::errors::to_py(&e))?;
        let event_loop = pyo3_async_runtimes::get_running_loop(py)?;
        let future = event_loop.call_method0(intern!(py, "create_future"))?;
        let waiting = Waiting {
            event_loop: event_loop.unbind(),
            future: future.clone().unbind(),
        };
        let mut outcome = self.outcome.clone();
        runtime.spawn(async move {
            let done = outcome.wait_for(Option::is_some).await.map(|o| o.clone());
            let done = done.unwrap_or_else(|_gone| Some(Err("the run is closed".to_owned())));
            // A thread that may wait for the GIL.
            tokio::task::spawn_blocking(|| {
                attaching(move || Python::attach(|py| waiting.tell(py, done)));
            });
        });
        Ok(future)
    }

    fn done(&self) -> bool {
        self.outcome.borrow().is_some()
    }
}

/// Who awaits an outcome.
struct Waiting {
    event_loop: Py<PyAny>,
    future: Py<PyAny>,
}

impl Waiting {
    /// Hands the outcome to the loop; one that is closed has nobody left who waits.
    fn tell(self, py: Python<'_>, outcome: Outcome) {
        let event_loop = self.event_loop.bind(py);
        let told = settled(py, outcome).and_then(|(set, value)| {
            let settle = wrap_pyfunction!(settle, py)?;
            event_loop.call_method1(
                intern!(py, "call_soon_threadsafe"),
                (settle, self.future, set, value),
            )
        });
        if let Err(e) = told {
            tracing::debug!("nobody awaits this flush any more: {e}");
        }
    }
}

/// What to call on a future, and with what.
fn settled(py: Python<'_>, outcome: Outcome) -> PyResult<(&'static str, Bound<'_, PyAny>)> {
    Ok(match report(py, outcome) {
        Ok(report) => ("set_result", report.into_any()),
        Err(e) => ("set_exception", e.into_bound_py_any(py)?),
    })
}

/// On the loop's own thread: a future that was cancelled meanwhile is left alone.
#[pyfunction]
fn settle(future: &Bound<'_, PyAny>, set: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let Some(_inside) = Inside::enter() else {
        return Ok(());
    };
    if !future.call_method0("done")?.is_truthy()? {
        future.call_method1(set, (value,))?;
    }
    Ok(())
}

fn report(py: Python<'_>, outcome: Outcome) -> PyResult<Bound<'_, PyDict>> {
    let report = match outcome {
        Some(Ok(report)) => report,
        Some(Err(why)) => return Err(ExpmanError::new_err(why)),
        None => return Err(ExpmanError::new_err("the flush has no outcome yet")),
    };
    let ranks = PyDict::new(py);
    for (rank, outcome) in &report.ranks {
        let one = PyDict::new(py);
        let state = match outcome.state {
            RankOutcomeState::Durable => "durable",
            RankOutcomeState::Dead => "dead",
            RankOutcomeState::Timeout => "timeout",
        };
        one.set_item("state", state)?;
        one.set_item("seq", outcome.seq)?;
        one.set_item("last_step", outcome.last_step)?;
        #[expect(
            clippy::cast_precision_loss,
            reason = "wall clock in seconds, as time.time() has it"
        )]
        one.set_item("last_seen", outcome.last_seen_us as f64 / 1e6)?;
        one.set_item("last_lines", &outcome.last_lines)?;
        ranks.set_item(rank, one)?;
    }
    let dict = PyDict::new(py);
    dict.set_item("version", report.version.to_string())?;
    dict.set_item("complete", report.complete)?;
    dict.set_item("ranks", ranks)?;
    dict.set_item("rows", report.rows)?;
    dict.set_item("elapsed", report.elapsed_secs)?;
    dict.set_item("forwarding", report.forwarding)?;
    Ok(dict)
}
