"""Capture of what Python writes to `sys.stdout` and `sys.stderr`, whatever stands behind them.

For where descriptors 1 and 2 can't be captured, or are not where the output goes. A process has one
tee on each stream, however many runs listen; it is taken off behind the last one, in whatever order
they close, and where somebody has put another object on top it stays and only passes on.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ._types import Hear

STREAMS = {"stdout": "out", "stderr": "err"}
"""Attributes of `sys`, and what a run calls them."""

_ears: dict[str, tuple[Hear, ...]] = {"out": (), "err": ()}


def listen(hear: Hear, names: Iterable[str] = tuple(STREAMS)) -> None:
    """From now on `hear` is told what is written to these attributes of `sys`."""
    for name in names:
        stream = getattr(sys, name)
        if stream is None:
            continue  # closed since the program began
        if hear not in _ears[STREAMS[name]]:
            _ears[STREAMS[name]] += (hear,)
        if not isinstance(stream, Tee):
            setattr(sys, name, Tee(stream, STREAMS[name]))


def leave(hear: Hear) -> None:
    """`hear` is told nothing any more."""
    for name, short in STREAMS.items():
        _ears[short] = tuple(ear for ear in _ears[short] if ear != hear)
        if _ears[short]:
            continue
        while isinstance(stream := getattr(sys, name), Tee):
            setattr(sys, name, stream.wrapped)


def _tell(short: str, data: bytes) -> None:
    for hear in _ears[short]:
        hear(short, data)


class Tee:
    """Stands for a stream: writes to it as before, and tells what was written."""

    def __init__(self, wrapped: Any, short: str) -> None:
        self.wrapped = wrapped
        self._short = short

    def write(self, text: str) -> Any:
        """Writes, and tells: also what the stream itself could not take."""
        try:
            return self.wrapped.write(text)
        finally:
            if text and _ears[self._short]:
                try:
                    _tell(self._short, _encoded(text))
                except (TypeError, AttributeError):
                    pass  # no text: the stream said so

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes each."""
        for line in lines:
            self.write(line)

    @property
    def buffer(self) -> Any:
        """The binary stream below, where there is one."""
        return _Bytes(self.wrapped.buffer, self._short)

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped":
            raise AttributeError(name)  # a copy that was not made by our __init__
        return getattr(self.wrapped, name)

    def __enter__(self) -> Tee:
        self.wrapped.__enter__()
        return self

    def __exit__(self, *raised: Any) -> Any:
        return self.wrapped.__exit__(*raised)

    def __iter__(self) -> Any:
        return iter(self.wrapped)

    def __repr__(self) -> str:
        return f"<tee on {self.wrapped!r}>"


class _Bytes:
    """The binary side of a tee."""

    def __init__(self, wrapped: Any, short: str) -> None:
        self._wrapped = wrapped
        self._short = short

    def write(self, data: Any) -> Any:
        try:
            return self._wrapped.write(data)
        finally:
            if _ears[self._short]:
                try:
                    _tell(self._short, memoryview(data).tobytes())
                except (TypeError, ValueError):
                    pass  # no bytes: the stream said so

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "_wrapped":
            raise AttributeError(name)
        return getattr(self._wrapped, name)


def _encoded(text: str) -> bytes:
    """Its bytes; those that were no UTF-8 when it was read as they were."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
