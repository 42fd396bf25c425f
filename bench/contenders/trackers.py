"""Other trackers of experiments, each storing on this machine."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from contenders.base import Contender, Log, Series, by_key


class Trackio(Contender):
    """Local, its watch over the hardware off."""

    name = "trackio"
    environment = "trackio"
    requirements = ("trackio==0.43.0",)
    package = "trackio"
    rate = 18_000
    together = "one run"

    def load(self) -> None:
        os.environ.update(TRACKIO_DIR=str(self.folder), HF_HUB_OFFLINE="1")
        import trackio

        self.module = trackio

    def start(self) -> Log:
        resume = "never" if self.rank is None else "allow"
        self.run = self.module.init(
            project="bench",
            name="run",
            embed=False,
            resume=resume,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        return self.run.log

    def close(self) -> None:
        self.run.finish()

    def read(self) -> Series:
        link = sqlite3.connect(self.folder / "bench.db")
        rows = link.execute("select step, metrics from metrics order by step")
        return by_key((k, step, v) for step, text in rows for k, v in json.loads(text).items())


class Wandb(Contender):
    """Offline; statistics, metadata, console, code and git off."""

    name = "wandb (offline)"
    environment = "wandb"
    requirements = ("wandb==0.31.0",)
    package = "wandb"
    rate = 6_000
    together = "a run each"

    def load(self) -> None:
        os.environ.update(
            WANDB_MODE="offline",
            WANDB_SILENT="true",
            WANDB_DIR=str(self.folder),
            WANDB_ERROR_REPORTING="false",
        )
        import wandb

        self.module = wandb

    def start(self) -> Log:
        settings = self.module.Settings(
            x_disable_stats=True,
            x_disable_meta=True,
            disable_git=True,
            disable_code=True,
            console="off",
        )
        self.run = self.module.init(
            project="bench",
            dir=str(self.folder),
            id=f"run-{self.rank or 0}",
            group="bench",
            settings=settings,
        )
        return self.run.log

    def close(self) -> None:
        self.run.finish()

    def read(self) -> Series:
        from wandb.proto import wandb_internal_pb2

        def points() -> Iterator[tuple[str, int, float]]:
            for path in sorted(self.folder.glob("wandb/offline-run*/*.wandb")):
                for record in log_records(path.read_bytes(), 7):
                    parsed = wandb_internal_pb2.Record.FromString(record)
                    for item in parsed.history.item:
                        key = item.key or ".".join(item.nested_key)
                        if not key.startswith("_"):
                            yield key, parsed.history.step.num, json.loads(item.value_json)

        return by_key(points())


def log_records(data: bytes, at: int) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, from `at` on.

    Blocks of 32 KiB hold pieces: checksum (4 bytes), length (2), and whether the piece is a
    whole record (1), or its first (2), middle (3) or last one (4).
    """
    pieces: list[bytes] = []
    while at + 7 <= len(data):
        room = (1 << 15) - at % (1 << 15)
        size, kind = struct.unpack_from("<4xHB", data, at) if room >= 7 else (0, 0)
        if kind == 0:
            at += room  # what is left of a block is padding
            continue
        pieces.append(data[at + 7 : at + 7 + size])
        at += 7 + size
        if kind in (1, 4):
            yield b"".join(pieces)
            pieces.clear()


class Aim(Contender):
    """A repository in a folder; system metrics, terminal and parameters of the system off."""

    name = "aim"
    environment = "aim"
    requirements = ("aim==3.29.1",)
    package = "aim"
    rate = 1_200
    together = "a run each"

    def prepare(self) -> None:
        self.load()
        self.module.Repo.from_path(str(self.folder), init=True)

    def load(self) -> None:
        os.environ["AIM_UI_TELEMETRY_ENABLED"] = "0"
        import aim

        self.module = aim

    def _open(self, name: str | None = None) -> None:
        self.run = self.module.Run(
            run_hash=name,
            repo=str(self.folder),
            experiment="bench",
            system_tracking_interval=None,
            capture_terminal_logs=False,
            log_system_params=False,
        )

    def start(self) -> Log:
        self._open()
        (self.folder / f"hash-{self.rank or 0}").write_text(self.run.hash)
        track = self.run.track

        def log(metrics: Mapping[str, float], step: int) -> None:
            track(metrics, step=step)

        return log

    def close(self) -> None:
        self.run.close()

    def read(self) -> Series:
        self.load()
        found: Series = {}
        for path in sorted(self.folder.glob("hash-*")):
            self._open(path.read_text())
            for metric in self.run.metrics():
                steps, (values, *_) = metric.data.items_list()
                ordered = [value for _, value in sorted(zip(steps, values))]
                found.setdefault(metric.name, []).extend(ordered)
        return found


class TensorBoardX(Contender):
    """`add_scalar` for each metric; values are 32 bits wide."""

    name = "tensorboardX"
    environment = "tensorboardx"
    requirements = ("tensorboardX==2.6.5",)
    package = "tensorboardX"
    rate = 2_500
    together = "a file each"
    shrinks = True

    def load(self) -> None:
        from tensorboardX import SummaryWriter

        self.writes = SummaryWriter

    def start(self) -> Log:
        self.run = self.writes(str(self.folder), filename_suffix=f".{self.rank or 0}")
        add = self.run.add_scalar

        def log(metrics: Mapping[str, float], step: int) -> None:
            for key, value in metrics.items():
                add(key, value, step)

        return log

    def close(self) -> None:
        self.run.close()

    def read(self) -> Series:
        return by_key(p for path in sorted(self.folder.glob("events*")) for p in _events(path))


def _events(path: Path) -> Iterator[tuple[str, int, float]]:
    """The values of a file of events: length (8 bytes), checksum (4), event, checksum (4)."""
    from tensorboardX.proto.event_pb2 import Event

    data, at = path.read_bytes(), 0
    while at + 12 <= len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + size])
        at += 16 + size
        for value in event.summary.value:
            yield value.tag, event.step, value.simple_value


class Mlflow(Contender):
    """`log_metrics` as it is by default, at once, into an SQLite store."""

    name = "mlflow"
    environment = "mlflow"
    requirements = ("mlflow==3.17.2",)
    package = "mlflow"
    rate = 150
    together = "one run"

    def prepare(self) -> None:
        self.load()
        self.module.set_experiment("bench")
        run = self.module.start_run(run_name="run")
        (self.folder / "run-id").write_text(run.info.run_id)
        self.module.end_run()

    def load(self) -> None:
        os.environ.update(
            MLFLOW_DISABLE_TELEMETRY="true",
            DO_NOT_TRACK="true",
            MLFLOW_TRACKING_URI=f"sqlite:///{self.folder}/mlflow.db",
        )
        import mlflow

        self.module = mlflow

    def start(self) -> Log:
        self.module.set_experiment("bench")
        self.module.start_run(run_id=(self.folder / "run-id").read_text())
        log_metrics = self.module.log_metrics

        def log(metrics: Mapping[str, float], step: int) -> None:
            log_metrics(metrics, step=step)

        return log

    def close(self) -> None:
        self.module.end_run()

    def read(self) -> Series:
        link = sqlite3.connect(self.folder / "mlflow.db")
        return by_key(link.execute("select key, step, value from metrics order by timestamp"))
