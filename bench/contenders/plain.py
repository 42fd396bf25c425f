"""What one writes by hand, with the standard library or pyarrow; and nothing at all."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, TextIO

from contenders.base import Contender, Log, Series, by_key


class PyarrowLoop(Contender):
    """Lists, and a row group of a zstd Parquet file every 5,000 rows.

    A kill before `close` leaves nothing that can be read: the file has no footer yet.
    """

    name = "pyarrow loop"
    kind = "plain"
    environment = "pyarrow"
    requirements = ("pyarrow",)
    package = "pyarrow"
    rate = 400_000
    together = "a file each"
    wide = True
    flushes = True
    rows_per_group = 5_000

    def load(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.pa, self.pq = pa, pq

    def start(self) -> Log:
        fields = [("step", self.pa.int64())] + [(key, self.pa.float64()) for key in self.keys]
        self.schema = self.pa.schema(fields)
        path = self.folder / f"metrics-{self.rank or 0}.parquet"
        self.writer = self.pq.ParquetWriter(path, self.schema, compression="zstd")
        self.rows: list[Mapping[str, float]] = []
        self.steps: list[int] = []
        rows, steps, most = self.rows, self.steps, self.rows_per_group

        def log(metrics: Mapping[str, float], step: int) -> None:
            rows.append(metrics)
            steps.append(step)
            if len(rows) >= most:
                self._write()

        return log

    def _write(self) -> None:
        columns: dict[str, Any] = {"step": self.steps}
        for key in self.keys:
            columns[key] = [row[key] for row in self.rows]
        self.writer.write_table(self.pa.table(columns, schema=self.schema))
        self.rows.clear()
        self.steps.clear()

    def stored(self) -> float:
        if self.rows:
            self._write()
        return time.perf_counter()

    def close(self) -> None:
        self.stored()
        self.writer.close()

    def read(self) -> Series:
        import pyarrow.parquet as pq

        found: Series = {}
        for path in sorted(self.folder.glob("metrics-*.parquet")):
            table = pq.read_table(path).sort_by("step")
            for key in table.column_names[1:]:
                found.setdefault(key, []).extend(table[key].to_pylist())
        return found


class Standard(Contender):
    """One of the standard library, in the environment of the pyarrow loop."""

    kind = "plain"
    environment = "pyarrow"
    requirements = ("pyarrow",)
    flushes = True


class Sqlite(Standard):
    """sqlite3, write-ahead log, `synchronous=NORMAL`, a row per metric, committed every 5,000."""

    name = "sqlite3"
    rate = 60_000
    together = "one run"
    points_per_commit = 5_000

    def load(self) -> None:
        import sqlite3

        self.sqlite3 = sqlite3

    def start(self) -> Log:
        path = self.folder / "metrics.db"
        self.link = self.sqlite3.connect(path, isolation_level=None, timeout=60)
        self.link.execute("pragma journal_mode=wal")
        self.link.execute("pragma synchronous=normal")
        self.link.execute(
            "create table if not exists metrics (key text, rank int, step int, value real)"
        )
        self.points: list[tuple[str, int, int, float]] = []
        points, rank, most = self.points, self.rank or 0, self.points_per_commit

        def log(metrics: Mapping[str, float], step: int) -> None:
            points.extend([(key, rank, step, value) for key, value in metrics.items()])
            if len(points) >= most:
                self._write()

        return log

    def _write(self) -> None:
        self.link.execute("begin immediate")
        self.link.executemany("insert into metrics values (?, ?, ?, ?)", self.points)
        self.link.execute("commit")
        self.points.clear()

    def stored(self) -> float:
        if self.points:
            self._write()
        return time.perf_counter()

    def close(self) -> None:
        self.stored()
        self.link.close()

    def read(self) -> Series:
        import sqlite3

        link = sqlite3.connect(self.folder / "metrics.db")
        return by_key(link.execute("select key, step, value from metrics order by rowid"))


class TextFile(Standard):
    """A file of text for each rank."""

    file: TextIO

    def stored(self) -> float:
        self.file.flush()
        return time.perf_counter()

    def close(self) -> None:
        self.file.close()


class Csv(TextFile):
    """csv.writer, a column per metric, a file with its own buffer."""

    name = "csv"
    rate = 150_000
    together = "a file each"
    wide = True

    def load(self) -> None:
        import csv

        self.csv = csv

    def start(self) -> Log:
        path = self.folder / f"metrics-{self.rank or 0}.csv"
        self.file = open(path, "w", newline="")  # noqa: SIM115
        write = self.csv.writer(self.file).writerow
        write(("step", *self.keys))
        keys = self.keys

        def log(metrics: Mapping[str, float], step: int) -> None:
            write((step, *[metrics[key] for key in keys]))

        return log

    def read(self) -> Series:
        import csv

        found: Series = {}
        for path in sorted(self.folder.glob("metrics-*.csv")):
            with open(path, newline="") as file:
                names, *rows = csv.reader(file)
            for at, key in enumerate(names[1:], 1):
                found.setdefault(key, []).extend(float(row[at]) for row in rows)
        return found


class JsonLines(TextFile):
    """json.dumps, a line per row, a file with a buffer of 1 MiB."""

    name = "jsonl"
    rate = 120_000
    together = "a file each"

    def load(self) -> None:
        import json

        self.json = json

    def start(self) -> Log:
        path = self.folder / f"metrics-{self.rank or 0}.jsonl"
        self.file = open(path, "w", buffering=1 << 20)  # noqa: SIM115
        write, dumps = self.file.write, self.json.dumps

        def log(metrics: Mapping[str, float], step: int) -> None:
            write(dumps({"step": step, **metrics}) + "\n")

        return log

    def read(self) -> Series:
        import json

        found: Series = {}
        for path in sorted(self.folder.glob("metrics-*.jsonl")):
            with open(path) as file:
                for line in file:
                    for key, value in json.loads(line).items():
                        if key != "step":
                            found.setdefault(key, []).append(value)
        return found


class Nothing(Standard):
    """An empty call: what the loop and its clock cost."""

    name = "empty call"
    kind = "floor"
    flushes = False

    def load(self) -> None:
        return None

    def start(self) -> Log:
        def log(metrics: Mapping[str, float], step: int) -> None:
            return None

        return log

    def close(self) -> None:
        return None
