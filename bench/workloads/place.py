"""What a row costs in all, by where the CPU time is spent."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tree
from data import row, values
from figures import Figure

if TYPE_CHECKING:
    from bench import Bench
    from contenders import Contender
    from process import Worker
    from worker import Driver

TITLE = "Whole cost at a thousand rows a second"

TEXT = """
CPU time per row, µs, of a program that logs one row (five floats and a step) each millisecond for
{secs:.0f} s, then flushes where that can be, and waits {settle:.1f} s; before `close`. From the
calling thread the cost of the same loop with an empty call is subtracted. Other threads of the
process are split into those of Python, which hold the interpreter's lock while they run, and the
rest; other processes are all that it started, our owner among them. Taken from the kernel's clocks,
in ns. Loggers that can't take a thousand rows a second get a hundred.
"""

PICTURE = "total_us"

FIGURES = [
    Figure("rows", "rows", compared=False),
    Figure("calling thread", "caller_us", "{:.2f}"),
    Figure("Python threads", "python_us", "{:.2f}", compared=False),
    Figure("other threads", "native_us", "{:.2f}", compared=False),
    Figure("other processes", "processes_us", "{:.2f}", compared=False),
    Figure("together, µs/row", "total_us", "{:.2f}", aim=4.0),
]

SETTLE_SECS = 1.5
WARM_SECS = 0.5
HZ = 1_000
SLOW_HZ = 100


def names(bench: Bench) -> list[str]:
    return bench.names("ours", "tracker", "plain")


class Place:
    """CPU time so far, by place."""

    def __init__(self, worker: Worker, threads: list[int]) -> None:
        pid = worker.pid
        self.caller = tree.thread_cpu_ns(pid, pid)
        self.python = sum(tree.thread_cpu_ns(pid, t) for t in threads if t != pid)
        self.native = tree.cpu_ns(pid) - self.caller - self.python
        self.processes = sum(tree.cpu_ns(child) for child in tree.descendants() - {pid})


def run(bench: Bench, name: str, turn: int) -> dict[str, Any]:
    hz = HZ if bench.contenders[name].rate > HZ * 2 else SLOW_HZ
    with (
        bench.folder(name) as folder,
        bench.worker(name, folder, "place", hz=hz, secs=bench.sizes.paced_secs) as worker,
    ):
        seen = []
        for _ in range(4):
            told = worker.stopped()
            seen.append((told["rows"], Place(worker, told["threads"])))
            worker.go()
        worker.done()
        tree.left_behind()
    (n0, a), (n1, b), (_, c), (n3, d) = seen
    rows = n3
    empty = (b.caller - a.caller) / (n1 - n0)
    cost = {
        "caller_us": ((d.caller - c.caller) / rows - empty) / 1e3,
        "python_us": (d.python - c.python) / rows / 1e3,
        "native_us": (d.native - c.native) / rows / 1e3,
        "processes_us": (d.processes - c.processes) / rows / 1e3,
    }
    return {"rows": rows, **cost, "total_us": sum(cost.values())}


def paced(log: Any, numbers: Any, hz: int, secs: float) -> int:
    """Calls `log` at a steady rate; how often."""
    began = time.perf_counter()
    step = 0
    while (now := time.perf_counter() - began) < secs:
        due = step / hz
        if now < due:
            time.sleep(due - now)
        log(row(numbers, step), step)
        step += 1
    return step


def measure(contender: Contender, driver: Driver, hz: int, secs: float) -> dict[str, Any]:
    """The empty loop, then the same with the logger."""

    def nothing(metrics: Mapping[str, float], step: int) -> None:
        return None

    def stop(at: str, rows: int) -> None:
        driver.stop(at, rows=rows, threads=[t.native_id for t in threading.enumerate()])

    numbers = values(10_000)
    contender.load()
    stop("empty", 0)
    stop("emptied", paced(nothing, numbers, hz, secs))
    log = contender.start()
    paced(log, numbers, hz, WARM_SECS)
    time.sleep(SETTLE_SECS)
    stop("paced", 0)
    rows = paced(log, numbers, hz, secs)
    if contender.flushes:
        contender.stored()  # what is gathered in lists would never be paid for otherwise
    time.sleep(SETTLE_SECS)
    stop("done", rows)
    contender.close()
    return {}
