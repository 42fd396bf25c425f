"""This project, installed from its wheel."""

from __future__ import annotations

import time
from typing import Any

from contenders.base import Contender, Log, Series, by_key


class ExpmanMesh(Contender):
    """`redirect_console=False`, defaults otherwise.

    Where rows come faster than any disk takes them, also `on_full="block"`: the default,
    `"drop"`, counts what does not fit instead of waiting. No row may be dropped there.
    """

    name = "expman-mesh"
    kind = "ours"
    environment = "expman-mesh"
    package = "expman-mesh"
    rate = 250_000
    together = "one run"
    flushes = True
    close_secs = 300.0

    def load(self) -> None:
        import monarch_like

        self.module = monarch_like

    def start(self) -> Log:
        options: dict[str, Any] = {}
        if self.world is not None:
            options.update(rank=self.rank, world_size=self.world, group="bench", timeout=60.0)
        if self.wait:
            options.update(on_full="block", block_timeout=60.0)
        self.run = self.module.init(
            "bench", "run", base_dir=self.folder, redirect_console=False, **options
        )
        return self.run.log_metrics

    def close(self) -> None:
        self.stats = self.run.stats()
        if not self.run.close(timeout=self.close_secs) and self.world is None:
            raise RuntimeError("the run was not closed by its only rank")

    def stored(self) -> float:
        report = self.run.flush(timeout=self.close_secs).wait()
        if not report:
            raise RuntimeError(f"not stored: {report}")
        return time.perf_counter()

    def dropped(self) -> int:
        return sum(self.stats["dropped"].values())

    def read(self) -> Series:
        import pyarrow.parquet as pq

        path = self.folder / "bench" / "run" / "metrics.parquet"
        table = pq.read_table(path, columns=["key", "step", "value"])
        return by_key(zip(*(table[name].to_pylist() for name in ("key", "step", "value"))))
