"""What every contender can do.

Only the standard library here: each runs in a virtual environment that holds nothing else.
"""

from __future__ import annotations

import abc
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data import KEYS

Log = Callable[[Mapping[str, float], int], Any]
Series = dict[str, list[float]]

QUIET_SECS = 1.0
"""A process that used no CPU for so long has stored what it was given."""

QUIET_CPU_SECS = 0.001
"""Less than so much between two looks is none."""

LOOK_SECS = 0.02


class Contender(abc.ABC):
    """One logger, used as its documentation says, with nothing but metrics switched on.

    Attributes:
        name: in tables.
        kind: `ours`, `tracker` (of experiments), `plain` (what one writes by hand) or `floor`.
        environment: the virtual environment that it runs in.
        requirements: what is installed there.
        package: whose version is told.
        rate: rows of five metrics that it stores in a second, roughly; a workload gives a slow
            one fewer rows.
        together: what several processes make: `one run`, `a run each`, `a file each`; None
            when they can't.
        wide: a table with a column for each name, known at the start.
        names_max: different names that it stores in a bearable time.
        shrinks: values are stored with less than 64 bits.
        flushes: there is a call after which what was logged is stored.
    """

    name: str
    kind: str = "tracker"
    environment: str
    requirements: tuple[str, ...] = ()
    package: str | None = None
    rate: float = 100_000
    together: str | None = None
    wide = False
    names_max = 1_000_000
    shrinks = False
    flushes = False

    def __init__(
        self,
        folder: Path,
        rank: int | None = None,
        world: int | None = None,
        keys: Sequence[str] = KEYS,
        wait: bool = False,
    ) -> None:
        """Nothing is imported or opened yet.

        Args:
            folder: where it may write.
            rank: of the process among `world` that log together.
            world: None when it is alone.
            keys: the names to be logged, for those who must know.
            wait: for room, where the choice is to wait or to leave out.
        """
        self.folder, self.rank, self.world = folder, rank, world
        self.keys, self.wait = keys, wait

    @classmethod
    def prepares(cls) -> bool:
        """Whether there is something to do once, before anything is timed."""
        return cls.prepare is not Contender.prepare

    def prepare(self) -> None:  # noqa: B027
        """Makes a store in which runs can be opened."""

    @abc.abstractmethod
    def load(self) -> None:
        """Imports it."""

    @abc.abstractmethod
    def start(self) -> Log:
        """Opens a run; returns its log call."""

    @abc.abstractmethod
    def close(self) -> None:
        """Returns when the run is closed and readable."""

    def stored(self) -> float:
        """Waits until all that was logged is stored; when that was, by `perf_counter`.

        Where there is no call for it: since when its threads use no CPU.
        """
        last, used = time.perf_counter(), others_cpu_secs()
        while time.perf_counter() - last < QUIET_SECS:
            time.sleep(LOOK_SECS)
            now = others_cpu_secs()
            if now - used > QUIET_CPU_SECS:
                last = time.perf_counter()
            used = now
        return last

    def dropped(self) -> int:
        """Rows that it says it left out."""
        return 0

    def read(self) -> Series:
        """The values of each metric in the order of their steps, read in a fresh process."""
        raise NotImplementedError


def others_cpu_secs() -> float:
    """What all threads but this one have used."""
    return time.process_time() - time.thread_time()


def by_key(points: Iterable[tuple[str, int, float]]) -> Series:
    """Points as they lie in a store, as series."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for key, step, value in points:
        found[key].append((step, value))
    return {key: [v for _, v in sorted(each, key=lambda p: p[0])] for key, each in found.items()}
