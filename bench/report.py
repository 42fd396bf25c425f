"""What docs/benchmarks.md says: the aims first, then a table for each workload."""

from __future__ import annotations

import inspect
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import data
import figures
import machine
import svg
from bench import Bench
from figures import Figure, Results
from workloads import barrier, place
from workloads import call as _call
from workloads import idle as _idle

HEAD = """# Benchmarks

Written by `just bench`, which installs everybody, measures everything below again on your machine,
and took {minutes:.0f} minutes here; `just bench quick` is a developer's minute.

- {machine}
- {versions}
- {rounds}, in which everybody has a turn, in turning order;
  medians, and in brackets the smallest and the largest
- who stores fewer than 10,000 rows a second is given fewer, and one round where that takes long
- the values are those of `random.Random({seed})`
- {aside}

Elsewhere: [against ranks, history, names and runs](benchmarks-scale.md) (`just bench scale`),
[the page beside TensorBoard and trackio](benchmarks-view.md) (`just bench view`),
[captured text](benchmarks-text.md) (`just bench text`).
"""


@dataclass
class Section:
    """What was measured in one workload."""

    name: str
    module: ModuleType
    results: Results = field(default_factory=list)
    rounds: int = 0
    """Whole ones, in which everybody had a turn."""
    secs: float = 0.0

    @property
    def columns(self) -> list[Figure]:
        """Those that anybody has a figure for."""
        every: list[Figure] = self.module.FIGURES
        return [f for f in every if any(r.get(f.key) is not None for r in self.results)]

    def text(self, bench: Bench, images: Path | None) -> str:
        """The section as Markdown."""
        sizes = {**vars(bench.sizes), "wide": 1_000, **_constants()}
        sizes["secs"] = bench.sizes.idle_secs if self.name == "idle" else bench.sizes.paced_secs
        sizes["settle"] = _idle.SETTLE_SECS if self.name == "idle" else place.SETTLE_SECS
        if self.name == "ranks":
            sizes["rows"] = bench.sizes.rank_rows
        said = " ".join(self.module.TEXT.format(**sizes).split())
        said = re.sub(r"(?<=[.]) (?=[A-Z`])", "\n", said)
        labelled = [{**r, "contender": r.get("label", r["contender"])} for r in self.results]
        parts = [
            f"## {self.module.TITLE}",
            said,
            self._picture(images) if images else "",
            figures.table(labelled, self.columns),
            figures.ratios(self.results, self.columns),
            f"It took {self.secs:.0f} s.",
        ]
        return "\n\n".join(part for part in parts if part)

    def _picture(self, images: Path) -> str:
        """Draws the figure that says most, where the module names one; the line that shows it."""
        key = getattr(self.module, "PICTURE", None)
        figure = next((f for f in self.columns if f.key == key), None)
        if figure is None:
            return ""
        kinds = {r["contender"]: r["kind"] for r in self.results}
        values = [
            (name, statistics.median(known.values()), kinds[name])
            for name in figures.names(self.results)
            if (known := figures.found(self.results, name, figure.key))
        ]
        values.sort(key=lambda each: each[1], reverse=figure.more)
        title = f"{self.module.TITLE}: {figure.heading}"
        images.mkdir(parents=True, exist_ok=True)
        (images / f"bench-{self.name}.svg").write_text(svg.bars(title, values))
        return f"![{title}](images/bench-{self.name}.svg)"


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
                aim = f"≤ {figure.times:g} times the floor"
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


def told_rounds(sections: list[Section]) -> str:
    """How many rounds there were, and of what there were fewer."""
    most = max(section.rounds for section in sections)
    fewer = [s for s in sections if s.rounds < most]
    told = f"{most} interleaved round{'' if most == 1 else 's'}"
    if fewer:
        titles = ", ".join(f"{s.module.TITLE} ({s.rounds})" for s in fewer)
        told += f", ended early with fewer whole ones of: {titles}"
    return told


def markdown(
    bench: Bench,
    sections: list[Section],
    secs: float,
    began: float,
    load: float,
    images: Path | None,
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
        rounds=told_rounds(sections),
        seed=data.SEED,
        aside="; ".join(aside) or "everybody could be installed and measured",
    )
    tables = [section.text(bench, images) for section in sections]
    parts = [head.strip(), aims(sections), *tables, contenders(bench)]
    return "\n\n".join(part for part in parts if part) + "\n"
