"""Several processes that log at once, into one run where that can be."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import tree
from data import KEYS, row, sized, values
from figures import Figure

if TYPE_CHECKING:
    from bench import Bench
    from contenders import Contender
    from worker import Driver

TITLE = "Many ranks"

TEXT = """
1, 2, 4 and 8 processes log at once, {rows:,} rows of five floats each (n; fewer for slow loggers),
as fast as they are taken: rows a second together, from the common start to the last `close`. With 8
also the longest call of all, the worst of the rounds is in brackets; and the share of the slowest
rank, its own speed as a part of the fastest one's. Every value must be there afterwards. Who can't
log into one run from several processes makes a run or a file for each.
"""

COUNTS = (1, 2, 4, 8)

PICTURE = "rate_8"

FIGURES = [
    Figure("n each", "rows", compared=False),
    *(
        Figure(f"rows/s of {n}", f"rate_{n}", more=True, aim=500_000 if n == 8 else None)
        for n in COUNTS
    ),
    Figure("worst call of 8, ms", "worst_ms_8", "{:.1f}", aim=20, alike="rows"),
    Figure("slowest of 8", "share_8", "{:.2f}", more=True, compared=False),
]

PAID_SECS = 0.5


def names(bench: Bench) -> list[str]:
    return [n for n in bench.names("ours", "tracker", "plain") if bench.contenders[n].together]


def run(bench: Bench, name: str, turn: int) -> dict[str, Any] | None:
    if bench.spares(name, turn):
        return None
    contender = bench.contenders[name]
    rows = sized(bench.sizes.rank_rows, contender.rate * PAID_SECS)
    done: dict[str, Any] = {"rows": rows, "label": f"{name} ({contender.together})"}
    for count in COUNTS if contender.rate > 3_000 else (1, 8):
        done.update(together(bench, name, count, rows))
    return done


def together(bench: Bench, name: str, count: int, rows: int) -> dict[str, Any]:
    """So many processes, once."""
    with bench.folder(name) as folder, ExitStack() as stack:
        workers = [
            stack.enter_context(
                bench.worker(name, folder, "ranks", rows=rows, rank=rank, world=count, wait=True)
            )
            for rank in range(count)
        ]
        for worker in workers:
            worker.stopped()
        for worker in workers:
            worker.go()
        ends = [worker.done() for worker in workers]
        tree.left_behind()
        read = bench.once(name, "ranks", folder=folder, rows=0, read=True)
        if read["points"] != count * rows * len(KEYS) or any(e["dropped"] for e in ends):
            raise tree.Failed(f"{read['points']} of {count * rows * len(KEYS)} values came back")
    secs = max(e["closed"] for e in ends) - min(e["began"] for e in ends)
    speeds = sorted(1 / (e["logged"] - e["began"]) for e in ends)
    return {
        f"rate_{count}": count * rows / secs,
        f"worst_ms_{count}": max(e["worst_ms"] for e in ends),
        f"share_{count}": speeds[0] / speeds[-1],
    }


def measure(contender: Contender, driver: Driver, rows: int, read: bool = False) -> dict[str, Any]:
    """One rank; times by the clock that all processes share."""
    if read:
        return {"points": sum(map(len, contender.read().values()))}
    first = (contender.rank or 0) * rows  # values of its own: a store may take equal ones for one
    numbers = values(first + rows)
    contender.load()
    log = contender.start()
    driver.stop("start")
    clock = time.perf_counter
    worst, began = 0.0, clock()
    for step in range(rows):
        metrics = row(numbers, first + step)
        called = clock()
        log(metrics, step)
        worst = max(worst, clock() - called)
    logged = clock()
    contender.close()
    return {
        "began": began,
        "logged": logged,
        "closed": clock(),
        "worst_ms": worst * 1e3,
        "dropped": contender.dropped(),
    }
