"""Against what the run holds already."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import tree
from data import KEYS, ROWS_MAX, row, values
from figures import Figure

if TYPE_CHECKING:
    from bench import Bench
    from contenders.mesh import ExpmanMesh
    from worker import Driver

TITLE = "History"
X = "points in the run"

TEXT = """
A run of five metrics that holds so many points: how long {rows:,} more rows take until a flush says
that they are durable (the median of 3), the owner's memory then, and its greatest meanwhile;
closing, and opening the closed run again; the files' size; and how long `expman serve` takes from
the question to the answer for the chart of one metric, right after it started.
"""

VALUES = [1_000, 10_000, 100_000, 1_000_000, 10_000_000]
MORE = [100_000_000]
ROWS = 20_000
CHUNKS = 3

FIGURES = [
    Figure("store, ms", "store_ms"),
    Figure("owner, MB", "owner_mb"),
    Figure("at most", "peak_mb"),
    Figure("close, ms", "close_ms"),
    Figure("open again, ms", "open_ms"),
    Figure("bytes/point", "bytes_per_point", "{:.1f}"),
    Figure("first chart, ms", "chart_ms", "{:.1f}"),
]

PICTURES = [
    (
        "scale-history",
        "Cost against history",
        "ms",
        ("store_ms", "close_ms", "open_ms", "chart_ms"),
    )
]


def run(bench: Bench, value: int) -> dict[str, Any]:
    with bench.folder("expman-mesh") as folder:
        options = {"points": value, "wait": True}
        with bench.worker("expman-mesh", folder, "scaling.history", 3_600.0, **options) as worker:
            sampler = tree.Sampler(without=worker.pid)
            sampler.start()
            worker.stopped()
            sampler.ended.set()
            sampler.join()
            memory = tree.rss_bytes(tree.descendants() - {worker.pid})
            worker.go()
            done = worker.done()
            tree.left_behind()
        size = bench.bytes_of(folder)
        chart = bench.asked(folder, KEYS[0])
        with bench.worker("expman-mesh", folder, "scaling.history", points=0) as worker:
            again = worker.done()
            tree.left_behind()
    points = value + CHUNKS * ROWS * len(KEYS)
    return {
        **done,
        **again,
        "owner_mb": memory / 1e6,
        "peak_mb": max(sampler.peak, memory) / 1e6,
        "bytes_per_point": size / points,
        "chart_ms": chart.first * 1e3,
    }


def measure(contender: ExpmanMesh, driver: Driver, points: int) -> dict[str, Any]:
    """Writes the run; opens it again when there is nothing to write."""
    contender.load()
    began = time.perf_counter()
    if not points:
        run = contender.module.init(
            "bench", "run", base_dir=contender.folder, redirect_console=False, resume=True
        )
        opened = time.perf_counter() - began
        run.close(timeout=300.0)
        return {"open_ms": opened * 1e3}
    log = contender.start()
    numbers = values(ROWS_MAX)
    for step in range(points // len(KEYS)):
        log(row(numbers, step), step)
    contender.stored()
    took = []
    for chunk in range(CHUNKS):
        began = time.perf_counter()
        for at in range(ROWS):
            log(row(numbers, at), points // len(KEYS) + chunk * ROWS + at)
        took.append(contender.stored() - began)
    driver.stop("stored")
    began = time.perf_counter()
    contender.close()
    closed = time.perf_counter() - began
    return {"store_ms": statistics.median(took) * 1e3, "close_ms": closed * 1e3}
