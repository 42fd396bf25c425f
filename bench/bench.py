"""What a workload has at hand: environments, folders, workers, runs that were made before."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tree
from contenders import CONTENDERS, Contender
from process import Worker
from viewers import Mesh

HERE = Path(__file__).resolve().parent
TIMEOUT_SECS = 300.0
FILL_TIMEOUT_SECS = 3_600.0
SETTLE_SECS = 0.3
SLOW_RATE = 10_000
"""Who stores fewer rows a second takes part in the first round only, where that takes long."""

ASKED_AGAIN = 5


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    calls: int = 20_000
    rows: int = 200_000
    rank_rows: int = 20_000
    wide_calls: int = 200
    names: int = 100_000
    paced_secs: float = 3.0
    idle_secs: float = 10.0
    flushes: int = 200
    many_ranks: bool = True
    depth: int = 1_000_000
    points: int = 10_000_000
    starts: int = 5


QUICK = Sizes(
    calls=10_000, rows=50_000, paced_secs=2.0, flushes=100, many_ranks=False, points=1_000_000
)
EVERYTHING = Sizes(depth=100_000_000)


@dataclass(frozen=True)
class Asked:
    """Answers of a server that has just started, and of the same one later."""

    first: float
    again: float
    rss_bytes: int


class Bench:
    """Runs workers in a folder of its own, which is gone at the end."""

    def __init__(self, venvs: Path, scratch: Path, sizes: Sizes, wanted: list[str]) -> None:
        self.venvs, self.scratch, self.sizes = venvs, scratch, sizes
        self.root = HERE.parent
        self.exp: Path | None = None
        self.missing: list[str] = []
        self.contenders: dict[str, type[Contender]] = {}
        for name in wanted:
            self.contenders[name] = CONTENDERS[name]
            if not self._python(name).is_file():
                del self.contenders[name]
                self.missing.append(name)
        self._long_runs: dict[tuple[str, int, int], Path] = {}

    @staticmethod
    def say(line: str) -> None:
        """To the terminal, beside the tables."""
        sys.stderr.write(f"{line}\n")

    def names(self, *kinds: str) -> list[str]:
        return [name for name, each in self.contenders.items() if each.kind in kinds]

    def environment(self, name: str) -> Path:
        """The virtual environment of a contender, or the one of this name."""
        known = CONTENDERS.get(name)
        return self.venvs / (known.environment if known else name)

    def _python(self, name: str) -> Path:
        return self.environment(name) / "bin" / "python"

    @property
    def expman(self) -> str:
        """Our program."""
        return str(self.environment("expman-mesh") / "bin" / "expman")

    def spares(self, name: str, turn: int) -> bool:
        """Whether a slow one is left out of this round."""
        return turn > 0 and self.contenders[name].rate < SLOW_RATE

    @contextmanager
    def folder(self, name: str, settle: bool = True) -> Iterator[Path]:
        """A new one, on a disk that has nothing left to do for whoever was measured before."""
        if settle:
            os.sync()
            time.sleep(SETTLE_SECS)
        folder = Path(tempfile.mkdtemp(dir=self.scratch)) / "runs"
        folder.mkdir()
        try:
            if name in self.contenders and self.contenders[name].prepares():
                with self.worker(name, folder, "prepare") as worker:
                    worker.done()
                tree.left_behind()
            yield folder
        finally:
            shutil.rmtree(folder.parent, ignore_errors=True)

    @contextmanager
    def worker(
        self, name: str, folder: Path, workload: str, timeout: float = TIMEOUT_SECS, **options: Any
    ) -> Iterator[Worker]:
        """A process of a contender, killed at the end of the block if it is still there."""
        contender = name if name in CONTENDERS else "empty call"
        module = workload if "." in workload or workload == "prepare" else f"workloads.{workload}"
        script, text = str(HERE / "worker.py"), json.dumps(options)
        command = [str(self._python(name)), script, contender, str(folder), module, text]
        worker = Worker(command, folder.parent / "stderr", timeout)
        try:
            yield worker
        finally:
            worker.end()

    def once(
        self, name: str, workload: str, folder: Path | None = None, **options: Any
    ) -> dict[str, Any]:
        """A worker that doesn't stop in between, in a new folder when none is given."""
        if folder is None:
            with self.folder(name) as new:
                return self.once(name, workload, new, **options)
        with self.worker(name, folder, workload, **options) as worker:
            done = worker.done()
        tree.left_behind()
        return done

    @staticmethod
    def bytes_of(folder: Path) -> int:
        return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())

    def long_run(self, name: str, points: int, keys: int = 1) -> Path:
        """A folder with a closed run of so many points, made when it is first asked for."""
        at = (name, points, keys)
        if at not in self._long_runs:
            folder = Path(tempfile.mkdtemp(dir=self.scratch)) / "runs"
            folder.mkdir()
            self.say(f"   {name} writes a run of {points:,} points")
            rows = points // keys
            options = {"rows": rows, "width": keys, "wait": True}
            with self.worker(name, folder, "fill", FILL_TIMEOUT_SECS, **options) as worker:
                if worker.done()["dropped"]:
                    raise tree.Failed(f"{name} left out some of {points:,} points")
            tree.left_behind()
            self._long_runs[at] = folder
        return self._long_runs[at]

    def answered(self, base: Path, path: str) -> float:
        """Seconds until `expman serve`, just started, answers about the only run there."""
        server = Mesh(str(self._python("expman-mesh")))
        server.start(base)
        try:
            run = json.loads(server.ask(("/api/runs", None)).body)[0]["key"]
            return server.ask((path.format(run), None)).secs
        finally:
            server.stop()

    def asked(self, base: Path, key: str) -> Asked:
        """How long `expman serve` takes for a chart of a metric."""
        server = Mesh(str(self._python("expman-mesh")))
        server.start(base)
        try:
            run = json.loads(server.ask(("/api/runs", None)).body)[0]["key"]
            question = (f"/api/runs/{run}/series?keys={key}", None)
            first = server.ask(question)
            if first.size < 200:
                raise tree.Failed(f"a chart of {first.size} bytes")
            again = [server.ask(question).secs for _ in range(ASKED_AGAIN)]
            return Asked(first.secs, statistics.median(again), server.rss_bytes())
        finally:
            server.stop()
