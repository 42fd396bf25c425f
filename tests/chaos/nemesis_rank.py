"""One rank under the nemesis: logs, flushes and forks without end, and keeps a book outside.

The book of an incarnation is written with plain appends before and after each call, so that what
was certainly accepted, and what may have been, is known however the process ends:

    J attempt         joined
    X why             could not join (a forked child; a rank tries again)
    B first last      is about to log these
    A n ns            number n was accepted at this time
    S n us            the call of number n took this long, more than a millisecond
    F {…}             a flush: when, what was accepted before it, its report
    C {…}             close: how it ended
    D ns              a forked child ends itself now
    E why             something was raised that must not be

Usage: nemesis_rank.py SPEC, where SPEC is JSON; orders come as lines on standard input.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import select
import signal
import sys
import threading
import time
import traceback
import zlib
from pathlib import Path
from typing import Any

import monarch_like as ml

SLOW_NS = 1_000_000
MANTISSA = (1 << 53) - 1
GOLDEN = 0x9E3779B97F4A7C15


def salt_of(name: str) -> int:
    """Makes the values of each incarnation its own."""
    return zlib.crc32(name.encode())


def value_of(salt: int, n: int) -> float:
    """What an incarnation logs as its n-th value; all bits of a float's mantissa are in use."""
    return float((n * GOLDEN + salt) & MANTISSA)


class Book:
    """The ledger file of one incarnation."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = os.open(folder / f"{name}.book", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, line: str) -> None:
        os.write(self._file, line.encode() + b"\n")


class Logger:
    """Logs 1, 2, 3 … under the incarnation's own metric name."""

    def __init__(self, exp: ml.Experiment, folder: Path, name: str) -> None:
        self.exp = exp
        self.name = name
        self.folder = folder
        self.book = Book(folder, name)
        self.salt = salt_of(name)
        self.n = 0
        self.forks = 0

    def burst(self, calls: int) -> None:
        """Logs so many values as fast as it can."""
        write, log, salt, name = self.book.write, self.exp.log_metrics, self.salt, self.name
        write(f"B {self.n + 1} {self.n + calls}")
        for n in range(self.n + 1, self.n + calls + 1):
            start = time.monotonic_ns()
            log({name: value_of(salt, n)}, step=n)
            end = time.monotonic_ns()
            write(f"A {n} {end}")
            if end - start > SLOW_NS:
                write(f"S {n} {(end - start) // 1000}")
            self.n = n

    def flush(self, **options: Any) -> None:
        """Writes down what a flush said, and that it never raises."""
        accepted, start = self.n, time.monotonic_ns()
        try:
            report = dataclasses.asdict(self.exp.flush(**options).wait())
        except ml.ExpmanError as error:
            self.book.write(f"E flush: {error!r}")
            return
        found = {
            "start": start,
            "end": time.monotonic_ns(),
            "accepted": accepted,
            "report": report,
            **options,
        }
        self.book.write("F " + json.dumps(found))

    def close(self, timeout: float) -> None:
        """Leaves the run."""
        start = time.monotonic_ns()
        told: str | None = None
        try:
            self.exp.close(timeout=timeout)
        except ml.FlushError as error:
            told = str(error)
        found = {"start": start, "end": time.monotonic_ns(), "timeout": timeout, "error": told}
        self.book.write("C " + json.dumps(found))

    def fork(self, rng: random.Random) -> None:
        """A child that uses the run as a data loader's worker would, and ends in some way."""
        self.forks += 1
        calls, end = rng.randrange(1, 400), rng.choice(["close", "exit", "kill", "flush"])
        if os.fork():
            return
        os.close(0)
        child = Logger(self.exp, self.folder, f"{self.name}-f{self.forks}")
        try:
            child.book.write(f"J {self.exp.attempt}")
        except ml.ExpmanError as error:
            child.book.write(f"X {error}")
            os._exit(0)
        child.burst(calls)
        if end in ("flush", "close"):
            child.flush(timeout=10.0)
        if end == "close":
            child.close(10.0)
        child.book.write(f"D {time.monotonic_ns()}")
        if end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)


def join(spec: dict[str, Any], book: Book) -> ml.Experiment:
    """Joins as soon as that is possible: the disk may be full just now."""
    while True:
        try:
            exp = ml.Experiment(
                "nemesis",
                spec["run"],
                base_dir=spec["base"],
                redirect_console=False,
                rank=spec["rank"],
                world_size=spec["world"],
                group="nemesis",
            )
        except ml.ExpmanError as error:
            book.write(f"X {error}")
            time.sleep(0.2)
            continue
        book.write(f"J {exp.attempt}")
        return exp


def flush_again_and_again(logger: Logger, rng: random.Random, enough: threading.Event) -> None:
    while not enough.wait(rng.uniform(0.0, 0.6)):
        logger.flush(
            timeout=rng.choice([0.5, 2.0, 10.0]),
            publish=rng.random() < 0.1,
            scope="rank" if rng.random() < 0.2 else "run",
        )


def reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def main() -> None:
    spec = json.loads(sys.argv[1])
    rng = random.Random(spec["seed"])
    folder, name = Path(spec["books"]), spec["name"]
    exp = join(spec, Book(folder, name))
    logger = Logger(exp, folder, name)
    enough = threading.Event()
    flusher = threading.Thread(
        target=flush_again_and_again, args=(logger, random.Random(spec["seed"] + 1), enough)
    )
    flusher.start()
    try:
        while True:
            ready, _, _ = select.select([0], [], [], rng.uniform(0.0, 0.02))
            order = os.read(0, 1 << 16).decode().split() if ready else [""]
            if not order or "close" in order:  # also when the nemesis is gone
                break
            for what in order:
                if what == "fork":
                    logger.fork(rng)
                elif what == "flood":
                    logger.burst(20_000)
            logger.burst(rng.randrange(1, 60))
            reap()
    except Exception:
        logger.book.write(f"E {traceback.format_exc()!r}")
        raise
    finally:
        enough.set()
        flusher.join()
        logger.close(10.0)


if __name__ == "__main__":
    main()
