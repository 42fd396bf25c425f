"""Whether storing takes longer the more a run holds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import tree
from data import KEYS, ROWS_MAX, row, values
from figures import Figure

if TYPE_CHECKING:
    from bench import Bench
    from contenders import Contender
    from worker import Driver

TITLE = "Growth"

TEXT = """
How long it takes until a chunk of rows of five floats is stored when the run holds so many points
already: logged, and `flush().wait()` or the like. Who has no such call is stored when its threads
use no CPU any more. Chunks have 20,000 rows, 5,000 for slow loggers. The last column is the
greatest of the row's figures as a multiple of the first. [Scale](benchmarks-scale.md) goes further.
"""

DEPTHS = (0, 100_000, 1_000_000, 10_000_000, 100_000_000)

FIGURES = [
    Figure("rows", "rows", compared=False),
    *(Figure(f"at {depth:,}, ms", f"ms_{depth}") for depth in DEPTHS),
    Figure("growth", "growth", "{:.2f}", compared=False, aim=1.2),
]

TAKES_PART = (
    "expman-mesh",
    "expman-rs 1.3.0",
    "expman-rs 0.5.3",
    "trackio",
    "pyarrow loop",
    "sqlite3",
    "jsonl",
)


def names(bench: Bench) -> list[str]:
    return [name for name in bench.names("ours", "tracker", "plain") if name in TAKES_PART]


def run(bench: Bench, name: str, turn: int) -> dict[str, Any] | None:
    if bench.spares(name, turn):
        return None
    rate = bench.contenders[name].rate
    rows = 20_000 if rate > 10_000 else 5_000
    deepest = bench.sizes.depth if bench.contenders[name].kind == "ours" else 1_000_000
    affordable = rate * len(KEYS) * 12 if rate > 10_000 else 100_000
    depths = [d for d in DEPTHS if d <= min(deepest, affordable)]
    with (
        bench.folder(name) as folder,
        bench.worker(name, folder, "growth", rows=rows, depths=depths, wait=True) as worker,
    ):
        done = worker.done()
        tree.left_behind()
    times = list(done.values())
    return {"rows": rows, **done, "growth": max(times) / times[0]}


def measure(contender: Contender, driver: Driver, rows: int, depths: list[int]) -> dict[str, Any]:
    """Fills up to each depth, then takes the time of a chunk."""
    numbers = values(ROWS_MAX)
    contender.load()
    log = contender.start()
    done, step = {}, 0
    for depth in depths:
        while step * len(KEYS) < depth:
            log(row(numbers, step), step)
            step += 1
        contender.stored()
        began = time.perf_counter()
        for _ in range(rows):
            log(row(numbers, step), step)
            step += 1
        done[f"ms_{depth}"] = (contender.stored() - began) * 1e3
    contender.close()
    return done
