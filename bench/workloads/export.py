"""A run's metrics as a file for other programs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tree
from figures import Figure

if TYPE_CHECKING:
    from bench import Bench

TITLE = "Export"

TEXT = """
`expman export` of a closed run of five metrics, one row a call, to CSV and to Parquet: points a
second from the start of the command to its end, and the most memory it had. Beside it `exp export`
of expman-rs (to CSV; its own file is Parquet), of its own run of as many points, where its program
runs (it is built from its crate: the one in its wheel needs a newer glibc than Debian 12 has).
"""

LENGTHS = (1_000_000, 10_000_000)
FORMATS = ("csv", "parquet")
KEYS = 5

FIGURES = [
    *(
        Figure(
            f"{n:,} to {form}, points/s",
            f"{form}_{n}",
            more=True,
            aim=5_000_000 if form == "csv" else None,
        )
        for n in LENGTHS
        for form in FORMATS
    ),
    *(Figure(f"peak MB of {n:,}", f"rss_mb_{n}") for n in LENGTHS),
]

TIMEOUT_SECS = 300.0


def names(bench: Bench) -> list[str]:
    both = ["expman-mesh"]
    if bench.exp is not None and "expman-rs 1.3.0" in bench.names("tracker"):
        both.append("expman-rs 1.3.0")
    return both


def run(bench: Bench, name: str, turn: int) -> dict[str, Any]:
    ours = bench.contenders[name].kind == "ours"
    done: dict[str, Any] = {}
    for length in LENGTHS:
        if length > (bench.sizes.points if ours else LENGTHS[0]):
            continue
        base = bench.long_run(name, length, KEYS)
        for form in FORMATS if ours else FORMATS[:1]:
            with bench.folder(name) as folder:
                target = folder / f"out.{form}"
                command = exported(bench, name, base / "bench" / "run", target, form)
                began = time.perf_counter()
                cost = tree.run(command, TIMEOUT_SECS)
                secs = time.perf_counter() - began
                if target.stat().st_size < length:
                    raise tree.Failed(f"{form}: {target.stat().st_size} bytes of {length} points")
            done[f"{form}_{length}"] = length / secs
            peak = f"rss_mb_{length}"
            done[peak] = max(done.get(peak, 0.0), cost.peak_rss_bytes / 1e6)
    return done


def exported(bench: Bench, name: str, run: Path, target: Path, form: str) -> list[str]:
    """The command of each."""
    if bench.contenders[name].kind == "ours":
        return [bench.expman, "export", str(run), "-o", str(target), "--format", form]
    return [str(bench.exp), "export", str(run), "-o", str(target), "--format", form]
