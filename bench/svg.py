"""Curves and bars on logarithmic axes, as SVG that reads on a light and on a dark page."""

from __future__ import annotations

import math
from html import escape

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 28, 40, 76
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2")

BAR_LEFT, BAR_RIGHT = 130, 76
BAR_COLOURS = {"ours": "#2563eb", "tracker": "#94a3b8", "": "#cbd5e1"}

Curve = tuple[str, list[tuple[float, float]]]


class Axis:
    """Powers of ten between two ends of the picture."""

    def __init__(self, values: list[float], start: float, end: float) -> None:
        self.low = math.floor(math.log10(min(values)) + 1e-9)
        self.high = max(math.ceil(math.log10(max(values)) - 1e-9), self.low + 1)
        self.start, self.end = start, end

    def at(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        return [(self.at(10.0**power), _short(power)) for power in range(self.low, self.high + 1)]


def _short(power: int) -> str:
    """A power of ten as people write it."""
    if power < 0:
        return f"{10.0**power:.{-power}f}"
    return f"{10**power:,}" if power < 6 else f"10^{power}"


def picture(title: str, x_label: str, y_label: str, curves: list[Curve]) -> str:
    """All curves in one; points that are not above 0 have no place."""
    curves = [(name, [(x, y) for x, y in points if x > 0 and y > 0]) for name, points in curves]
    curves = [(name, points) for name, points in curves if points]
    x = Axis([x for _, points in curves for x, _ in points], LEFT, WIDTH - RIGHT)
    y = Axis([y for _, points in curves for _, y in points], HEIGHT - BOTTOM, TOP)
    lines = [
        *_head(HEIGHT, title),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 32, x_label, 'text-anchor="middle"'),
        _text(WIDTH - RIGHT, 22, y_label, 'text-anchor="end"'),
    ]
    for at, label in x.ticks():
        lines.append(_line(at, TOP, at, HEIGHT - BOTTOM))
        lines.append(_text(at, HEIGHT - BOTTOM + 16, label, 'text-anchor="middle"'))
    for at, label in y.ticks():
        lines.append(_line(LEFT, at, WIDTH - RIGHT, at))
        lines.append(_text(LEFT - 6, at + 4, label, 'text-anchor="end"'))
    legend = float(LEFT)
    for (name, points), colour in zip(curves, COLOURS):
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in points)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for a, b in points:
            lines.append(f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="3" fill="{colour}"/>')
        lines.append(f'<circle cx="{legend:.0f}" cy="{HEIGHT - 18}" r="4" fill="{colour}"/>')
        lines.append(_text(legend + 9, HEIGHT - 14, name, ""))
        legend += 26 + 6 * len(name)
    return "\n".join([*lines, "</svg>"]) + "\n"


def bars(title: str, values: list[tuple[str, float, str]]) -> str:
    """A bar for each name, its value written behind it; the kind gives its colour."""
    values = [each for each in values if each[1] > 0]
    height = TOP + 20 * len(values) + 12
    powers = [math.log10(value) for _, value, _ in values]
    least = min(powers) - 0.3
    scale = (WIDTH - BAR_LEFT - BAR_RIGHT) / max(max(powers) - least, 0.1)
    lines = _head(height, f"{title} (logarithmic)")
    for at, ((name, value, kind), power) in enumerate(zip(values, powers)):
        y, long = TOP + 20 * at, (power - least) * scale
        lines.append(_text(BAR_LEFT - 8, y + 12, name, 'text-anchor="end"'))
        size = f'x="{BAR_LEFT}" y="{y}" width="{long:.1f}" height="14" rx="2"'
        lines.append(f'<rect {size} fill="{BAR_COLOURS.get(kind, BAR_COLOURS[""])}"/>')
        told = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        lines.append(_text(BAR_LEFT + long + 6, y + 12, told, ""))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _head(height: int, title: str) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#334155">',
        '<rect width="100%" height="100%" rx="6" fill="#f8fafc"/>',
        _text(16, 22, title, 'font-size="14" font-weight="600"'),
    ]


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="#e2e8f0"/>'


def _text(x: float, y: float, text: str, more: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'
