"""Measures text: capturing output, searching it, folding alike lines.

    python bench/text.py PYTHON [--megabytes N] [--rounds N] [--output FILE]

PYTHON is an interpreter that has the package. What is captured is compared with `tee`, searching
with ripgrep where it is installed and else with grep, and folding with the measure of monarch's
aggregator, made again here from its description: each line is compared by edit distance with
each group there is, so its time grows with the square of the number of different lines.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import tree

TIMEOUT_SECS = 900.0
NEEDLE = "needle found"
PAIRWISE_LINES = 200
"""Different lines that the quadratic measure is given; more would only take longer."""

ALIKE = 0.5
"""Lines of which at most this share differs are one group there."""

HEAD = """# Text: capturing, searching, folding

Written by `just bench text --output docs/benchmarks-text.md`: {megabytes} MB of lines as training
writes them, median of {rounds} rounds, each beside what it is compared with, on two cores.
CPU is that of all processes, the run's owner included. Folding and searching are whole commands,
from their start to their end, reading included. The pairwise measure is monarch's, made again in
Python from its description.

"""

WRITES = r"""
import os, random, sys, time
kind, megabytes, folder, told = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
rng = random.Random(7)
lines = [
    f"step {n} loss={rng.random():.4f} lr=3e-4 tokens/s={rng.randrange(10**5)} "
    f"grad_norm={rng.random() * 3:.3f}\n".encode()
    for n in range(100_000)
]
lines[17] = b"needle found here\n"
block = b"".join(lines)
exp = None
if kind == "capture":
    import monarch_like as ml
    exp = ml.init("bench", base_dir=folder, redirect_console=True)
start = time.monotonic()
left = megabytes * 10**6
while left > 0:
    for at in range(0, len(block), 1 << 16):
        left -= os.write(1, block[at:at + (1 << 16)])
        if left <= 0:
            break
os.write(1, b"\n")
dropped = 0
if exp is not None:
    exp.close(timeout=600)
    dropped = sum(exp.stats()["dropped"].values())
secs = time.monotonic() - start
with open(told, "w") as file:
    file.write(f"{secs} {dropped}")
"""


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's, by the usual table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def pairwise(lines: Iterable[str]) -> int:
    """The number of groups by pairwise edit distance."""
    groups: list[str] = []
    for line in lines:
        if not any(edit_distance(line, g) <= ALIKE * max(len(line), len(g)) for g in groups):
            groups.append(line)
    return len(groups)


def random_lines(n: int) -> list[str]:
    """Lines that have nothing in common."""
    rng = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [" ".join("".join(rng.choices(letters, k=6)) for _ in range(10)) for _ in range(n)]


class Bench:
    """Measures in a folder of its own."""

    def __init__(self, python: str, folder: Path, megabytes: int, rounds: int) -> None:
        self.python, self.folder = python, folder
        self.megabytes, self.rounds = megabytes, rounds
        self.expman = str(Path(python).with_name("expman"))
        if not Path(self.expman).exists():
            self.expman = shutil.which("expman") or self.expman

    def write(self, kind: str, turn: int) -> tuple[float, float, int, Path]:
        """MB/s, CPU seconds per GB, lines left out, and the text that it made."""
        folder = self.folder / f"{kind}-{turn}"
        folder.mkdir()
        told = folder / "told"
        program = f"'{self.python}' -c \"$0\" {kind} {self.megabytes} '{folder}' '{told}'"
        end = f"| tee '{folder}/tee.log' > /dev/null" if kind == "tee" else "> /dev/null"
        cost = tree.run(["sh", "-c", f"{program} {end}", WRITES], TIMEOUT_SECS)
        secs, dropped = told.read_text().split()
        text = next(folder.glob("bench/*/run.yaml"), folder / "tee.log")
        speed = self.megabytes / float(secs)
        return speed, cost.cpu_secs / self.megabytes * 1000, int(dropped), text

    def seconds(self, *command: str) -> float:
        """The shortest time of a command; its output is read: grep stops early where it is not."""

        def once() -> float:
            start = time.monotonic()
            tree.run(["sh", "-c", '"$0" "$@" | tail -c 1', *command], TIMEOUT_SECS)
            return time.monotonic() - start

        return min(once() for _ in range(self.rounds))

    def table(self) -> str:
        """All of it, as Markdown."""
        rows: list[tuple[str, str, str]] = []
        made = {
            kind: [self.write(kind, turn) for turn in range(self.rounds)]
            for kind in ("capture", "tee")
        }
        for kind, name in ("capture", "capture into the run"), ("tee", "pipe to `tee FILE`"):
            speeds = statistics.median(done[0] for done in made[kind])
            cpu = statistics.median(done[1] for done in made[kind])
            lost = sum(done[2] for done in made[kind])
            rows.append((name, f"{speeds:.0f} MB/s", f"{cpu:.2f} CPU s/GB, {lost} left out"))
        run = made["capture"][0][3].parent
        if list(run.glob("console-*")):
            raise SystemExit(
                "so much text is rolled, which grep can't read: take fewer --megabytes"
            )
        size = (run / "console.log").stat().st_size / 1e6
        finder = next(filter(shutil.which, ("rg", "grep")), "grep")
        own = self.seconds(self.expman, "logs", str(run), "--grep", NEEDLE)
        other = self.seconds(finder, "-a", NEEDLE, str(run / "console.log"))
        rows.append(("`expman logs --grep`", f"{size / own:.0f} MB/s", "a rare word"))
        rows.append((f"`{finder} -a`", f"{size / other:.0f} MB/s", "the same word and file"))
        lines = (run / "console.log").read_bytes().count(b"\n")
        folded = self.seconds(self.expman, "logs", str(run), "--aggregate")
        rows.append(("`expman logs --aggregate`", f"{lines / folded:,.0f} lines/s", f"{lines:,}"))
        text = (run / "console.log").read_bytes()[: 1 << 20].splitlines()[:PAIRWISE_LINES]
        same = [line.decode().split("] ", 2)[-1] for line in text]
        rows.append(self.pairwise("of the same", same))
        rows.append(self.pairwise("random", random_lines(PAIRWISE_LINES)))
        head = "| | | |\n|---|---:|---|\n"
        return head + "".join(f"| {a} | {b} | {c} |\n" for a, b, c in rows)

    def pairwise(self, what: str, lines: list[str]) -> tuple[str, str, str]:
        """The quadratic measure."""
        start = time.monotonic()
        groups = pairwise(lines)
        speed = len(lines) / (time.monotonic() - start)
        told = f"{len(lines)} {what} lines, {groups} groups; in Python"
        return "pairwise edit distance", f"{speed:,.0f} lines/s", told


def main() -> None:
    """Measures and tells."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    tree.adopt_orphans()
    with tempfile.TemporaryDirectory() as folder:
        table = Bench(args.python, Path(folder), args.megabytes, args.rounds).table()
    if args.output:
        args.output.write_text(HEAD.format(megabytes=args.megabytes, rounds=args.rounds) + table)
    else:
        sys.stdout.write(table)


if __name__ == "__main__":
    main()
