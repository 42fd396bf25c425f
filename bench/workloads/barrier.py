"""How long a flush of several ranks takes, beside what it can't do without."""

from __future__ import annotations

import os
import select
import socket
import statistics
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tree
from data import row, values
from figures import Figure

if TYPE_CHECKING:
    from bench import Bench
    from contenders import Contender
    from worker import Driver

TITLE = "Barrier"

TEXT = """
`flush().wait()` of a run with 4 and with 64 ranks, each a process: idle (the caller logs one row in
front of each flush) and under load (each rank logs {load4:,} rows/s with 4, {load64:,} with 64). In
turn with them, in the same process and folder, the floor: an append of 64 bytes with `fdatasync`,
and one round trip over a Unix socket to another process. Others have no such call.
"""

CASES = ("idle", "load")
RANKS = (4, 64)
LOAD_HZ = {4: 1_000, 64: 50}

FIGURES = [
    Figure("4 idle, p50 ms", "idle_4_p50", "{:.2f}", times=2),
    Figure("p99", "idle_4_p99", "{:.2f}"),
    Figure("4 loaded, p50 ms", "load_4_p50", "{:.2f}", times=2),
    Figure("p99", "load_4_p99", "{:.2f}"),
    Figure("64 idle, p50 ms", "idle_64_p50", "{:.2f}", aim=10),
    Figure("p99", "idle_64_p99", "{:.2f}"),
    Figure("64 loaded, p50 ms", "load_64_p50", "{:.2f}", aim=10),
    Figure("p99", "load_64_p99", "{:.2f}"),
]

FLOOR = "fdatasync + round trip"
BLOCK = 10


def names(bench: Bench) -> list[str]:
    return bench.names("ours")


def run(bench: Bench, name: str, turn: int) -> list[dict[str, Any]]:
    ours: dict[str, Any] = {}
    floor: dict[str, Any] = {"contender": FLOOR, "kind": "floor"}
    for count in RANKS if bench.sizes.many_ranks else RANKS[:1]:
        with bench.folder(name) as folder, ExitStack() as stack:
            workers = [
                stack.enter_context(
                    bench.worker(
                        name,
                        folder,
                        "barrier",
                        flushes=bench.sizes.flushes if count == 4 else bench.sizes.flushes // 2,
                        hz=LOAD_HZ[count],
                        rank=rank,
                        world=count,
                    )
                )
                for rank in range(count)
            ]
            for worker in workers:
                worker.stopped()
            for case in CASES:
                for worker in workers:
                    worker.go(case)
                told = workers[0].stopped()
                for into, key in ((ours, "flush"), (floor, "floor")):
                    into[f"{case}_{count}_p50"] = told[key][0]
                    into[f"{case}_{count}_p99"] = told[key][1]
                for worker in workers[1:]:
                    worker.go("over")
                    worker.stopped()
            for worker in workers:
                worker.go("close")
            for worker in workers:
                worker.done()
            tree.left_behind()
    return [ours, floor]


class Echo:
    """Another process that sends back what it is sent."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            while data := theirs.recv(64):
                theirs.send(data)
            os._exit(0)
        theirs.close()
        self.link = ours

    def trip(self) -> None:
        self.link.send(b"x" * 64)
        self.link.recv(64)

    def close(self) -> None:
        self.link.close()
        os.waitpid(self.pid, 0)


def quantiles(took: list[float]) -> list[float]:
    ordered = sorted(took)
    return [statistics.median(ordered) * 1e3, ordered[len(ordered) * 99 // 100] * 1e3]


class Load(threading.Thread):
    """Logs at a steady rate until it is over."""

    def __init__(self, log: Any, hz: int) -> None:
        super().__init__(daemon=True)
        self.log, self.hz, self.over = log, hz, threading.Event()

    def run(self) -> None:
        numbers, step = values(10_000), 0
        began = time.perf_counter()
        while not self.over.wait(max(began + step / self.hz - time.perf_counter(), 0)):
            self.log(row(numbers, step), step)
            step += 1


def measure(contender: Contender, driver: Driver, flushes: int, hz: int) -> dict[str, Any]:
    """The rank 0 flushes; the others are there, and log when there is a load."""
    echo = Echo() if contender.rank == 0 else None  # before there are threads
    contender.load()
    log = contender.start()
    case = driver.stop("joined")
    while case != "close":
        if echo is None:
            load(log, hz if case == "load" else 0)
            case = driver.stop("over")
            continue
        background = Load(log, hz)
        if case == "load":
            background.start()
        facts = flush(contender, log, echo, flushes)
        background.over.set()
        case = driver.stop(case, **facts)
    if echo is not None:
        echo.close()
    contender.close()
    return {}


def flush(contender: Contender, log: Any, echo: Echo, flushes: int) -> dict[str, list[float]]:
    """Floors and flushes in turn, some of each at a time."""
    line, numbers = b"x" * 64, values(100)
    floors, took = [], []
    path = Path(contender.folder) / "floor"
    with open(path, "ab", buffering=0) as file:
        for turn in range(flushes // BLOCK):
            for _ in range(BLOCK):
                time.sleep(0.003)
                began = time.perf_counter()
                file.write(line)
                os.fdatasync(file.fileno())
                echo.trip()
                floors.append(time.perf_counter() - began)
            for at in range(BLOCK):
                time.sleep(0.003)
                log(row(numbers, at), turn)
                began = time.perf_counter()
                took.append(contender.stored() - began)
    return {"flush": quantiles(took), "floor": quantiles(floors)}


def load(log: Any, hz: int) -> None:
    """Logs at a steady rate, or nothing, until the driver says a word."""
    numbers, step = values(10_000), 0
    began = time.perf_counter()
    while True:
        wait = max(began + step / hz - time.perf_counter(), 0) if hz else None
        if select.select([0], [], [], wait)[0]:
            sys.stdin.readline()
            return
        log(row(numbers, step), step)
        step += 1
