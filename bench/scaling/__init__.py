"""What the cost is measured against: one module each, with a side for the driver and the worker.

A module has `TITLE`, `TEXT` and `X` for people, `VALUES` and `MORE` (along the axis, and what
only `--all` adds), `FIGURES`, `PICTURES` (file, title, unit, figures in it), and
`run(bench, value)`.
"""

from __future__ import annotations

SCALES = ("ranks", "history", "names", "runs")
