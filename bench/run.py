"""Measures this project beside the others.

    python bench/run.py VENVS [quick] [--only WORKLOAD,…] [--peers NAME,…] [--rounds N] [--all]
                        [--exp FILE] [--output FILE]
    python bench/run.py VENVS … --environments

Rounds are interleaved: everybody has a turn in each, in turning order, so that a machine which
gets slower or faster meanwhile is so for all of them. Names may be shortened.
Ctrl-C ends the measuring; the report then says how many rounds there were.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bench as bench_module
import contenders
import report
import tree
import workloads
from bench import Bench
from report import Section


def turned(names: list[str], turn: int) -> list[str]:
    at = turn % max(len(names), 1)
    return names[at:] + names[:at]


def chosen(text: str | None, known: list[str], default: list[str]) -> list[str]:
    """The names that a list of beginnings means."""
    if text is None:
        return default
    found = []
    for word in text.split(","):
        meant = [name for name in known if name.startswith(word.strip())]
        if not meant:
            raise SystemExit(f"error: {word!r} is none of: {', '.join(known)}")
        found += [name for name in meant if name not in found]
    return found


def measured(bench: Bench, section: Section, name: str, turn: int) -> None:
    """One turn of one contender; what it could not do is kept, too."""
    known = bench.contenders.get(name)
    facts = {"round": turn, "contender": name, "kind": known.kind if known else "plain"}
    try:
        done = section.module.run(bench, name, turn)
    except (tree.Failed, OSError, RuntimeError) as error:
        done = {"failed": " ".join(str(error).split())[-200:]}
        tree.clear()
    for each in done if isinstance(done, list) else [done] if done else []:
        order = list(bench.contenders).index(name) if known else len(section.results)
        section.results.append({"order": order, **facts, **each})
        short = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in each.items()}
        bench.say(f"   {each.get('contender', name)}: {short}")


def rounds(bench: Bench, sections: list[Section], count: int, loads: list[float]) -> None:
    for turn in range(count):
        for section in sections:
            bench.say(f"round {turn + 1} of {count}: {section.module.TITLE}")
            since = time.monotonic()
            for name in turned(section.module.names(bench), turn):
                measured(bench, section, name, turn)
            section.rounds += 1
            section.secs += time.monotonic() - since
            loads.append(os.getloadavg()[0])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("venvs", type=Path, help="folder of virtual environments")
    parser.add_argument("mode", nargs="?", choices=["full", "quick"], default="full")
    parser.add_argument("--only", metavar="WORKLOAD,…", help=", ".join(workloads.WORKLOADS))
    parser.add_argument("--peers", metavar="NAME,…", help=", ".join(contenders.CONTENDERS))
    parser.add_argument("--rounds", type=int, help="3 unless quick, then 1")
    parser.add_argument("--all", action="store_true", help="growth up to 10^8 points: an hour")
    parser.add_argument("--exp", type=Path, help="expman-rs's program, built from its crate")
    parser.add_argument("--output", type=Path, help="Markdown to write; stdout when left out")
    parser.add_argument("--images", type=Path, help="folder for pictures")
    parser.add_argument("--environments", action="store_true", help="tell what is installed where")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.mode == "quick" else 3)
    return args


def environments(peers: list[str], sections: list[Section]) -> dict[str, tuple[str, ...]]:
    """What is installed where for these, but for our own wheel."""
    found: dict[str, tuple[str, ...]] = {}
    for name in peers:
        each = contenders.CONTENDERS[name]
        if each.requirements:
            found.setdefault(each.environment, each.requirements)
    for section in sections:
        found.update(getattr(section.module, "ENVIRONMENTS", {}))
    return found


def sections_of(args: argparse.Namespace) -> list[Section]:
    quick = args.mode == "quick"
    every = list(workloads.WORKLOADS)
    names = chosen(args.only, every, list(workloads.QUICK) if quick else every)
    return [Section(name, importlib.import_module(f"workloads.{name}")) for name in names]


def main() -> int:
    args = arguments()
    quick = args.mode == "quick"
    every = list(contenders.CONTENDERS)
    peers = chosen(args.peers, every, list(contenders.QUICK) if quick else every)
    wanted = [name for name in every if name in peers or name in contenders.NEEDED]
    sections = sections_of(args)
    if args.environments:
        for name, packages in environments(wanted, sections).items():
            sys.stdout.write(f"{name} {' '.join(packages)}\n")
        return 0
    sizes = bench_module.QUICK if quick else bench_module.EVERYTHING if args.all else None
    tree.adopt_orphans()
    loads, began = [os.getloadavg()[0]], time.time()
    with tempfile.TemporaryDirectory(dir=args.venvs.parent, prefix="runs-") as scratch:
        bench = Bench(
            args.venvs.resolve(), Path(scratch).resolve(), sizes or bench_module.Sizes(), wanted
        )
        bench.exp = args.exp.resolve() if args.exp and args.exp.is_file() else None
        # Also where a shell has its children ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            rounds(bench, sections, args.rounds, loads)
        except KeyboardInterrupt:
            tree.clear()
            bench.say("ended early: the report has what was measured until now")
        secs = time.time() - began
        text = report.markdown(bench, sections, secs, began, max(loads), args.images)
    if args.output:
        args.output.write_text(text)
        bench.say(f"written: {args.output}")
    else:
        sys.stdout.write(text)
    return 1 if failures(sections) else 0


def failures(sections: list[Section]) -> list[Any]:
    """What ours could not do."""
    return [r for s in sections for r in s.results if r["kind"] == "ours" and "failed" in r]


if __name__ == "__main__":
    sys.exit(main())
