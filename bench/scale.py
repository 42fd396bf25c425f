"""Measures how the cost grows with ranks, history, names and runs; only ours.

    python bench/scale.py VENVS [--only ranks,…] [--all] [--output FILE] [--images FOLDER]

Anything above linear is a defect: the steepest piece of each curve is told below its table.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import bench as bench_module
import machine
import svg
import tree
from bench import Bench
from figures import Figure
from scaling import SCALES

NOISE = 2.0
"""A figure must grow at least so much between two points for its slope to be told."""

STEEP = 1.15
"""Above this exponent a curve is called steeper than linear."""

HEAD = """# Scale

Written by `just bench scale`{flag}, in {minutes:.0f} minutes.

- {machine}
- expman-mesh {version}

Each point is one measurement of a run that was made for it. The slope is the exponent between two
neighbours: 0 is flat, 1 is linear, more is a defect.
"""


def slope(module: ModuleType, figure: Figure, found: dict[int, dict[str, Any]]) -> str | None:
    """The steepest piece of a curve, where it grows at all."""
    steepest: tuple[float, int, int] | None = None
    points = [(x, y[figure.key]) for x, y in found.items() if (y.get(figure.key) or 0) > 0]
    for (x1, y1), (x2, y2) in zip(points, points[1:]):
        ratio = y1 / y2 if figure.more else y2 / y1
        if ratio >= NOISE:
            exponent = math.log(ratio) / math.log(x2 / x1)
            if steepest is None or exponent > steepest[0]:
                steepest = (exponent, x1, x2)
    if steepest is None:
        return None
    exponent, x1, x2 = steepest
    mark = "**" if exponent > STEEP else ""
    return f"{figure.heading.split(',')[0]} {mark}{exponent:.2f}{mark} ({x1:,} to {x2:,})"


def section(module: ModuleType, found: dict[int, dict[str, Any]], images: Path | None) -> str:
    """Text, table, slopes and pictures."""
    constants = {k.lower(): v for k, v in vars(module).items() if k.isupper()}
    constants["idle"] = constants.get("idle_secs")
    text = " ".join(module.TEXT.format(**constants).split()).replace(". ", ".\n")
    figures: list[Figure] = module.FIGURES
    lines = [
        f"| {module.X} | " + " | ".join(f.heading for f in figures) + " |",
        "|---:|" + "---:|" * len(figures),
    ]
    for x, values in found.items():
        if "failed" in values:
            cells = [f"failed: {values['failed']}"] + [""] * (len(figures) - 1)
        else:
            cells = [f.form.format(values[f.key]) if f.key in values else "-" for f in figures]
        lines.append(f"| {x:,} | " + " | ".join(cells) + " |")
    slopes = [told for f in figures if (told := slope(module, f, found))]
    parts = [f"## {module.TITLE}", text, "\n".join(lines)]
    parts.append("Steepest: " + ("; ".join(slopes) if slopes else "nothing doubles") + ".")
    if images is not None:
        parts += [pictured(module, each, found, images) for each in module.PICTURES]
    return "\n\n".join(parts)


def pictured(
    module: ModuleType,
    each: tuple[str, str, str, tuple[str, ...]],
    found: dict[int, dict[str, Any]],
    images: Path,
) -> str:
    """Draws some figures; the line that shows them."""
    name, title, unit, keys = each
    headings = {f.key: f.heading.replace("`", "").split(",")[0] for f in module.FIGURES}
    curves = [
        (headings[key], [(float(x), y[key]) for x, y in found.items() if key in y]) for key in keys
    ]
    images.mkdir(parents=True, exist_ok=True)
    (images / f"{name}.svg").write_text(svg.picture(title, module.X, unit, curves))
    return f"![{title}](images/{name}.svg)"


def measured(bench: Bench, module: ModuleType, value: int) -> dict[str, Any]:
    """One point of all curves."""
    try:
        done: dict[str, Any] = module.run(bench, value)
    except (tree.Failed, OSError, RuntimeError) as error:
        done = {"failed": " ".join(str(error).split())[-200:]}
        tree.clear()
    short = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in done.items()}
    bench.say(f"   {value:,}: {short}")
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("venvs", type=Path, help="folder of virtual environments")
    parser.add_argument("--only", metavar="SCALE,…", help=", ".join(SCALES))
    parser.add_argument("--all", action="store_true", help="also what takes long to write")
    parser.add_argument("--most", type=int, help="leave out what is beyond")
    parser.add_argument("--output", type=Path, help="Markdown to write; stdout when left out")
    parser.add_argument("--images", type=Path, help="folder for pictures")
    args = parser.parse_args()
    wanted = args.only.split(",") if args.only else list(SCALES)
    tree.adopt_orphans()
    began, load = time.time(), os.getloadavg()[0]
    parts = []
    with tempfile.TemporaryDirectory(dir=args.venvs.parent, prefix="runs-") as scratch:
        ours = ["expman-mesh", "empty call"]
        bench = Bench(args.venvs.resolve(), Path(scratch).resolve(), bench_module.Sizes(), ours)
        failed = False
        for name in wanted:
            module = importlib.import_module(f"scaling.{name}")
            bench.say(module.TITLE)
            values = module.VALUES + (module.MORE if args.all else [])
            values = [value for value in values if value <= (args.most or value)]
            found = {value: measured(bench, module, value) for value in values}
            failed |= any("failed" in each for each in found.values())
            parts.append(section(module, found, args.images))
            load = max(load, os.getloadavg()[0])
        head = HEAD.format(
            flag=" --all" if args.all else "",
            minutes=(time.time() - began) / 60,
            machine=machine.described(began, load),
            version=machine.version(
                bench.environment("expman-mesh") / "bin" / "python", "expman-mesh"
            ),
        )
    text = "\n\n".join([head.strip(), *parts]) + "\n"
    if args.output:
        args.output.write_text(text)
        bench.say(f"written: {args.output}")
    else:
        sys.stdout.write(text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
