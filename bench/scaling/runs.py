"""Against the number of runs in a folder."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tree
from figures import Figure
from viewers import Mesh

if TYPE_CHECKING:
    from bench import Bench
    from contenders.mesh import ExpmanMesh
    from worker import Driver

TITLE = "Runs"
X = "runs in the folder"

TEXT = """
A folder with so many closed runs of ten rows each, in experiments of 1,000 (copies of a real one,
each with an id and a name of its own): the command `expman list` from its start to its end (the
median of 3); `/api/runs` of a server right after it started, and again (the median of 5); and its
memory.
"""

VALUES = [1, 10, 100, 1_000, 10_000]
MORE = [100_000]
PER_EXPERIMENT = 1_000
LINKS = 50_000
"""Names of one file; file systems have a limit."""

FIGURES = [
    Figure("`expman list`, ms", "list_ms", "{:.1f}"),
    Figure("its CPU, ms", "list_cpu_ms", "{:.1f}"),
    Figure("`/api/runs` first, ms", "first_ms", "{:.1f}"),
    Figure("again, ms", "again_ms", "{:.1f}"),
    Figure("server, MB", "server_mb"),
    Figure("sent, kB", "sent_kb"),
]

PICTURES = [
    (
        "scale-runs",
        "Listing against runs",
        "ms",
        ("list_ms", "list_cpu_ms", "first_ms", "again_ms"),
    ),
]

TIMEOUT_SECS = 600.0


def run(bench: Bench, value: int) -> dict[str, Any]:
    with bench.folder("expman-mesh") as folder:
        base = folder / "many"
        bench.once("expman-mesh", "scaling.runs", folder=folder, rows=10)
        copies(folder / "bench" / "run", base, value)
        took, used = [], []
        for _ in range(3):
            began = time.perf_counter()
            cost = tree.run([bench.expman, "list", str(base)], TIMEOUT_SECS)
            took.append(time.perf_counter() - began)
            used.append(cost.cpu_secs)
        server = Mesh(str(Path(bench.expman).with_name("python")))
        server.start(base)
        try:
            first = server.ask(("/api/runs", None))
            if len(json.loads(first.body)) != value:
                raise tree.Failed(f"{len(json.loads(first.body))} of {value} runs are listed")
            again = [server.ask(("/api/runs", None)).secs for _ in range(5)]
            rss = server.rss_bytes()
        finally:
            server.stop()
    return {
        "list_ms": statistics.median(took) * 1e3,
        "list_cpu_ms": statistics.median(used) * 1e3,
        "first_ms": first.secs * 1e3,
        "again_ms": statistics.median(again) * 1e3,
        "server_mb": rss / 1e6,
        "sent_kb": first.size / 1e3,
    }


def copies(real: Path, base: Path, count: int) -> None:
    """Runs that differ in their id and name; the other files are links to those of a few copies."""
    record = (real / "run.yaml").read_text()
    lines = dict(line.split(": ", 1) for line in record.splitlines() if line.startswith("id: "))
    folders = [p.relative_to(real) for p in real.rglob("*") if p.is_dir()]
    files = [p.relative_to(real) for p in real.rglob("*") if p.is_file()]
    source = real
    for at in range(count):
        experiment, name = f"e{at // PER_EXPERIMENT:03}", f"r{at:06}"
        run = base / experiment / name
        run.mkdir(parents=True)
        for path in sorted(folders):
            (run / path).mkdir()
        make = shutil.copy if at % LINKS == 0 else os.link
        for path in files:
            if path.name != "run.yaml":
                make(source / path, run / path)
        if at % LINKS == 0:
            source = run
        own = record.replace(lines["id"], str(uuid.UUID(int=uuid.UUID(lines["id"]).int + at)))
        own = own.replace("\nname: run\n", f"\nname: {name}\n")
        own = own.replace("\nexperiment: bench\n", f"\nexperiment: {experiment}\n")
        (run / "run.yaml").write_text(own)


def measure(contender: ExpmanMesh, driver: Driver, rows: int) -> dict[str, Any]:
    """The real one."""
    contender.load()
    log = contender.start()
    for step in range(rows):
        log({"loss": 1 / (step + 1)}, step)
    contender.close()
    return {}
