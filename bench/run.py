"""Measures what a log call costs and how fast rows become a file, against two others.

    python bench/run.py VENVS [quick] [--rounds N] [--rows N] [--output FILE]

Rounds are interleaved: every contender has its turn in each, in turning order, so that a
machine which gets slower or faster meanwhile is so for all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import report
import tree
from contenders import CONTENDERS

HERE = Path(__file__).resolve().parent
CALLS = 20_000
TIMEOUT_SECS = 600.0
SETTLE_SECS = 0.5


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


class Bench:
    """Runs workers and keeps what they measured."""

    def __init__(self, venvs: Path, scratch: Path) -> None:
        self.venvs = venvs
        self.scratch = scratch
        self.results: list[dict[str, Any]] = []

    def worker(self, name: str, folder: Path, workload: str, count: int) -> tree.Cost:
        python = self.venvs / name.replace(" ", "-") / "bin" / "python"
        if not CONTENDERS[name].stores:
            python = self.venvs / "expman-mesh" / "bin" / "python"
        command = [python, HERE / "worker.py", name, folder, workload, count]
        return tree.run([str(word) for word in command], TIMEOUT_SECS)

    def call(self, name: str, turn: int) -> None:
        folder = self._folder()
        cost = self.worker(name, folder, "call", CALLS)
        self._keep("call", name, turn, json.loads(cost.out))
        shutil.rmtree(folder)

    def rows(self, name: str, turn: int, count: int) -> None:
        folder = self._folder()
        cost = self.worker(name, folder, "rows", count)
        done = json.loads(cost.out)
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        done.update(json.loads(self.worker(name, folder, "read", count).out))
        shutil.rmtree(folder)
        empty_folder = self._folder()
        empty = self.worker(name, empty_folder, "rows", 0)
        shutil.rmtree(empty_folder)
        if done["rows"] != count or not done["exact"] or done["dropped"]:
            raise tree.Failed(f"{name} kept {done['rows']} of {count} rows: {done}")
        done.update(
            rows_per_sec=count / done["seconds"],
            cpu_us_per_row=(cost.cpu_secs - empty.cpu_secs) / count * 1e6,
            start_cpu_ms=empty.cpu_secs * 1e3,
            peak_rss_mib=cost.peak_rss_bytes / 2**20,
            bytes_per_row=size / count,
        )
        self._keep("rows", name, turn, done)

    def _folder(self) -> Path:
        """A new one, on a disk that has nothing left to do for whoever was measured before."""
        os.sync()
        time.sleep(SETTLE_SECS)
        return Path(tempfile.mkdtemp(dir=self.scratch))

    def _keep(self, workload: str, name: str, turn: int, done: dict[str, Any]) -> None:
        self.results.append({"workload": workload, "contender": name, "round": turn, **done})
        short = {k: round(v, 2) if isinstance(v, float) else v for k, v in done.items()}
        say(f"   {name}: {short}")


def turned(names: list[str], turn: int) -> list[str]:
    at = turn % len(names)
    return names[at:] + names[:at]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("venvs", type=Path, help="folder with a virtual environment of each")
    parser.add_argument("mode", nargs="?", choices=["full", "quick"], default="full")
    parser.add_argument("--rounds", type=int, help="3 unless quick, then 1")
    parser.add_argument("--rows", type=int, help="200,000 unless quick, then 20,000")
    parser.add_argument("--output", type=Path, help="Markdown to write; stdout when left out")
    args = parser.parse_args()
    quick = args.mode == "quick"
    args.rounds = args.rounds or (1 if quick else 3)
    args.rows = args.rows or (20_000 if quick else 200_000)
    return args


def main() -> None:
    args = arguments()
    tree.adopt_orphans()
    args.venvs.mkdir(parents=True, exist_ok=True)
    loads = [os.getloadavg()[0]]
    began = time.time()
    with tempfile.TemporaryDirectory(dir=args.venvs.parent, prefix="runs-") as scratch:
        bench = Bench(args.venvs.resolve(), Path(scratch))
        storing = [name for name, c in CONTENDERS.items() if c.stores]
        for turn in range(args.rounds):
            say(f"round {turn + 1} of {args.rounds}: {CALLS:,} calls")
            for name in turned(list(CONTENDERS), turn):
                bench.call(name, turn)
            say(f"round {turn + 1} of {args.rounds}: {args.rows:,} rows")
            for name in turned(storing, turn):
                bench.rows(name, turn, args.rows)
            loads.append(os.getloadavg()[0])
    text = report.markdown(bench.results, args.rounds, CALLS, args.rows, began, max(loads))
    if args.output:
        args.output.write_text(text)
        say(f"written: {args.output}")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    try:
        main()
    except tree.Failed as error:
        sys.exit(f"error: {error}")
