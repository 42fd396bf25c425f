"""What an open run costs while nothing is logged."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import tree
from data import row, values
from figures import Figure

if TYPE_CHECKING:
    from bench import Bench
    from contenders import Contender
    from worker import Driver

TITLE = "Idle"

TEXT = """
A run that is open and got 100 rows {settle:.0f} s ago: the CPU time of all its processes over
{secs:.0f} s in which nothing is logged, as a part of one core. The calling thread waits for a line
of input.
"""

FIGURES = [
    Figure("% of a core", "percent", "{:.4f}", aim=0.1),
    Figure("resident MB", "rss_mb", "{:.1f}"),
    Figure("processes", "processes", compared=False),
    Figure("threads", "threads", compared=False),
]

SETTLE_SECS = 4.0


def names(bench: Bench) -> list[str]:
    return bench.names("ours", "tracker")


def run(bench: Bench, name: str, turn: int) -> dict[str, Any] | None:
    if bench.spares(name, turn):
        return None
    with bench.folder(name) as folder, bench.worker(name, folder, "idle") as worker:
        worker.stopped()
        time.sleep(SETTLE_SECS)
        pids = tree.descendants()
        before = {pid: tree.cpu_ns(pid) for pid in pids}
        began = time.perf_counter()
        time.sleep(bench.sizes.idle_secs)
        pids = tree.descendants()
        used = sum(tree.cpu_ns(pid) - before.get(pid, 0) for pid in pids)
        secs = time.perf_counter() - began
        rss = tree.rss_bytes(pids)
        threads = sum(len(tree.tasks(pid)) for pid in pids)
        worker.go()
        worker.done()
        tree.left_behind()
    return {
        "percent": used / 1e9 / secs * 100,
        "rss_mb": rss / 1e6,
        "processes": len(pids),
        "threads": threads,
    }


def measure(contender: Contender, driver: Driver) -> dict[str, Any]:
    """Logs a little, then waits to be told to close."""
    numbers = values(100)
    contender.load()
    log = contender.start()
    for step in range(100):
        log(row(numbers, step), step)
    driver.stop("idle")
    contender.close()
    return {}
