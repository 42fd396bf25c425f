"""Figures in tables: what was measured of whom, and ours beside the best of the others."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

Results = list[dict[str, Any]]

KINDS = {"tracker": "the best tracker", "plain": "the best by hand", "floor": "the floor"}


class Figure(NamedTuple):
    """A column: its heading, its key in a result, how it is written, and which way is better.

    Attributes:
        compared: whether ours is set beside the others'.
        aim: what ours should come to, at least or at most.
        times: how many times the floor ours should take at most.
        alike: what must be the same where ours is compared, because the figure grows with it.
    """

    heading: str
    key: str
    form: str = "{:,.0f}"
    more: bool = False
    compared: bool = True
    aim: float | None = None
    times: float | None = None
    alike: str | None = None


def names(results: Results) -> list[str]:
    """Contenders in the order in which they came first."""
    return list(dict.fromkeys(r["contender"] for r in sorted(results, key=lambda r: r["order"])))


def found(results: Results, name: str, key: str) -> dict[int, float]:
    """The values of a figure by round."""
    return {
        r["round"]: r[key]
        for r in results
        if r["contender"] == name and isinstance(r.get(key), (int, float))
    }


def cell(figure: Figure, values: dict[int, float]) -> str:
    """The median, and in brackets between what the others lie."""
    if not values:
        return "-"
    every = values.values()
    middle, low, high = (
        figure.form.format(x) for x in (statistics.median(every), min(every), max(every))
    )
    return middle if low == high else f"{middle} ({low} to {high})"


def table(results: Results, figures: list[Figure]) -> str:
    """Contenders and their figures; what could not be measured says why."""
    lines = [
        "| | " + " | ".join(f.heading for f in figures) + " |",
        "|---|" + "---:|" * len(figures),
    ]
    for name in names(results):
        cells = [cell(f, found(results, name, f.key)) for f in figures]
        failed = [r["failed"] for r in results if r["contender"] == name and "failed" in r]
        if failed and set(cells) == {"-"}:
            cells = [f"not measured: {failed[0]}"] + [""] * (len(figures) - 1)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def best(results: Results, figure: Figure, kind: str) -> str | None:
    """Who of a kind is best by its median."""
    given = {r.get(figure.alike) for r in results if r["kind"] == "ours"}
    medians = {
        name: statistics.median(values.values())
        for name in names([r for r in results if r["kind"] == kind])
        if figure.alike is None or _given(results, name, figure.alike) <= given
        if (values := found(results, name, figure.key))
    }
    pick = max if figure.more else min
    return pick(medians, key=lambda name: medians[name]) if medians else None


def _given(results: Results, name: str, key: str) -> set[float | None]:
    return {r.get(key) for r in results if r["contender"] == name}


def ratio(results: Results, figure: Figure, rival: str) -> list[float]:
    """Ours to a rival's, round by round."""
    (ours,) = names([r for r in results if r["kind"] == "ours"])
    mine, theirs = found(results, ours, figure.key), found(results, rival, figure.key)
    return [mine[turn] / theirs[turn] for turn in mine if theirs.get(turn)]


def _short(share: float) -> str:
    return f"{share:.2f}" if share >= 0.1 else f"{share:.2g}"


def ratios(results: Results, figures: list[Figure]) -> str:
    """Ours to the best of each kind, round by round, then the median."""
    if len(names([r for r in results if r["kind"] == "ours"])) != 1:
        return ""
    lines = []
    for figure in figures:
        if not figure.compared:
            continue
        parts = []
        for kind, said in KINDS.items():
            rival = best(results, figure, kind)
            shares = ratio(results, figure, rival) if rival else []
            if shares:
                middle, low, high = map(
                    _short, (statistics.median(shares), min(shares), max(shares))
                )
                spread = f" ({low} to {high})" if len(shares) > 1 else ""
                parts.append(f"**{middle}** times {said}, {rival}{spread}")
        if parts:
            way = "more" if figure.more else "less"
            lines.append(f"- {figure.heading} ({way} is better): {'; '.join(parts)}")
    return "Ours, round by round:\n\n" + "\n".join(lines) if lines else ""
