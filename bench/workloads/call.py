"""The cost of one log call, for who calls."""

from __future__ import annotations

import gc
import time
from array import array
from typing import TYPE_CHECKING, Any

from data import row, sized, values
from figures import Figure

if TYPE_CHECKING:
    from bench import Bench
    from contenders import Contender
    from worker import Driver

TITLE = "One log call"

TEXT = """
`log_metrics` of five floats and a step in a tight loop of {calls:,} calls (n) after 2,000 warm ones
and a pause; a slow logger gets fewer. The dict is made outside of what is timed; the empty call
shows what the clock and the loop cost, which is in every figure of wall time. The caller's CPU is
that of its thread over n calls without a clock around each, the loop subtracted. All with their
defaults: what does not fit is left out (ours counts it: dropped rows a run).
"""

PICTURE = "p50_ns"

FIGURES = [
    Figure("n", "calls", compared=False),
    Figure("p50 ns", "p50_ns", aim=200),
    Figure("p99 ns", "p99_ns"),
    Figure("p99.9 ns", "p999_ns", aim=20_000),
    Figure("caller's CPU, ns", "cpu_ns", aim=250),
    Figure("dropped", "dropped", compared=False),
]

SETTLE_SECS = 1.0
WARM_CALLS = 2_000
PAID_SECS = 5.0


def names(bench: Bench) -> list[str]:
    return bench.names("ours", "tracker", "plain", "floor")


def run(bench: Bench, name: str, turn: int) -> dict[str, Any]:
    rate = bench.contenders[name].rate
    calls = sized(bench.sizes.calls, rate * PAID_SECS)
    warm = min(WARM_CALLS, calls)
    return bench.once(name, "call", calls=calls, warm=warm)


def measure(contender: Contender, driver: Driver, calls: int, warm: int) -> dict[str, Any]:
    """Each call with a clock around it, then as many without."""
    numbers = values(warm + calls)
    contender.load()
    log = contender.start()
    for step in range(warm):
        log(row(numbers, step), step)
    time.sleep(SETTLE_SECS)
    gc.collect()
    gc.disable()
    clock, cpu_clock = time.perf_counter_ns, time.thread_time_ns
    took = array("q", bytes(8 * calls))
    for at in range(calls):
        step = warm + at
        metrics = row(numbers, step)
        began = clock()
        log(metrics, step)
        took[at] = clock() - began
    time.sleep(SETTLE_SECS)
    rows = [row(numbers, at) for at in range(calls)]
    step = warm + calls
    began = cpu_clock()
    for _ in rows:
        step += 1
    loop = cpu_clock() - began
    began = cpu_clock()
    for metrics in rows:
        log(metrics, step)
        step += 1
    cpu = cpu_clock() - began
    contender.close()
    ordered = sorted(took)
    return {
        "calls": calls,
        "p50_ns": ordered[calls // 2],
        "p99_ns": ordered[calls * 99 // 100],
        "p999_ns": ordered[calls * 999 // 1000] if calls >= 1_000 else None,
        "cpu_ns": (cpu - loop) / calls,
        "dropped": contender.dropped(),
    }
