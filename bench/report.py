"""What docs/benchmarks.md says: the tables, put into template.md."""

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

TEMPLATE = Path(__file__).with_name("template.md")


def markdown(
    results: list[dict[str, Any]], rounds: int, calls: int, rows: int, began: float, load: float
) -> str:
    call = [r for r in results if r["workload"] == "call"]
    table = [r for r in results if r["workload"] == "rows"]
    return TEMPLATE.read_text().format(
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
            cells.append(f"{middle} ({low} to {high})" if len(found) > 1 else middle)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratios(results: list[dict[str, Any]], figures: list[Figure]) -> str:
    """Ours against the rival, round by round, then the median."""
    lines = [f"Against {RIVAL}, round by round:", ""]
    for figure in figures:
        pairs = zip(_values(results, OURS, figure.key), _values(results, RIVAL, figure.key))
        ratios = [ours / theirs for ours, theirs in pairs]
        spread = f", {min(ratios):.2f} to {max(ratios):.2f}" if len(ratios) > 1 else ""
        better = "more" if figure.more_is_better else "less"
        middle = statistics.median(ratios)
        lines.append(f"- {figure.heading}: **{middle:.2f}** times ({better} is better{spread})")
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
