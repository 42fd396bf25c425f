"""What becomes of the text of all ranks: what is forwarded, and what this process shows."""

from __future__ import annotations

from ._core import ConfigError, forward, forwarding, stop_stream, stream
from ._logs import level_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._core import CoreRun

AGGREGATE_WINDOW_SECS = 3.0
"""How long alike lines are gathered before they are shown once."""

WINDOW_SECS_MAX = 86_400.0


class Forwarding:
    """The part of `Experiment` that is about the text of all ranks."""

    def _rejoin(self) -> CoreRun:
        raise NotImplementedError

    def set_mode(self, forward_text: bool, *, timeout: float = 5.0) -> None:
        """Switches the forwarding of text on or off, in every rank of the run and for good.

        While it is off, captured output and records of Python logging are not stored; metrics,
        parameters and direct calls such as `info` are. What a flush reports says so.

        Args:
            forward_text: whether captured output and Python logging are forwarded.
            timeout: seconds until every rank must have been told.

        Raises:
            ConfigError: an argument makes no sense.
            ExpmanError: the run is closed, or its owner did not answer in time.
        """
        if not isinstance(forward_text, bool):
            raise ConfigError(f"forward_text={forward_text!r} is neither True nor False")
        forward(self._rejoin(), forward_text, None, _seconds("timeout", timeout))

    def logging_option(
        self,
        stream_to_client: bool | None = None,
        aggregate_window_sec: float | None = AGGREGATE_WINDOW_SECS,
        level: int | str | None = None,
        *,
        timeout: float = 5.0,
    ) -> None:
        """Changes what this process shows of all ranks, and what all ranks forward.

        Args:
            stream_to_client: show the lines of all other ranks here, on the standard output and
                error that this process had before they were captured, each with its rank in
                front; False ends that; None leaves it as it is.
            aggregate_window_sec: lines that are alike within so many seconds are shown once,
                with the ranks that said them and how often; None shows every line at once.
            level: the least level of Python logging that every rank forwards, 0 to 255 or a
                name; None leaves it as it is.
            timeout: seconds until every rank must have been told of the level.

        Raises:
            ConfigError: an argument makes no sense, or nothing is forwarded that could be shown.
            ExpmanError: the run is closed, or its owner did not answer in time.
        """
        if stream_to_client not in (None, True, False):
            raise ConfigError(f"stream_to_client={stream_to_client!r} is not True, False or None")
        window = None
        if aggregate_window_sec is not None:
            window = _seconds("aggregate_window_sec", aggregate_window_sec)
            if not stream_to_client and aggregate_window_sec != AGGREGATE_WINDOW_SECS:
                raise ConfigError(
                    f"aggregate_window_sec={aggregate_window_sec!r} needs stream_to_client=True"
                )
        number = None if level is None else level_number("level", level)
        core = self._rejoin()
        if stream_to_client and not forwarding(core)[0]:
            raise ConfigError(
                "stream_to_client=True, but the ranks forward no text: call set_mode(True) first"
            )
        if number is not None:
            forward(core, None, number, _seconds("timeout", timeout))
        if stream_to_client:
            stream(core, window)
        elif stream_to_client is False:
            stop_stream(core)


def _seconds(name: str, secs: object) -> float:
    if (
        not isinstance(secs, (int, float))
        or isinstance(secs, bool)
        or not 0 < secs <= WINDOW_SECS_MAX
    ):
        raise ConfigError(f"{name}={secs!r} is not a number of seconds up to {WINDOW_SECS_MAX:g}")
    return float(secs)
