"""The module-level face: one current experiment per process, and the calls that go to it."""

from __future__ import annotations

import _thread
import os

from ._core import ConfigError
from ._experiment import Experiment

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping
    from concurrent.futures import Future
    from typing import Any

    from ._report import FlushHandle
    from ._types import LevelLike, PathLike

_current: Experiment | None = None
_lock = _thread.allocate_lock()


def _after_fork() -> None:
    """Whoever held the lock is not in this process."""
    global _lock
    _lock = _thread.allocate_lock()


os.register_at_fork(after_in_child=_after_fork)


def init(name: str, run_name: str | None = None, **options: Any) -> Experiment:
    """Joins or makes a run and makes it the current one; takes what `Experiment` takes.

    A current run that is still open is closed first.
    """
    global _current
    with _lock:
        if _current is not None:
            _current.close()
            _current = None
        _current = Experiment(name, run_name, **options)
        return _current


def current() -> Experiment:
    """The current run.

    Raises:
        ConfigError: there is none.
    """
    if _current is None:
        raise ConfigError("no run is open: call monarch_like.init(name) first")
    return _current


def log_metrics(metrics: Mapping[str, Any], step: int | None = None) -> None:
    """`Experiment.log_metrics` of the current run."""
    current().log_metrics(metrics, step)


def log_vector(metrics: Mapping[str, Any], step: int | None = None) -> None:
    """`Experiment.log_vector` of the current run."""
    current().log_metrics(metrics, step)


def log_scalar(key: str, value: Any) -> None:
    """`Experiment.log_scalar` of the current run."""
    current().log_scalar(key, value)


def log_params(params: Mapping[str, Any]) -> None:
    """`Experiment.log_params` of the current run."""
    current().log_params(params)


def log_message(level: str | int, message: object) -> None:
    """`Experiment.log_message` of the current run."""
    current().log_message(level, message)


def info(message: object) -> None:
    """`Experiment.info` of the current run."""
    current().info(message)


def warn(message: object) -> None:
    """`Experiment.warn` of the current run."""
    current().warn(message)


def error(message: object) -> None:
    """`Experiment.error` of the current run."""
    current().error(message)


def set_mode(forward_text: bool, **options: Any) -> None:
    """`Experiment.set_mode` of the current run."""
    current().set_mode(forward_text, **options)


def logging_option(*args: Any, **options: Any) -> None:
    """`Experiment.logging_option` of the current run."""
    current().logging_option(*args, **options)


def handler(level: LevelLike = 0) -> logging.Handler:
    """`Experiment.handler` of the current run."""
    return current().handler(level)


def save_artifact(path: PathLike, name: str | None = None) -> Future[None]:
    """`Experiment.save_artifact` of the current run."""
    return current().save_artifact(path, name)


def flush(timeout: float = 30.0, **options: Any) -> FlushHandle:
    """`Experiment.flush` of the current run."""
    return current().flush(timeout, **options)


def close(status: str = "finished", timeout: float = 5.0) -> bool:
    """Closes the current run, if there is one; returns whether the whole run is closed."""
    global _current
    with _lock:
        experiment, _current = _current, None
    return experiment.close(status, timeout) if experiment is not None else False
