"""Against the number of different names."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import tree
from data import values
from figures import Figure

if TYPE_CHECKING:
    from bench import Bench
    from contenders.mesh import ExpmanMesh
    from worker import Driver

TITLE = "Names"
X = "different names"

TEXT = """
{points:,} points, one a call, of so many names in turn, until a flush says that all are durable:
points a second, the owner's CPU, its memory then, closing, the size of the files, and the first
answer of `expman serve` about the run (its page asks for it to know the names).
"""

VALUES = [1, 10, 100, 1_000, 10_000, 100_000]
MORE: list[int] = []
POINTS = 200_000

FIGURES = [
    Figure("points/s", "rate", more=True),
    Figure("CPU µs/point, all", "cpu_us", "{:.2f}"),
    Figure("owner, MB", "owner_mb"),
    Figure("close, ms", "close_ms"),
    Figure("bytes/point", "bytes_per_point", "{:.1f}"),
    Figure("run's answer, ms", "answer_ms", "{:.1f}"),
]

PICTURES = [
    ("scale-names", "Cost against names", "ms", ("close_ms", "answer_ms")),
    ("scale-names-memory", "Memory and CPU against names", "MB, µs", ("owner_mb", "cpu_us")),
]


def run(bench: Bench, value: int) -> dict[str, Any]:
    with bench.folder("expman-mesh") as folder:
        with bench.worker("expman-mesh", folder, "scaling.names", names=value, wait=True) as worker:
            worker.stopped()
            pids = tree.descendants()
            before = sum(map(tree.cpu_ns, pids))
            worker.go()
            secs = worker.stopped()["secs"]
            cpu = sum(map(tree.cpu_ns, tree.descendants())) - before
            memory = tree.rss_bytes(tree.descendants() - {worker.pid})
            worker.go()
            done = worker.done()
            tree.left_behind()
        size = bench.bytes_of(folder)
        answer = bench.answered(folder, "/api/runs/{}")
    return {
        "rate": POINTS / secs,
        "cpu_us": cpu / POINTS / 1e3,
        "owner_mb": memory / 1e6,
        "close_ms": done["close_ms"],
        "bytes_per_point": size / POINTS,
        "answer_ms": answer * 1e3,
    }


def measure(contender: ExpmanMesh, driver: Driver, names: int) -> dict[str, Any]:
    """One name a call."""
    numbers = values(1_000)
    keys = [f"layer/{at}" for at in range(names)]
    contender.load()
    log = contender.start()
    driver.stop("start")
    began = time.perf_counter()
    for step in range(POINTS):
        log({keys[step % names]: numbers[step % 1_000]}, step)
    driver.stop("stored", secs=contender.stored() - began)
    began = time.perf_counter()
    contender.close()
    return {"close_ms": (time.perf_counter() - began) * 1e3}
