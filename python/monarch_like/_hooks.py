"""What Python tells only to its hooks, for every open run: warnings, uncaught exceptions.

Each hook calls the one that was there before it, and is undone with the last run; where somebody
has put another one on top meanwhile, it stays and only passes on.
"""

from __future__ import annotations

import sys

from . import _lifecycle, _logs
from ._later import importing

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from ._experiment import Experiment

UNCAUGHT = "uncaught"
"""The logger under which exceptions are stored that nobody caught."""

_CRITICAL, _WARNING = 50, 30

_runs: list[Experiment] = []
_hooks: tuple[_Hook, ...] = ()
"""Made with the first run: who only imports this need not have what they are on."""


def opened(run: Experiment) -> None:
    """From now on the run is told."""
    global _hooks
    if run not in _runs:
        _runs.append(run)
    _hooks = _hooks or _all_hooks()
    for hook in _hooks:
        hook.install()


def closed(run: Experiment) -> None:
    """The run is told nothing any more."""
    if run in _runs:
        _runs.remove(run)
    if not _runs:
        for hook in _hooks:
            hook.undo()


def uncaught(
    where: str,
    kind: type[BaseException],
    value: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """Stores an exception that nobody caught, with its whole traceback, as one message.

    Args:
        where: the thread, or what else ran it.
        kind: the exception's class.
        value: the exception.
        trace: where it came from.
    """
    for run in list(_runs):
        tell(run, where, kind, value, trace)


def tell(
    run: Experiment,
    where: str,
    kind: type[BaseException],
    value: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """`uncaught` for one run, such as one whose `with` block the exception leaves."""
    if value is None:
        return
    _, whole = _lifecycle.describe(kind, value, trace)
    file, line = _innermost(trace)
    run._note(_CRITICAL, f"uncaught in {where}\n{whole.rstrip()}", UNCAUGHT, file, line)


def this_thread() -> str:
    """The caller's thread, as `uncaught` has it."""
    import threading

    return f"thread {threading.current_thread().name}"


def _innermost(trace: TracebackType | None) -> tuple[str, int]:
    """File and line of the frame that raised."""
    if trace is None:
        return "", 0
    while trace.tb_next is not None:
        trace = trace.tb_next
    return _logs.place(trace.tb_frame.f_code.co_filename), trace.tb_lineno


def _program_ends(
    kind: type[BaseException], value: BaseException, trace: TracebackType | None
) -> None:
    _lifecycle.program_ends(kind, value, trace)
    if not issubclass(kind, KeyboardInterrupt):
        uncaught(this_thread(), kind, value, trace)


def _thread_ends(args: threading.ExceptHookArgs) -> None:
    if not issubclass(args.exc_type, SystemExit):
        name = args.thread.name if args.thread is not None else "unknown"
        uncaught(f"thread {name}", args.exc_type, args.exc_value, args.exc_traceback)


def _warning_is_shown(
    message: object, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
) -> None:
    text = f"{category.__name__}: {_lifecycle.text_of(message)}"
    for run in list(_runs):
        # Not worth a join of its own in a forked child, whose output its parent captures.
        run._note(_WARNING, text, _logs.WARNINGS, _logs.place(filename), lineno, join=False)


class _Hook:
    """A function of a module that is replaced by one which tells the runs, and then calls it."""

    def __init__(self, module: Any, name: str, tell: Callable[..., None]) -> None:
        self._module, self._name, self._tell = module, name, tell

    def _top(self) -> Any:
        """The function that stands there, if it is ours."""
        top = getattr(self._module, self._name)
        return top if getattr(top, "hook", None) is self else None

    def install(self) -> None:
        if self._top() is not None:
            return
        before = getattr(self._module, self._name)

        def hook(*args: Any, **kwargs: Any) -> Any:
            # One of ours may stand below somebody else's, and that one below ours: told once.
            is_inside = getattr(_logs.here, self._name, False)
            setattr(_logs.here, self._name, True)
            try:
                if not is_inside and _runs:
                    try:
                        self._tell(*args, **kwargs)
                    except Exception:
                        pass
                return before(*args, **kwargs)
            finally:
                setattr(_logs.here, self._name, is_inside)

        hook.hook, hook.before = self, before  # type: ignore[attr-defined]
        setattr(self._module, self._name, hook)

    def undo(self) -> None:
        while (top := self._top()) is not None:
            setattr(self._module, self._name, top.before)


def _all_hooks() -> tuple[_Hook, ...]:
    with importing:
        import threading
        import warnings

    return (
        _Hook(sys, "excepthook", _program_ends),
        _Hook(threading, "excepthook", _thread_ends),
        _Hook(warnings, "showwarning", _warning_is_shown),
    )
