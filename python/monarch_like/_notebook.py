"""IPython and Jupyter: cells flush when they end, and what they print is captured where it goes."""

from __future__ import annotations

import sys

from . import _hooks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._experiment import Experiment

CELL_END_TIMEOUT_SECS = 1.0
"""Longest time that the end of a cell waits until what it logged is durable."""

_runs: list[Experiment] = []
_shell: Any = None
"""Where the hook is registered."""


def opened(run: Experiment) -> None:
    """The end of each cell flushes this run, when there are cells."""
    global _shell
    shell = running_shell()
    if shell is None:
        return
    if run not in _runs:
        _runs.append(run)
    if _shell is not shell:
        try:
            shell.events.register("post_run_cell", _cell_ended)
        except Exception:
            return
        _shell = shell


def closed(run: Experiment) -> None:
    """The hook goes with the last run."""
    global _shell
    if run in _runs:
        _runs.remove(run)
    if not _runs and _shell is not None:
        shell, _shell = _shell, None
        try:
            shell.events.unregister("post_run_cell", _cell_ended)
        except Exception:
            return


def running_shell() -> Any:
    """IPython's shell, if this program runs inside of one; IPython is not imported for it."""
    ipython = sys.modules.get("IPython")
    try:
        return ipython.get_ipython() if ipython is not None else None
    except Exception:
        return None


def streams_beside_descriptors() -> list[str]:
    """Which of `sys.stdout` and `sys.stderr` reach the user without descriptor 1 or 2.

    A kernel sends what is printed over a socket. What its children write to the descriptors it
    reads behind our pipe, and shows it without writing to these objects again.
    """
    if running_shell() is None:
        return []
    beside = []
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        echo = getattr(stream, "echo", None)  # a kernel may also write it to its terminal
        if stream is not None and number not in (_descriptor(stream), _descriptor(echo)):
            beside.append(name)
    return beside


def _descriptor(stream: Any) -> int | None:
    try:
        return int(stream.fileno())
    except Exception:
        return None


def _cell_ended(result: Any = None) -> None:
    """What the cell has logged is durable when it is shown as done; says nothing if it is not."""
    from contextlib import suppress

    error = getattr(result, "error_in_exec", None)
    if isinstance(error, Exception):
        cell = getattr(result, "execution_count", None)
        where = f"cell {cell}" if cell is not None else "a cell"
        with suppress(Exception):
            _hooks.uncaught(where, type(error), error, error.__traceback__)
    flushes = []
    for run in list(_runs):
        core = run._core_here()
        if core is not None:
            with suppress(Exception):
                flushes.append(core.flush(CELL_END_TIMEOUT_SECS, "rank"))
    for flush in flushes:
        # Waits without the interpreter's lock and without its event loop.
        with suppress(Exception):
            flush.wait(CELL_END_TIMEOUT_SECS)
