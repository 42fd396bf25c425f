"""What is compared: each logs rows of five floats and a step, and can say where they are.

Only the standard library at the top: each runs in a virtual environment that holds nothing else.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

Log = Callable[[Mapping[str, float], int], Any]

KEYS = ("train/loss", "train/accuracy", "train/rate", "train/grad_norm", "train/step_time")


class Contender(abc.ABC):
    """One logger, used as its documentation says, with nothing but metrics switched on."""

    name: str
    package: str | None = None
    stores = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abc.abstractmethod
    def start(self) -> Log:
        """Imports the logger and opens a run; returns its log call."""

    @abc.abstractmethod
    def close(self) -> None:
        """Returns when the run is closed and readable."""

    def dropped(self) -> int:
        """Rows that the logger says it left out."""
        return 0

    def read(self) -> dict[str, list[float]]:
        """The values of each metric in the order of their steps, read with pyarrow."""
        raise NotImplementedError


class ExpmanMesh(Contender):
    """This project, installed from its wheel."""

    name = "expman-mesh"
    package = "expman-mesh"

    def start(self) -> Log:
        import monarch_like

        self.run = monarch_like.init(
            "bench",
            base_dir=self.folder,
            redirect_console=False,
            on_full="block",
            block_timeout=60.0,
        )
        return self.run.log_metrics

    def close(self) -> None:
        self.stats = self.run.stats()
        if not self.run.close(timeout=120.0):
            raise RuntimeError("the run was not closed by its only rank")

    def dropped(self) -> int:
        return sum(self.stats["dropped"].values())

    def read(self) -> dict[str, list[float]]:
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        (path,) = self.folder.glob("bench/*/metrics.parquet")
        table = pq.read_table(path, columns=["key", "step", "value"]).sort_by("step")
        return {key: table.filter(pc.equal(table["key"], key))["value"].to_pylist() for key in KEYS}


class ExpmanRs(Contender):
    """expman-rs from PyPI, its extras (console, system metrics, provenance) switched off."""

    name = "expman-rs"
    package = "expman-rs"

    def start(self) -> Log:
        import expman

        self.run = expman.Experiment(
            "bench",
            base_dir=str(self.folder),
            redirect_console=False,
            system_metrics_interval_secs=0,
            capture_provenance=False,
        )
        return self.run.log_vector

    def close(self) -> None:
        self.run.close()

    def read(self) -> dict[str, list[float]]:
        import pyarrow.parquet as pq

        (path,) = self.folder.glob("bench/*/vectors.parquet")
        table = pq.read_table(path).sort_by("step")
        return {key: table[key].to_pylist() for key in KEYS}


class PyarrowLoop(Contender):
    """What one writes by hand: lists, and a row group of a zstd Parquet file every 5,000 rows.

    A kill before `close` leaves nothing that can be read: the file has no footer yet.
    """

    name = "pyarrow loop"
    package = "pyarrow"
    rows_per_group = 5_000

    def start(self) -> Log:
        import pyarrow as pa
        import pyarrow.parquet as pq

        fields = [("step", pa.int64())] + [(key, pa.float64()) for key in KEYS]
        self.schema = pa.schema(fields)
        self.writer = pq.ParquetWriter(
            self.folder / "metrics.parquet", self.schema, compression="zstd"
        )
        self.table = pa.table
        self.rows: list[Mapping[str, float]] = []
        self.steps: list[int] = []
        rows, steps = self.rows, self.steps

        def log(metrics: Mapping[str, float], step: int) -> None:
            rows.append(metrics)
            steps.append(step)
            if len(rows) >= self.rows_per_group:
                self._write()

        return log

    def _write(self) -> None:
        columns = {"step": self.steps, **{key: [row[key] for row in self.rows] for key in KEYS}}
        self.writer.write_table(self.table(columns, schema=self.schema))
        self.rows.clear()
        self.steps.clear()

    def close(self) -> None:
        if self.rows:
            self._write()
        self.writer.close()

    def read(self) -> dict[str, list[float]]:
        import pyarrow.parquet as pq

        table = pq.read_table(self.folder / "metrics.parquet").sort_by("step")
        return {key: table[key].to_pylist() for key in KEYS}


class Nothing(Contender):
    """An empty call: what the loop and its clock cost."""

    name = "empty call"
    stores = False

    def start(self) -> Log:
        def log(metrics: Mapping[str, float], step: int) -> None:
            return None

        return log

    def close(self) -> None:
        return None


CONTENDERS: dict[str, type[Contender]] = {
    c.name: c for c in (ExpmanMesh, ExpmanRs, PyarrowLoop, Nothing)
}
