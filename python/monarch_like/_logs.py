"""The text face of an experiment: messages, and what the `logging` of Python tells."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from typing import Any, Union

from . import _lifecycle
from ._core import ConfigError, CoreRun, ExpmanError

LEVELS = {"debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40, "critical": 50}

LEVEL_MAX = 255
"""Greatest level that is stored."""

NAME_CHARS_MAX = 1_000
"""Longest name of a logger that is kept; its beginning says most."""

PATH_CHARS_MAX = 4_000
"""Longest path of a source file that is kept; its end says most."""

LINE_MAX = 2**32 - 1
"""Greatest line number that is kept."""

NESTED_MAX = 4
"""How deep records that come while another one is made into text are made into text themselves."""

LevelLike = Union[str, int]


class Logs:
    """Messages of one run, and the handlers that bring it those of `logging`."""

    _handlers: list[RunHandler]
    _closed: bool

    def _joined(self) -> CoreRun | None:
        raise NotImplementedError

    def _core_here(self) -> CoreRun | None:
        raise NotImplementedError

    def _refused(self, name: str, reason: str) -> None:
        raise NotImplementedError

    def log_message(self, level: LevelLike, message: object) -> None:
        """Writes a message to run.log.

        Args:
            level: `debug`, `info`, `warn`, `error`, `critical`, or a number from 0 to 255.
            message: any object; its `str` is written.
        """
        number = LEVELS.get(level.lower()) if isinstance(level, str) else level
        if not isinstance(number, int) or not 0 <= number <= LEVEL_MAX:
            self._refused(f"level {level!r}", "not a level")
            number = LEVELS["info"]
        core = self._joined()
        if core is not None:
            core.log_message(number, _lifecycle.text_of(message))

    def info(self, message: object) -> None:
        """`log_message("info", …)`."""
        self.log_message("info", message)

    def warn(self, message: object) -> None:
        """`log_message("warn", …)`."""
        self.log_message("warn", message)

    def error(self, message: object) -> None:
        """`log_message("error", …)`."""
        self.log_message("error", message)

    def handler(self, level: LevelLike = 0) -> logging.Handler:
        """A handler for `logging` that stores each record as one message of run.log.

        With its level, the logger's name, the file (relative to the working directory when it
        is below it) and the line; a traceback is part of the record. It raises nothing into the
        caller, whatever is logged, and does nothing any more when the run is closed: then it is
        taken from the loggers that hold it.

        Args:
            level: the lowest level that is stored, a number from 0 to 255 or a name.

        Raises:
            ConfigError: the level is none.

        Example:
            >>> import logging
            >>> exp = getfixture("exp")
            >>> logging.getLogger("data").addHandler(exp.handler("INFO"))
            >>> logging.getLogger("data").warning("%d samples are empty", 3)
        """
        handler = RunHandler(self, level_number("level", level))
        if self._closed:
            handler.end()
        else:
            self._handlers.append(handler)
        return handler

    def _capture_logging(self, level: int) -> None:
        """Everything that reaches the root logger, from this level on, until the run is closed."""
        handler = RunHandler(self, level)
        self._handlers.append(handler)
        _taps.add(handler)

    def _end_handlers(self) -> None:
        for handler in self._handlers:
            handler.end()
        self._handlers.clear()

    def _note(
        self, level: int, text: str, logger: str, file: str, line: int, join: bool = True
    ) -> None:
        """Stores what somebody said who knows nothing of this run; never raises."""
        try:
            core = self._joined() if join else self._core_here()
            if core is not None:
                core.log_message(
                    level,
                    text,
                    _encodable(logger)[:NAME_CHARS_MAX],
                    _encodable(file)[-PATH_CHARS_MAX:],
                    line,
                )
        except ExpmanError:
            return  # counted; and not even a strict run breaks who only logs


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
        _taps.remove(self)
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


_taps = _Taps()
here = threading.local()
"""What each thread is just doing here."""

WARNINGS = "py.warnings"
"""The logger under which warnings are stored, the same as that of `logging.captureWarnings`."""


def level_number(name: str, level: object) -> int:
    """A level from its number or its name.

    Raises:
        ConfigError: it is none from 0 to 255; `name` is what it was given as.
    """
    number: object = level
    if isinstance(level, str):
        number = LEVELS.get(level.strip().lower())
        if number is None:
            number = logging.getLevelName(level.strip().upper())
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= LEVEL_MAX:
        raise ConfigError(
            f"{name}={level!r} is no level: a number from 0 to {LEVEL_MAX}, or a name as 'INFO'"
        )
    return number


def place(path: str) -> str:
    """A source file relative to the working directory when it is below it, else as given."""
    try:
        below = os.path.join(os.getcwd(), "")
    except OSError:
        return path  # the folder is gone
    return path[len(below) :] if path.startswith(below) else path


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


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text
