"""What it costs to be there at all."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import tree
from figures import Figure

if TYPE_CHECKING:
    from bench import Bench
    from contenders import Contender
    from worker import Driver

TITLE = "Start"

TEXT = """
A fresh process that imports the logger, opens a run and closes it with nothing in it; the medians
of {starts} (2 for slow ones) in each round. Our `init` starts the run's owner, a process of its
own. The whole process is from its start to its end, less that of the same one without a logger.
Files of the library are in the page cache.
"""

PICTURE = "total_ms"

FIGURES = [
    Figure("import ms", "import_ms", "{:.1f}", aim=5),
    Figure("open + close ms", "open_ms", "{:.1f}"),
    Figure("together ms", "total_ms", "{:.1f}", aim=40),
    Figure("whole process ms", "whole_ms", "{:.1f}", compared=False),
    Figure("CPU ms of all", "cpu_ms", "{:.1f}"),
    Figure("resident MB", "rss_mb", "{:.1f}"),
]

FLOOR = "python -c pass"


def names(bench: Bench) -> list[str]:
    return bench.names("ours", "tracker", "floor")


def run(bench: Bench, name: str, turn: int) -> dict[str, Any]:
    if bench.contenders[name].kind == "floor":
        return {"contender": FLOOR, "whole_ms": bare(bench, name)}
    times = bench.sizes.starts if bench.contenders[name].rate > 20_000 else 2
    done = [once(bench, name) for _ in range(times)]
    middle = {key: statistics.median(each[key] for each in done) for key in done[0]}
    empty = [once(bench, "empty call") for _ in range(2)]
    middle["whole_ms"] -= min(each["whole_ms"] for each in empty)
    middle["cpu_ms"] -= min(each["cpu_ms"] for each in empty)
    return middle


def bare(bench: Bench, name: str) -> float:
    """The interpreter alone."""
    took = []
    for _ in range(bench.sizes.starts):
        began = time.perf_counter()
        tree.run([str(bench.environment(name) / "bin" / "python"), "-c", "pass"], 60.0)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e3


def once(bench: Bench, name: str) -> dict[str, float]:
    with bench.folder(name, settle=False) as folder:
        began = time.perf_counter()
        with bench.worker(name, folder, "start") as worker:
            worker.stopped()
            rss = tree.rss_bytes(tree.descendants())
            worker.go()
            done = worker.done()
            ended = time.perf_counter()
            cpu = worker.cpu_secs + tree.left_behind()
    paused = done.pop("paused_ms") / 1e3
    return {
        **done,
        "whole_ms": (ended - began - paused) * 1e3,
        "cpu_ms": cpu * 1e3,
        "rss_mb": rss / 1e6,
    }


def measure(contender: Contender, driver: Driver) -> dict[str, Any]:
    """Stops while the run is open, so that its memory can be seen."""
    clock = time.perf_counter
    began = clock()
    contender.load()
    loaded = clock()
    contender.start()
    opened = clock()
    driver.stop("open")
    resumed = clock()
    contender.close()
    closed = clock()
    return {
        "import_ms": (loaded - began) * 1e3,
        "open_ms": (opened - loaded + closed - resumed) * 1e3,
        "total_ms": (opened - began + closed - resumed) * 1e3,
        "paused_ms": (resumed - opened) * 1e3,
    }
