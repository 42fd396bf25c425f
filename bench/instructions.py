"""Counts the instructions of the inner loops under valgrind, and compares them with bounds.

    python bench/instructions.py PROGRAM [--write] [NAME ...]

PROGRAM is the built `instructions` of bench/micro. Each piece of work is run twice, with different
numbers of repetitions: the difference is that of the repetitions alone, whatever else the machine
does meanwhile. A count above its bound by more than the margin fails; `--write` takes the counts
as the new bounds.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

BOUNDS = Path(__file__).with_name("instructions.json")
MARGIN = 0.05
REPEATS = (1, 4)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def counted(program: str, name: str, times: int) -> int:
    """Instructions of a whole run of the program."""
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no"]
    done = subprocess.run(
        [*valgrind, "--cachegrind-out-file=/dev/null", program, name, str(times)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if found is None:
        sys.exit(f"error: valgrind said no count of {name}:\n{done.stderr}")
    return int(found[1].replace(",", ""))


def each(program: str, name: str, of: int) -> float:
    """Instructions of one of the things that a repetition is the work of."""
    few, many = (counted(program, name, times) for times in REPEATS)
    return (many - few) / (REPEATS[1] - REPEATS[0]) / of


def built_by() -> str:
    """What counts depend on besides the code: the compiler, and for which processor libc copies."""
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.strip()
    info = dict(
        (part.strip() for part in line.split(":", 1))
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if ":" in line
    )
    flags = {"avx2", "bmi2", "erms", "fsrm", "sse4_2"} & set(info.get("flags", "").split())
    return f"{rustc}, {info.get('vendor_id', 'unknown')} {' '.join(sorted(flags))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("names", nargs="*", help="pieces of work; all when left out")
    parser.add_argument("--write", action="store_true", help="take the counts as the new bounds")
    args = parser.parse_intermixed_args()
    listed = subprocess.run([args.program], capture_output=True, text=True, check=True).stdout
    pieces = [line.split("\t") for line in listed.splitlines()]
    known = json.loads(BOUNDS.read_text()) if BOUNDS.exists() else {"counts": {}}
    counts: dict[str, float] = dict(known["counts"])
    dearer = []
    for name, of, what in pieces:
        if args.names and name not in args.names:
            continue
        found = each(args.program, name, int(of))
        bound = counts.get(name)
        change = f"{found / bound - 1:+7.1%}" if bound else "    new"
        say(f"{name:8} {found:12,.1f} {change}  {what}")
        if bound and found > bound * (1 + MARGIN):
            dearer.append(name)
        if args.write:
            counts[name] = round(found, 1)
    if args.write:
        BOUNDS.write_text(json.dumps({"built_by": built_by(), "counts": counts}, indent=4) + "\n")
        return
    if dearer and known.get("built_by") != built_by():
        say(f"not compared: the bounds are of {known.get('built_by')}, this is {built_by()}")
    elif dearer:
        sys.exit(f"error: dearer by more than {MARGIN:.0%}: {', '.join(dearer)}")


if __name__ == "__main__":
    main()
