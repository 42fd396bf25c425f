"""Against the number of ranks."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import tree
from data import row, values
from figures import Figure
from workloads.barrier import quantiles

if TYPE_CHECKING:
    from bench import Bench
    from contenders.mesh import ExpmanMesh
    from worker import Driver

TITLE = "Ranks"
X = "ranks"

TEXT = """
So many writers in one run with one owner. Simulated: at most {processes} processes, each with its
part of the writers, every one with a queue, a link and numbers of its own; they share their
process's threads and its interpreter's lock. All together log {rows:,} rows of five floats, each
rank its part, until a flush says that all of it is durable. "Join" is the time until all are there,
"close" until all have left and the run is closed. The owner's CPU is per row, its memory after the
flush. Idle is the CPU of all processes over {idle:.0f} s in which nothing is logged.
"""

VALUES = [1, 4, 16, 64, 256, 1_000]
MORE: list[int] = []
PROCESSES = 4
ROWS = 64_000
IDLE_SECS = 5.0
FLUSHES = 20

FIGURES = [
    Figure("join, ms", "join_ms"),
    Figure("rows/s", "rate", more=True),
    Figure("owner's CPU µs/row", "owner_us", "{:.2f}"),
    Figure("owner, MB", "owner_mb"),
    Figure("ranks, MB", "ranks_mb"),
    Figure("flush idle, p50 ms", "flush_ms", "{:.1f}"),
    Figure("idle, % of a core", "idle", "{:.3f}"),
    Figure("close, ms", "close_ms"),
]

PICTURES = [
    ("scale-ranks", "Cost against ranks", "ms", ("join_ms", "flush_ms", "close_ms")),
    ("scale-ranks-memory", "Memory against ranks", "MB", ("owner_mb", "ranks_mb")),
]


def run(bench: Bench, value: int) -> dict[str, Any]:
    processes = min(PROCESSES, value)
    clock = time.perf_counter
    with bench.folder("expman-mesh") as folder, ExitStack() as stack:
        workers = []
        for at in range(processes):
            seats = list(range(at, value, processes))
            options = {"seats": seats, "size": value, "rows": ROWS // value}
            workers.append(
                stack.enter_context(bench.worker("expman-mesh", folder, "scaling.ranks", **options))
            )

        def step() -> float:
            """Lets all go on and waits until all have stopped again."""
            began = clock()
            for worker in workers:
                worker.go()
            for worker in workers:
                worker.stopped()
            return clock() - began

        for worker in workers:
            worker.stopped()
        ours = {worker.pid for worker in workers}
        join = step()
        owners = tree.descendants() - ours
        before = sum(map(tree.cpu_ns, owners))
        began = clock()
        step()
        workers[0].go("flush")
        flushed = workers[0].stopped()["ended"]
        owner = sum(map(tree.cpu_ns, owners)) - before
        memory = tree.rss_bytes(owners), tree.rss_bytes(ours)
        workers[0].go("flushes")
        flush = workers[0].stopped()["flush"]
        time.sleep(1.0)
        since = sum(map(tree.cpu_ns, owners | ours))
        time.sleep(IDLE_SECS)
        idle = sum(map(tree.cpu_ns, owners | ours)) - since
        leaving = clock()
        for worker in workers:
            worker.go("close")
        for worker in workers:
            worker.done()
        tree.left_behind()
        close = clock() - leaving
    rows = ROWS // value * value
    return {
        "join_ms": join * 1e3,
        "rate": rows / (flushed - began),
        "owner_us": owner / rows / 1e3,
        "owner_mb": memory[0] / 1e6,
        "ranks_mb": memory[1] / 1e6,
        "flush_ms": flush[0],
        "idle": idle / 1e9 / IDLE_SECS * 100,
        "close_ms": close * 1e3,
    }


def measure(
    contender: ExpmanMesh, driver: Driver, seats: list[int], size: int, rows: int
) -> dict[str, Any]:
    """Some of the ranks."""
    contender.load()
    numbers = values(10_000)
    driver.stop("loaded")
    options = {"redirect_console": False, "on_full": "block", "block_timeout": 60.0}
    ranks = [
        contender.module.Experiment(
            "bench",
            "run",
            base_dir=contender.folder,
            rank=seat,
            world_size=size,
            group="scale",
            timeout=120.0,
            **options,
        )
        for seat in seats
    ]
    driver.stop("joined")
    logs = [rank.log_metrics for rank in ranks]
    for step in range(rows):
        for log in logs:
            log(row(numbers, step), step)
    word = driver.stop("logged")
    while word != "close":
        took = []
        for step in range(1 if word == "flush" else FLUSHES):
            if word != "flush":
                logs[0](row(numbers, step), rows + step)
            began = time.perf_counter()
            if not ranks[0].flush(timeout=120.0).wait():
                raise RuntimeError("an incomplete flush")
            took.append(time.perf_counter() - began)
        word = driver.stop(word, ended=time.perf_counter(), flush=quantiles(took))
    for rank in ranks:
        rank.close(timeout=120.0)
    return {}
