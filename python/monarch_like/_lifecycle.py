"""What happens to open runs when their process ends, is signalled, or forks."""

from __future__ import annotations

# `signal` without its enumerations, which take longer than all else that is imported here.
import _signal as signal  # type: ignore[import-not-found]
import atexit
import os
import sys
import time

from ._core import forked, interpreter_ends
from ._later import importing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Any

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
    if issubclass(kind, KeyboardInterrupt):
        # Nothing is imported for it from here on: some imports (those that make named tuples) have
        # the interpreter forget that it is to end by SIGINT.
        _uncaught = "interrupted", "", ""
    else:
        _uncaught = ("failed", *describe(kind, value, trace))


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
    try:
        with importing:
            import traceback

        message = "".join(traceback.format_exception_only(kind, value)).strip()
        whole = "".join(traceback.format_exception(kind, value, trace))
    except Exception:
        # It can't be imported: no descriptor is left, perhaps, which may be what is to be told.
        message = f"{kind.__name__}: {text_of(value)}"
        whole = "".join(["Traceback (most recent call last):\n", *_places(trace), f"{message}\n"])
    return message[:MESSAGE_CHARS_MAX], whole[-TRACEBACK_CHARS_MAX:]


def _places(trace: TracebackType | None) -> list[str]:
    """The lines of a traceback, without the source."""
    lines = []
    while trace is not None:
        code = trace.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {trace.tb_lineno}, in {code.co_name}\n')
        trace = trace.tb_next
    return lines


def text_of(thing: object) -> str:
    """The text of anything, whatever its `__str__` does."""
    try:
        return str(thing)
    except Exception as error:
        return f"<{type(thing).__name__} whose text raised {type(error).__name__}>"


def _chain_sigterm() -> None:
    """A rank that is told to go says so; a program with a handler of its own does as it likes."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def leave(number: int, frame: FrameType | None) -> None:
        _close_all("preempted", SIGNAL_TIMEOUT_SECS)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    try:
        signal.signal(signal.SIGTERM, leave)
    except ValueError:
        return  # this is not the main thread


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
