"""One long metric, read back."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tree
from figures import Figure

if TYPE_CHECKING:
    from bench import Bench
    from contenders import Contender
    from worker import Driver

TITLE = "Reading"

TEXT = """
One metric of a closed run that has no other, one row a step. `expman serve` answers what its page
asks for a chart, the whole run in the buckets of its sums: first right after it started, then
again. That is less work than what the others do, so no ratio is told. They read the steps and
values of all points from `metrics.parquet`, by the metric's name; each in a fresh process after its
import, the median of 3. `expman export` is the whole command, which reads all of them and writes
them to Parquet. expman-rs reads its own file.
"""

ENVIRONMENTS = {"readers": ("pyarrow", "pandas", "polars", "duckdb")}

LENGTHS = (1_000_000, 10_000_000)

FIGURES = [
    *(Figure(f"{n:,} points, ms", f"ms_{n}", "{:,.1f}", compared=False, aim=20) for n in LENGTHS),
    Figure("peak MB", "rss_mb", compared=False),
]

SERVER = "expman serve, chart, first"
AGAIN = "expman serve, chart, again"
WHOLE = "expman export, all points"

FILTER = [("key", "==", "loss")]


def pandas(path: str) -> int:
    import pandas

    return len(pandas.read_parquet(path, columns=["step", "value"], filters=FILTER))


def polars(path: str) -> int:
    import polars

    rows = polars.scan_parquet(path).filter(polars.col("key") == "loss")
    return len(rows.select("step", "value").collect())


def duckdb(path: str) -> int:
    import duckdb

    query = f"select step, value from '{path}' where key = 'loss'"
    return int(duckdb.sql(query).to_arrow_table().num_rows)


def pyarrow(path: str) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_table(path, columns=["step", "value"], filters=FILTER).num_rows)


def expman_rs(path: str) -> int:
    import expman

    return len(expman.read_metrics(path))


READERS = {
    "pandas": pandas,
    "polars": polars,
    "DuckDB": duckdb,
    "pyarrow": pyarrow,
    "expman-rs 1.3.0": expman_rs,
}


def names(bench: Bench) -> list[str]:
    """The contenders here are readers."""
    others = list(READERS) if "expman-rs 1.3.0" in bench.names("tracker") else list(READERS)[:-1]
    return [SERVER, *others]


def run(bench: Bench, name: str, turn: int) -> list[dict[str, Any]]:
    lengths = [n for n in LENGTHS if n <= bench.sizes.points]
    if name == SERVER:
        first, again, whole = {}, {}, {}
        for length in lengths:
            asked = bench.asked(bench.long_run("expman-mesh", length), "loss")
            first[f"ms_{length}"], again[f"ms_{length}"] = asked.first * 1e3, asked.again * 1e3
            first["rss_mb"] = asked.rss_bytes / 1e6
            whole.update(exported(bench, length))
        return [
            {**first, "kind": "ours"},
            {**again, "contender": AGAIN, "kind": "also ours"},
            {**whole, "contender": WHOLE, "kind": "also ours"},
        ]
    done: dict[str, Any] = {"kind": "tracker" if name in bench.contenders else "plain"}
    for length in lengths:
        if name in bench.contenders:
            if length > LENGTHS[0]:
                continue
            path = next(bench.long_run(name, length).glob("bench/run/vectors.parquet")).parent
            environment = name
        else:
            path = bench.long_run("expman-mesh", length) / "bench" / "run" / "metrics.parquet"
            environment = "readers"
        told = bench.once(environment, "reading", reader=name, path=str(path), points=length)
        done[f"ms_{length}"], done["rss_mb"] = told["ms"], told["rss_mb"]
    return [done]


def exported(bench: Bench, length: int) -> dict[str, float]:
    """All points by our own program."""
    run = bench.long_run("expman-mesh", length) / "bench" / "run"
    with bench.folder("expman-mesh") as folder:
        began = time.perf_counter()
        command = [bench.expman, "export", str(run), "-o", str(folder / "out.parquet")]
        cost = tree.run(command, 300.0)
        secs = time.perf_counter() - began
    return {f"ms_{length}": secs * 1e3, "rss_mb": cost.peak_rss_bytes / 1e6}


def measure(
    contender: Contender, driver: Driver, reader: str, path: str, points: int
) -> dict[str, Any]:
    """Reads three times, once before to have everything imported."""
    import resource

    read = READERS[reader]
    took = []
    for _ in range(4):
        began = time.perf_counter()
        found = read(path)
        took.append(time.perf_counter() - began)
        if found != points:
            raise RuntimeError(f"{found} of {points} rows of {Path(path).name}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"ms": statistics.median(took[1:]) * 1e3, "rss_mb": peak * 1024 / 1e6}
