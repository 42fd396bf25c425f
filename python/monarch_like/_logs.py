"""The text face of an experiment: messages of its own, and those of `logging`."""

from __future__ import annotations

import os
from _thread import _local

from . import _lifecycle
from ._core import ConfigError, ExpmanError
from ._later import importing

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

    from ._core import CoreRun
    from ._handlers import RunHandler
    from ._types import LevelLike

LEVELS = {"debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40, "critical": 50}

LEVEL_MAX = 255
"""Greatest level that is stored."""

NAME_CHARS_MAX = 1_000
"""Longest name of a logger that is kept; its beginning says most."""

PATH_CHARS_MAX = 4_000
"""Longest path of a source file that is kept; its end says most."""


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
        number = level_number("level", level)
        with importing:
            from ._handlers import RunHandler

        handler = RunHandler(self, number)
        if self._closed:
            handler.end()
        else:
            self._handlers.append(handler)
        return handler

    def _capture_logging(self, level: int) -> None:
        """Everything that reaches the root logger, from this level on, until the run is closed."""
        with importing:
            from ._handlers import RunHandler, taps

        handler = RunHandler(self, level)
        self._handlers.append(handler)
        taps.add(handler)

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


here = _local()
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
            with importing:
                import logging

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


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text
