"""What docs/benchmarks.md says: the aims first, then a table for each workload."""

from __future__ import annotations

import inspect
import re
import statistics
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import data
import figures
import machine
from bench import Bench
from figures import Figure, Results
from workloads import barrier, place
from workloads import call as _call
from workloads import idle as _idle

HEAD = """# Benchmarks

Written by `just bench`, which installs everybody, measures everything below again on your machine, and
took {minutes:.0f} minutes here. `just bench quick` is a developer's minute.

- {machine}
- {versions}
- medians of {rounds} interleaved rounds, in which everybody has a turn, in turning order; in brackets
  the smallest and the largest. Who stores fewer than 10,000 rows a second has fewer rows, and one round
  only where that takes long. The values are those of `random.Random({seed})`.
- {aside}

Elsewhere: [the cost against ranks, history, names and runs](benchmarks-scale.md) (`just bench scale`),
[the page beside TensorBoard and trackio](benchmarks-view.md) (`just bench view`),
[captured text](benchmarks-text.md) (`just bench text`), what a kill costs in
[what you can rely on](guarantees.md).
"""


@dataclass
class Section:
    """What was measured in one workload."""

    name: str
    module: ModuleType
    results: Results = field(default_factory=list)
    secs: float = 0.0

    @property
    def columns(self) -> list[Figure]:
        """Those that anybody has a figure for."""
        every: list[Figure] = self.module.FIGURES
        return [f for f in every if any(r.get(f.key) is not None for r in self.results)]

    def text(self, bench: Bench) -> str:
        """The section as Markdown."""
        sizes = {**vars(bench.sizes), "wide": 1_000, **_constants()}
        sizes["secs"] = bench.sizes.idle_secs if self.name == "idle" else bench.sizes.paced_secs
        sizes["settle"] = _idle.SETTLE_SECS if self.name == "idle" else place.SETTLE_SECS
        if self.name == "ranks":
            sizes["rows"] = bench.sizes.rank_rows
        said = " ".join(self.module.TEXT.format(**sizes, calls_=0).split())
        said = re.sub(r"(?<=[.]) (?=[A-Z`])", "\n", said)
        labelled = [{**r, "contender": r.get("label", r["contender"])} for r in self.results]
        parts = [
            f"## {self.module.TITLE}",
            said,
            figures.table(labelled, self.columns),
            figures.ratios(self.results, self.columns),
            f"It took {self.secs:.0f} s.",
        ]
        return "\n\n".join(part for part in parts if part)


def _constants() -> dict[str, Any]:
    return {
        "load4": barrier.LOAD_HZ[4],
        "load64": barrier.LOAD_HZ[64],
        "warm": _call.WARM_CALLS,
    }


def aims(sections: list[Section]) -> str:
    """Every figure that has an aim, ours beside it and the best of the others."""
    lines = [
        "| what | ours | aim | met | best tracker | best by hand | floor |",
        "|---|---:|---:|---|---:|---:|---:|",
    ]
    for section in sections:
        ours = figures.names([r for r in section.results if r["kind"] == "ours"])
        for figure in section.columns:
            if len(ours) != 1 or (figure.aim is None and figure.times is None):
                continue
            values = figures.found(section.results, ours[0], figure.key)
            if not values:
                continue
            middle = statistics.median(values.values())
            others = [_rival(section.results, figure, kind) for kind in figures.KINDS]
            if figure.aim is not None:
                sign = "≥" if figure.more else "≤"
                aim = f"{sign} {figure.form.format(figure.aim)}"
                met = middle >= figure.aim if figure.more else middle <= figure.aim
            else:
                aim = f"≤ {figure.times:g} × floor"
                floor = figures.best(section.results, figure, "floor")
                shares = figures.ratio(section.results, figure, floor) if floor else []
                met = bool(shares) and statistics.median(shares) <= (figure.times or 0)
            cells = [
                f"{section.module.TITLE}: {figure.heading}",
                figure.form.format(middle),
                aim,
                "yes" if met else "**no**",
                *others,
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "## Aims\n\n" + "\n".join(lines) if len(lines) > 2 else ""


def _rival(results: Results, figure: Figure, kind: str) -> str:
    """The best of a kind, and its figure."""
    if not figure.compared or (name := figures.best(results, figure, kind)) is None:
        return ""
    values = figures.found(results, name, figure.key)
    return f"{figure.form.format(statistics.median(values.values()))} ({name})"


def contenders(bench: Bench) -> str:
    """Who was compared, and how each was used."""
    lines = []
    for name, each in bench.contenders.items():
        said = " ".join(inspect.cleandoc(each.__doc__ or "").split())
        lines.append(f"- **{name}**: {said}")
    return "## What was compared\n\n" + "\n".join(lines)


def markdown(
    bench: Bench, sections: list[Section], rounds: int, secs: float, began: float, load: float
) -> str:
    """All of it."""
    known = []
    for name, each in bench.contenders.items():
        if each.package is not None:
            version = machine.version(bench.environment(name) / "bin" / "python", each.package)
            known.append(f"{each.package} {version}")
    aside = [f"not installed here: {', '.join(bench.missing)}"] if bench.missing else []
    failed = {
        f"{r['contender']} in {s.module.TITLE}"
        for s in sections
        for r in s.results
        if "failed" in r
    }
    aside += [f"failed: {', '.join(sorted(failed))}"] if failed else []
    head = HEAD.format(
        minutes=secs / 60,
        machine=machine.described(began, load),
        versions=", ".join(known),
        rounds=rounds,
        seed=data.SEED,
        aside="; ".join(aside) or "everybody could be installed and measured",
    )
    parts = [head.strip(), aims(sections), *(s.text(bench) for s in sections), contenders(bench)]
    return "\n\n".join(part for part in parts if part) + "\n"
