"""What is measured: one module each, with a side for the driver and one for the worker.

A module has `TITLE` and `TEXT` for people, `FIGURES` (columns), perhaps `PICTURE` (the one that is
drawn) and `ENVIRONMENTS` (what it needs beside those of the contenders), `names(bench)` (who takes
part) and `run(bench, name, turn)`, which measures one of them once; and `measure(contender, driver,
…)`, which runs inside the contender's environment and needs the standard library only.
"""

from __future__ import annotations

WORKLOADS = (
    "call",
    "place",
    "sustained",
    "ranks",
    "names",
    "barrier",
    "growth",
    "start",
    "idle",
    "reading",
    "export",
    "size",
)

QUICK = ("call", "place", "sustained", "barrier", "start")
"""Those of a developer's minute."""
