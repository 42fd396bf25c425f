"""The tables in docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

OURS, RIVAL = "expman-mesh", "expman-rs"


class Figure(NamedTuple):
    """A column: its heading, its key in a result, how it is written, and which way is better."""

    heading: str
    key: str
    form: str
    more_is_better: bool = False


CALL = [
    Figure("p50 ns", "p50_ns", "{:,.0f}"),
    Figure("p99 ns", "p99_ns", "{:,.0f}"),
    Figure("caller's CPU, ns", "caller_cpu_ns", "{:,.0f}"),
]
ROWS = [
    Figure("rows/s", "rows_per_sec", "{:,.0f}", more_is_better=True),
    Figure("CPU µs/row", "cpu_us_per_row", "{:.2f}"),
    Figure("peak RSS, MiB", "peak_rss_mib", "{:,.0f}"),
    Figure("bytes/row", "bytes_per_row", "{:.1f}"),
    Figure("close, s", "close_seconds", "{:.2f}"),
    Figure("CPU ms of an empty run", "start_cpu_ms", "{:,.0f}"),
]

HEAD = """\
# Benchmarks

Written by `just bench`, which measures everything below again on your machine.
Medians of {rounds} interleaved rounds; in brackets the smallest and the largest.

{machine}

## One log call

Five floats and a step in a tight loop of {calls:,} calls after {warm} warm ones and a pause.
The dict is made outside of what is timed; the empty call shows what the clock and the loop cost.
The caller's CPU is that of its thread over as many calls without a clock around each.

{call}

{call_ratio}

## Rows until closed and readable

{rows:,} rows of five floats and a step, as fast as they are taken, then `close`.
The time runs from the first call to the return of `close`.
Each file is then read in a fresh process with pyarrow, and every value is compared with what was logged.
CPU is that of the whole process tree, the owner process included, less that of a run without rows.
Memory is the largest sum of the resident memory of all processes; pages that two of them share count twice.
Bytes are those of all files of the run.

{table}

{row_ratio}

## What was compared

- **expman-mesh**: `redirect_console=False`, and `on_full="block"`, because a loop without training in it is faster than any disk: the default, `"drop"`, would count what does not fit instead of waiting.
  No row was dropped: the benchmark fails otherwise.
  Its rows are in the commit log, and safe from a kill of any process, within 200 ms of the call.
- **expman-rs** from PyPI: `redirect_console=False`, system metrics and provenance off, defaults otherwise.
- **pyarrow loop**: lists in Python, one row group of a zstd Parquet file every 5,000 rows; a kill before `close` leaves no readable file.
"""


def markdown(
    results: list[dict[str, Any]], rounds: int, calls: int, rows: int, began: float, load: float
) -> str:
    call = [r for r in results if r["workload"] == "call"]
    table = [r for r in results if r["workload"] == "rows"]
    return HEAD.format(
        rounds=rounds,
        calls=calls,
        warm="2,000",
        rows=rows,
        machine=_machine(table, began, load),
        call=_table(call, CALL),
        call_ratio=_ratios(call, CALL),
        table=_table(table, ROWS),
        row_ratio=_ratios(table, ROWS),
    )


def _names(results: list[dict[str, Any]]) -> list[str]:
    return sorted({r["contender"] for r in results}, key=lambda n: (n != OURS, n != RIVAL, n))


def _values(results: list[dict[str, Any]], name: str, key: str) -> list[float]:
    return [r[key] for r in results if r["contender"] == name]


def _table(results: list[dict[str, Any]], figures: list[Figure]) -> str:
    lines = [
        "| | " + " | ".join(f.heading for f in figures) + " |",
        "|---|" + "---:|" * len(figures),
    ]
    for name in _names(results):
        cells = []
        for figure in figures:
            found = _values(results, name, figure.key)
            middle, low, high = (
                figure.form.format(x) for x in (statistics.median(found), min(found), max(found))
            )
            cells.append(f"{middle} ({low}–{high})" if len(found) > 1 else middle)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratios(results: list[dict[str, Any]], figures: list[Figure]) -> str:
    """Ours against the rival, round by round, then the median."""
    lines = [f"Against {RIVAL}, median of the ratios of each round:", ""]
    for figure in figures:
        pairs = zip(_values(results, OURS, figure.key), _values(results, RIVAL, figure.key))
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        better = "more" if figure.more_is_better else "less"
        lines.append(f"- {figure.heading}: **{ratio:.2f}×** ({better} is better)")
    return "\n".join(lines)


def _machine(results: list[dict[str, Any]], began: float, load: float) -> str:
    versions = {r["contender"]: r["version"] for r in results}
    python = sorted({r["python"] for r in results})
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return "\n".join(
        [
            f"- {time.strftime('%Y-%m-%d', time.gmtime(began))}, Linux {platform.release()}, "
            f"{_cpu()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
            f"load at most {load:.1f} meanwhile",
            f"- Python {', '.join(python)}; "
            + ", ".join(f"{n} {v}" for n, v in versions.items() if n != "pyarrow loop")
            + f", pyarrow {versions.get('pyarrow loop', '')}",
        ]
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
