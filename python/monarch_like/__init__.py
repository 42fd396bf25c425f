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
from ._report import FlushHandle, FlushReport, RankOutcome
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
