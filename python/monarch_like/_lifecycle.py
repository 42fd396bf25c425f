"""What happens to open runs when their process ends, is signalled, or forks."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
import traceback
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from ._core import forked, interpreter_ends

if TYPE_CHECKING:
    from ._experiment import Experiment

EXIT_TIMEOUT_SECS = 5.0
"""Longest time that the end of a process waits for its runs."""

SIGNAL_TIMEOUT_SECS = 2.0
"""Longest time that a process ended by SIGTERM waits for its runs."""

INSIDE_TIMEOUT_SECS = 1.0
"""Longest time that the end of a process waits for daemon threads inside of the core."""

MESSAGE_CHARS_MAX = 10_000
"""Longest message of a failure that is kept."""

TRACEBACK_CHARS_MAX = 100_000
"""Longest traceback that is kept; its end says most."""

_open: set[Experiment] = set()
"""Runs that are not closed; kept, so that one nobody holds any more is closed at the end."""

_uncaught: tuple[str, str, str] | None = None
"""How the program ends, by what exception: status, message, traceback."""
_installed_in: int | None = None


def opened(experiment: Experiment) -> None:
    """Looks after an experiment from now on."""
    _open.add(experiment)
    _install()


def _install() -> None:
    global _installed_in
    if _installed_in == os.getpid():
        return
    if _installed_in is None:
        atexit.register(_at_exit)
        os.register_at_fork(after_in_child=_after_fork)
        _chain_sigterm()
    if "multiprocessing.util" in sys.modules:
        # A child of multiprocessing leaves by os._exit, behind these finalizers only.
        from multiprocessing import util

        util.Finalize(None, _at_exit, exitpriority=100)
    _installed_in = os.getpid()


def _at_exit() -> None:
    status, message, trace = _uncaught or _unhooked() or ("finished", "", "")
    if status == "failed":
        for experiment in list(_open):
            experiment._fail(message, trace)
    _close_all(status, EXIT_TIMEOUT_SECS)
    interpreter_ends(INSIDE_TIMEOUT_SECS)


def _close_all(status: str, timeout: float) -> None:
    """Closes every run under one deadline, and says what was not delivered."""
    deadline = time.monotonic() + timeout
    for experiment in list(_open):
        try:
            experiment.close(status, timeout=max(deadline - time.monotonic(), 0.1))
        except Exception as error:
            print(f"monarch_like: {error}", file=sys.stderr)  # noqa: T201


def program_ends(
    kind: type[BaseException], value: BaseException, trace: TracebackType | None
) -> None:
    """The main thread ends by an exception."""
    global _uncaught
    status = "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
    _uncaught = (status, *describe(kind, value, trace))


def _unhooked() -> tuple[str, str, str] | None:
    """An interrupt that ends the program though a second one kept the hook from hearing of it."""
    last = getattr(sys, "last_value", None)
    if isinstance(last, KeyboardInterrupt) and not hasattr(sys, "ps1"):
        return "interrupted", "KeyboardInterrupt", ""
    return None


def describe(
    kind: type[BaseException], value: BaseException, trace: TracebackType | None
) -> tuple[str, str]:
    """One line, and the whole traceback; the end of it, when it is very long."""
    message = "".join(traceback.format_exception_only(kind, value)).strip()
    whole = "".join(traceback.format_exception(kind, value, trace))
    return message[:MESSAGE_CHARS_MAX], whole[-TRACEBACK_CHARS_MAX:]


def text_of(thing: object) -> str:
    """The text of anything, whatever its `__str__` does."""
    try:
        return str(thing)
    except Exception as error:
        return f"<{type(thing).__name__} whose text raised {type(error).__name__}>"


def _chain_sigterm() -> None:
    """A rank that is told to go says so; a program with a handler of its own does as it likes."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def leave(number: int, frame: FrameType | None) -> None:
        _close_all("preempted", SIGNAL_TIMEOUT_SECS)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, leave)


def _after_fork() -> None:
    """In the child: the parent's runs are not ours; they are joined anew on first use."""
    global _uncaught
    _uncaught = None
    forked()
    for experiment in list(_open):
        experiment._forked()


def forget(experiment: Any) -> None:
    """The experiment is closed."""
    _open.discard(experiment)
