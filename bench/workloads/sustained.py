"""Rows as fast as they are taken, until they are closed and readable."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Any

import tree
from data import KEYS, ROWS_MAX, row, sized, values
from figures import Figure

if TYPE_CHECKING:
    from bench import Bench
    from contenders import Contender
    from worker import Driver

TITLE = "Rows until closed and readable"

TEXT = """
{rows:,} rows (n; fewer for slow loggers) of five floats and a step, as fast as they are taken, then
`close`; the time runs from the first call to the return of `close`, ours with `on_full="block"`.
CPU is that of all processes over the same time and to their end. Memory is the largest sum of the
resident memory of all processes, less that at the first call; pages that two of them share count
twice. Bytes are those of all files of the run. Each store is then read in a fresh process, and
every value compared with what was logged; a run that lost or changed one is named as failed.
The empty call shows what the loop alone takes, which makes each row: nobody is faster.
"""

PICTURE = "rows_per_sec"

FIGURES = [
    Figure("n", "rows", compared=False),
    Figure("rows/s", "rows_per_sec", more=True, aim=600_000),
    Figure("CPU µs/row", "cpu_us", "{:.2f}"),
    Figure("peak over the start, MB", "grown_mb", aim=80, alike="rows"),
    Figure("bytes/row", "bytes_per_row", "{:.1f}", aim=30),
    Figure("close, s", "close_secs", "{:.2f}"),
]

PAID_SECS = 6.0


def names(bench: Bench) -> list[str]:
    return bench.names("ours", "tracker", "plain", "floor")


def run(bench: Bench, name: str, turn: int) -> dict[str, Any] | None:
    contender = bench.contenders[name]
    rows = sized(bench.sizes.rows, contender.rate * PAID_SECS)
    if bench.spares(name, turn):
        return None
    with bench.folder(name) as folder:
        with bench.worker(name, folder, "sustained", rows=rows, wait=True) as worker:
            worker.stopped()
            pids = tree.descendants()
            before = sum(tree.cpu_ns(pid) for pid in pids) / 1e9
            rss = tree.rss_bytes(pids)
            sampler = tree.Sampler()
            sampler.start()
            worker.go()
            done = worker.done()
            cpu = worker.cpu_secs + tree.left_behind() - before
            sampler.ended.set()
            sampler.join()
        if contender.kind == "floor":
            return {"rows": rows, "rows_per_sec": rows / done["secs"], "cpu_us": cpu / rows * 1e6}
        size = bench.bytes_of(folder)
        check = bench.once(name, "sustained", folder=folder, rows=rows, read=True)
    if check["points"] != rows * len(KEYS) or not check["exact"] or done["dropped"]:
        raise tree.Failed(f"{check['points']} of {rows * len(KEYS)} values came back: {done}")
    return {
        **done,
        "rows": rows,
        "rows_per_sec": rows / done["secs"],
        "cpu_us": cpu / rows * 1e6,
        "grown_mb": (sampler.peak - rss) / 1e6,
        "bytes_per_row": size / rows,
    }


def measure(contender: Contender, driver: Driver, rows: int, read: bool = False) -> dict[str, Any]:
    """Logs, or reads back."""
    numbers = values(rows)
    if read:
        return compared(contender, numbers, rows)
    contender.load()
    log = contender.start()
    gc.collect()
    driver.stop("start")
    began = time.perf_counter()
    for step in range(rows):
        log(row(numbers, step), step)
    logged = time.perf_counter()
    contender.close()
    closed = time.perf_counter()
    return {
        "secs": closed - began,
        "close_secs": closed - logged,
        "dropped": contender.dropped(),
    }


def compared(contender: Contender, numbers: Any, rows: int) -> dict[str, Any]:
    """Whether every value is the one that was logged."""
    assert rows <= ROWS_MAX
    found = contender.read()
    exact = True
    for at, key in enumerate(KEYS):
        wanted = numbers[at :: len(KEYS)].tolist()
        values = found.get(key, [])
        if contender.shrinks:
            exact &= all(abs(a - b) < 1e-6 for a, b in zip(values, wanted))
        else:
            exact &= values == wanted
    return {"points": sum(map(len, found.values())), "exact": exact}
