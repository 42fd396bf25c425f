"""One run from every rank: metrics, messages, output and artifacts that survive a kill.

Example:
    >>> import monarch_like as ml
    >>> folder = getfixture("tmp_path")
    >>> with ml.init("digits", base_dir=folder, redirect_console=False) as exp:
    ...     for step in range(3):
    ...         exp.log_metrics({"loss": 1.0 / (step + 1)}, step=step)
    ...     report = exp.flush().wait()
    >>> report.complete, report.rows
    (True, 3)
"""

from __future__ import annotations

from ._core import (
    ArtifactError,
    ConfigError,
    ExpmanError,
    FlushError,
    JoinError,
    RunExistsError,
    StorageError,
)
from ._experiment import Experiment
from ._session import (
    close,
    current,
    error,
    flush,
    handler,
    info,
    init,
    log_message,
    log_metrics,
    log_params,
    log_scalar,
    log_vector,
    logging_option,
    save_artifact,
    set_mode,
    warn,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._report import FlushHandle, FlushReport, RankOutcome
else:

    def __getattr__(name):
        """What a flush answers, imported when it is first asked for: it is made of dataclasses."""
        if name not in ("FlushHandle", "FlushReport", "RankOutcome"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from ._later import importing

        with importing:
            from . import _report

        found = globals()[name] = getattr(_report, name)
        return found

    def __dir__():
        return sorted({*globals(), *__all__})


__all__ = [
    "ArtifactError",
    "ConfigError",
    "Experiment",
    "ExpmanError",
    "FlushError",
    "FlushHandle",
    "FlushReport",
    "JoinError",
    "RankOutcome",
    "RunExistsError",
    "StorageError",
    "close",
    "current",
    "error",
    "flush",
    "handler",
    "info",
    "init",
    "log_message",
    "log_metrics",
    "log_params",
    "log_scalar",
    "log_vector",
    "logging_option",
    "save_artifact",
    "set_mode",
    "warn",
]
