"""One workload with one contender, in this process; prints one JSON object.

Called as `python worker.py CONTENDER FOLDER call|rows|read COUNT`.
"""

from __future__ import annotations

import gc
import json
import platform
import random
import sys
import time
from array import array
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, KEYS, Contender

WARM_CALLS = 2_000
SETTLE_SECS = 1.0


def values(count: int) -> array[float]:
    """As many random floats as `count` rows need, the same ones in every process."""
    source = random.Random(7)
    return array("d", (source.random() for _ in range(count * len(KEYS))))


def row(numbers: array[float], step: int) -> dict[str, float]:
    at = step * len(KEYS)
    return dict(zip(KEYS, numbers[at : at + len(KEYS)]))


def call(contender: Contender, count: int) -> dict[str, Any]:
    """The cost of one log call in a tight loop; the row is made outside of what is timed."""
    numbers = values(WARM_CALLS + count)
    log = contender.start()
    for step in range(WARM_CALLS):
        log(row(numbers, step), step)
    time.sleep(SETTLE_SECS)
    gc.collect()
    gc.disable()
    clock, cpu_clock = time.perf_counter_ns, time.thread_time_ns
    took = array("q", bytes(8 * count))
    for at in range(count):
        step = WARM_CALLS + at
        metrics = row(numbers, step)
        began = clock()
        log(metrics, step)
        took[at] = clock() - began
    rows = [row(numbers, at) for at in range(count)]
    step = WARM_CALLS + count
    began = cpu_clock()
    for metrics in rows:
        log(metrics, step)
        step += 1
    cpu = cpu_clock() - began
    contender.close()
    ordered = sorted(took)
    return {
        "p50_ns": ordered[count // 2],
        "p99_ns": ordered[count * 99 // 100],
        "max_ns": ordered[-1],
        "caller_cpu_ns": cpu / len(rows),
        "dropped": contender.dropped(),
    }


def rows(contender: Contender, count: int) -> dict[str, Any]:
    """Rows as fast as they are taken, then closed; timed from the first to the return of close."""
    numbers = values(count)
    log = contender.start()
    gc.collect()
    began = time.perf_counter()
    for step in range(count):
        log(row(numbers, step), step)
    logged = time.perf_counter()
    contender.close()
    closed = time.perf_counter()
    return {
        "seconds": closed - began,
        "close_seconds": closed - logged,
        "dropped": contender.dropped(),
    }


def read(contender: Contender, count: int) -> dict[str, Any]:
    """How many rows can be read, and whether every value is the one that was logged."""
    numbers = values(count)
    found = contender.read()
    wanted = {key: numbers[i :: len(KEYS)].tolist() for i, key in enumerate(KEYS)}
    return {
        "rows": min(len(column) for column in found.values()),
        "exact": found == wanted,
        "python": platform.python_version(),
        "version": version(contender.package) if contender.package else "",
    }


def main() -> None:
    name, folder, workload, count = sys.argv[1:]
    contender = CONTENDERS[name](Path(folder))
    done = {"call": call, "rows": rows, "read": read}[workload](contender, int(count))
    json.dump(done, sys.stdout)


if __name__ == "__main__":
    main()
