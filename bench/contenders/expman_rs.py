"""expman-rs from PyPI, now and as it was."""

from __future__ import annotations

from typing import Any

from contenders.base import Contender, Log, Series


class ExpmanRs(Contender):
    """Console, system metrics and provenance off, defaults otherwise.

    It has no call that waits until rows are stored.
    """

    name = "expman-rs 1.3.0"
    environment = "expman-rs"
    requirements = ("pyarrow", "expman-rs==1.3.0")
    package = "expman-rs"
    rate = 60_000
    names_max = 20_000  # its time grows with the square: 100,000 take minutes and 3.5 GB
    together = "a run each"

    def load(self) -> None:
        import expman

        self.module = expman

    def options(self) -> dict[str, Any]:
        return {"system_metrics_interval_secs": 0, "capture_provenance": False}

    def start(self) -> Log:
        name = "run" if self.rank is None else f"run-{self.rank}"
        self.run = self.module.Experiment(
            "bench",
            run_name=name,
            base_dir=str(self.folder),
            redirect_console=False,
            **self.options(),
        )
        return self.run.log_vector

    def close(self) -> None:
        self.run.close()

    def read(self) -> Series:
        import pyarrow.parquet as pq

        found: Series = {}
        for path in sorted(self.folder.glob("bench/run*/vectors.parquet")):
            table = pq.read_table(path).sort_by("step")
            for key in table.column_names:
                if key not in ("step", "timestamp"):
                    values = table[key].drop_null().to_pylist()
                    found.setdefault(key, []).extend(values)
        return found


class ExpmanRs05(ExpmanRs):
    """The release before its append-only files: each flush writes the whole Parquet file anew."""

    name = "expman-rs 0.5.3"
    environment = "expman-rs-0.5"
    requirements = ("pyarrow", "expman-rs==0.5.3")
    rate = 2_500
    names_max = 10_000

    def options(self) -> dict[str, Any]:
        return {}
