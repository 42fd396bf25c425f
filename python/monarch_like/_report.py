"""What a flush answers, and the handle by which it is awaited or waited for."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ._core import FlushError

if TYPE_CHECKING:
    from ._core import CoreFlush


@dataclass(frozen=True)
class RankOutcome:
    """How one rank answered a flush.

    Attributes:
        state: `durable`, or `dead` (its process is gone), or `timeout` (no answer in time).
        seq: its last durable sequence number.
        last_step: the greatest step it logged, None when it never gave one.
        last_seen: wall clock of the last word from it, in seconds as `time.time()` has it.
        last_lines: what it said last, when it is not durable.
    """

    state: Literal["durable", "dead", "timeout"]
    seq: int
    last_step: int | None
    last_seen: float
    last_lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FlushReport:
    """What a flush achieved; falsy unless every rank is durable.

    Attributes:
        version: which barrier: the owner's epoch and a number, `"2.57"`; `"0.0"` when no
            owner answered.
        complete: whether every rank is durable, and published if that was asked for.
        ranks: every rank that was live when the barrier opened.
        rows: metric rows of the run that are durable now.
        elapsed: seconds from the request to the answer.
        forwarding: whether captured output and Python logging are forwarded; when `set_mode`
            has switched that off, none of it is in the run.
    """

    version: str
    complete: bool
    ranks: dict[int, RankOutcome]
    rows: int
    elapsed: float
    forwarding: bool = True

    def __bool__(self) -> bool:
        return self.complete

    def __str__(self) -> str:
        missing = [
            f"rank {rank} {each.state}" + (f" at step {each.last_step}" if each.last_step else "")
            for rank, each in self.ranks.items()
            if each.state != "durable"
        ]
        state = (
            "complete" if self.complete else f"INCOMPLETE ({', '.join(missing) or 'not published'})"
        )
        text = (
            f"flush {self.version}: {state}, {len(self.ranks)} ranks, "
            f"{self.rows} rows durable, {self.elapsed * 1e3:.1f} ms"
        )
        return text if self.forwarding else f"{text}; output and logging are not forwarded"

    @classmethod
    def _from(cls, raw: dict[str, Any]) -> FlushReport:
        ranks = {rank: RankOutcome(**outcome) for rank, outcome in raw.pop("ranks").items()}
        return cls(ranks=ranks, **raw)


class FlushHandle:
    """A flush under way: `await` it, or `wait()` for it; both give the same report.

    Dropping or cancelling it only stops waiting: the flush itself goes on.
    """

    def __init__(self, core: CoreFlush, strict: bool = False) -> None:
        self._core = core
        self._strict = strict
        self._report: FlushReport | None = None

    def __await__(self) -> Generator[Any, None, FlushReport]:
        if self._report is None:
            raw = yield from self._core.future().__await__()
            return self._done(raw)
        return self._checked(self._report)

    def wait(self, timeout: float | None = None) -> FlushReport:
        """Blocks until the report is there.

        Args:
            timeout: seconds to wait; None waits as long as the flush's own deadline.

        Raises:
            TimeoutError: the report did not come in time; the flush goes on.
            FlushError: the report is incomplete and the flush was asked to be strict.
            ExpmanError: the run is closed.
        """
        if self._report is None:
            raw = self._core.wait(timeout)
            if raw is None:
                raise TimeoutError(f"no flush report within {timeout} s")
            return self._done(raw)
        return self._checked(self._report)

    result = wait

    def done(self) -> bool:
        """Whether the report is there."""
        return self._core.done()

    def _done(self, raw: dict[str, Any]) -> FlushReport:
        if self._report is None:
            self._report = FlushReport._from(raw)
        return self._checked(self._report)

    def _checked(self, report: FlushReport) -> FlushReport:
        if self._strict and not report:
            raise FlushError(str(report))
        return report
