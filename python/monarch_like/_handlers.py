"""The handlers that bring a run the records of `logging`; imported with the first one."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from . import _lifecycle
from ._core import ExpmanError
from ._logs import LEVEL_MAX, LEVELS, WARNINGS, here, place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._logs import Logs

LINE_MAX = 2**32 - 1
"""Greatest line number that is kept."""

NESTED_MAX = 4
"""How deep records that come while another one is made into text are made into text themselves."""


class RunHandler(logging.Handler):
    """See `Logs.handler`. It has no lock: the queue behind it takes from any number of threads."""

    def __init__(self, run: Logs, level: int) -> None:
        super().__init__(level)
        self._run: Logs | None = run

    def createLock(self) -> None:
        """A thread that holds a lock while another one forks would leave it locked."""
        self.lock = None

    def _at_fork_reinit(self) -> None:
        """Nothing: there is no lock."""

    def handle(self, record: logging.LogRecord) -> Any:
        """Stores the record if the filters let it through."""
        if self._run is None:
            return False
        kept: Any
        try:
            kept = self.filter(record)
        except Exception:
            kept = True  # rather too much than too little
        if kept:
            self.emit(kept if isinstance(kept, logging.LogRecord) else record)
        return kept

    def emit(self, record: logging.LogRecord) -> None:
        """Stores the record."""
        run = self._run
        if run is None or is_stored_already(record):
            return
        depth = getattr(here, "depth", 0)
        here.depth = depth + 1
        try:
            # What its arguments say of themselves may log, and that may log again.
            text = self._text(record) if depth < NESTED_MAX else _unformatted(record)
            level, note = _stored_level(record.levelno)
            path = place(str(record.pathname))
            run._note(level, note + text, str(record.name), path, _line(record.lineno))
        except Exception:
            with contextlib.suppress(ExpmanError):
                run._refused("a record of logging", "it raised when it was looked at")
        finally:
            here.depth = depth

    def _text(self, record: logging.LogRecord) -> str:
        try:
            return str(self.format(record))
        except Exception as error:
            why = f"{type(error).__name__}: {_lifecycle.text_of(error)}"
            try:
                told = f" % {record.args!r}" if record.args else ""
            except Exception:
                told = ""
            return f"{_unformatted(record)}{told} [not formatted: {why}]"

    def end(self) -> None:
        """The run is closed: no logger keeps this handler."""
        self._run = None
        taps.remove(self)
        for logger in (logging.root, *list(logging.root.manager.loggerDict.values())):
            if isinstance(logger, logging.Logger) and self in logger.handlers:
                logger.removeHandler(self)
        self.close()


class _Taps:
    """Handlers that hear what reaches the root logger without standing on it.

    A handler on the root logger would keep `logging.basicConfig` from doing anything, and
    warnings that nobody handles from being printed; and any configuration would take it away.
    """

    def __init__(self) -> None:
        self._handlers: tuple[RunHandler, ...] = ()
        self._before: Any = None
        self._ours: Any = None
        self._level_before = logging.NOTSET
        self._level_set: _SetLevel | None = None

    def add(self, handler: RunHandler) -> None:
        self._handlers += (handler,)
        if self._ours is None or logging.Logger.callHandlers is not self._ours:
            self._install()
        self._set_level()

    def remove(self, handler: RunHandler) -> None:
        if handler not in self._handlers:
            return
        self._handlers = tuple(h for h in self._handlers if h is not handler)
        self._set_level()
        if not self._handlers and logging.Logger.callHandlers is self._ours:
            logging.Logger.callHandlers = self._before  # type: ignore[method-assign]
            self._before = self._ours = None

    def _install(self) -> None:
        before = logging.Logger.callHandlers

        def callHandlers(self_: Any, record: logging.LogRecord) -> None:
            try:
                before(self_, record)
            finally:
                if self._ours is callHandlers and _reaches_root(self_):
                    for handler in self._handlers:
                        if record.levelno >= handler.level:
                            handler.handle(record)

        self._before, self._ours = before, callHandlers
        logging.Logger.callHandlers = callHandlers  # type: ignore[assignment, method-assign]

    def _set_level(self) -> None:
        """The root logger lets through what the runs want, until somebody else sets its level."""
        root = logging.root
        if root.level is self._level_set:
            root.setLevel(self._level_before)
        self._level_before, self._level_set = root.level, None
        wanted = min((h.level for h in self._handlers if h.level), default=root.level)
        if wanted < root.level:
            self._level_set = _SetLevel(wanted)
            root.setLevel(self._level_set)


class _SetLevel(int):
    """A level that we have set: an object of its own, so that anybody else's is told from it."""


taps = _Taps()


def is_stored_already(record: logging.LogRecord) -> bool:
    """Whether it is a warning that a hook has stored, and `logging.captureWarnings` passes on."""
    return record.name == WARNINGS and getattr(here, "showwarning", False)


def _stored_level(level: object) -> tuple[int, str]:
    """A level from 0 to 255, and what tells of it in front of the text when it is not the given."""
    if isinstance(level, int) and 0 <= level <= LEVEL_MAX:
        return int(level), ""
    if isinstance(level, (int, float)) and level == level:
        return int(min(max(level, 0), LEVEL_MAX)), f"[level {level}] "
    return LEVELS["info"], f"[level {level!r}] "


def _line(number: object) -> int:
    return min(max(number, 0), LINE_MAX) if isinstance(number, int) else 0


def _unformatted(record: logging.LogRecord) -> str:
    """What can be told of a record without running anybody's code."""
    return record.msg if isinstance(record.msg, str) else f"<{type(record.msg).__name__}>"


def _reaches_root(logger: logging.Logger) -> bool:
    at: logging.Logger | None = logger
    while at is not None and at is not logging.root:
        if not at.propagate:
            return False
        at = at.parent
    return at is not None
