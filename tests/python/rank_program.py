"""One rank of a test: does what it is told, one JSON object a line, over an inherited socket.

Its standard output stays free, so that it can be captured like anybody's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
import sys
import threading
from typing import Any

import monarch_like as ml
from known import KEYS, value_of


class Program:
    """What a rank can be told; each method is one order, its result is the answer."""

    exp: ml.Experiment

    def __init__(self) -> None:
        self.pending: dict[str, ml.FlushHandle] = {}
        self.pouring: threading.Thread | None = None
        self.enough = threading.Event()
        self.next_step = 0

    def init(self, **options: Any) -> dict[str, Any]:
        self.exp = ml.Experiment(**options)
        return self.who()

    def who(self) -> dict[str, Any]:
        e = self.exp
        return {
            "run_dir": str(e.run_dir),
            "run_id": e.run_id,
            "rank": e.rank,
            "attempt": e.attempt,
            "world_size": e.world_size,
            "pid": os.getpid(),
        }

    def log(self, n: int) -> dict[str, Any]:
        """`n` calls at the next steps; answers with how they were numbered."""
        before = self.exp.stats()["accepted_seq"]
        start = self.next_step
        for step in range(start, start + n):
            self.exp.log_metrics(
                {key: value_of(self.exp.rank, step, key) for key in KEYS}, step=step
            )
        self.next_step += n
        assert not self.exp.stats()["dropped"]
        return {"first_seq": before + 1, "start": start, "stop": self.next_step}

    def pour(self) -> dict[str, Any]:
        """Logs from a thread, a few hundred calls a second, until `stop_pouring`."""
        self.first_seq, self.first_step = self.exp.stats()["accepted_seq"] + 1, self.next_step
        self.enough.clear()

        def pour() -> None:
            while not self.enough.wait(0.01):
                self.log(5)

        self.pouring = threading.Thread(target=pour)
        self.pouring.start()
        return {"first_seq": self.first_seq, "start": self.first_step}

    def stop_pouring(self) -> dict[str, Any]:
        assert self.pouring is not None
        self.enough.set()
        self.pouring.join()
        return {"first_seq": self.first_seq, "start": self.first_step, "stop": self.next_step}

    def flush(self, **options: Any) -> dict[str, Any]:
        return dataclasses.asdict(self.exp.flush(**options).wait())

    def start_flush(self, name: str, **options: Any) -> None:
        self.pending[name] = self.exp.flush(**options)

    def is_flushed(self, name: str) -> bool:
        return self.pending[name].done()

    def end_flush(self, name: str) -> dict[str, Any]:
        return dataclasses.asdict(self.pending.pop(name).wait(60))

    def flush_threads(self, n: int) -> list[dict[str, Any]]:
        """Many flushes at once, each from a thread of its own."""
        reports: list[Any] = [None] * n

        def flush(i: int) -> None:
            reports[i] = self.flush(timeout=30)

        threads = [threading.Thread(target=flush, args=(i,)) for i in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return reports

    def flush_tasks(self, n: int) -> list[dict[str, Any]]:
        """Many flushes at once on one event loop."""

        async def flush_all() -> list[ml.FlushReport]:
            return await asyncio.gather(*(self.exp.flush(timeout=30) for _ in range(n)))

        return [dataclasses.asdict(report) for report in asyncio.run(flush_all())]

    def stats(self) -> dict[str, Any]:
        return self.exp.stats()

    def say(self, text: str, stream: str = "stdout") -> None:
        getattr(sys, stream).write(text)

    def say_lines(self, lines: list[str]) -> None:
        """Each line by itself, handed out at once."""
        for line in lines:
            print(line, flush=True)

    def python_log(self, level: int, text: str) -> None:
        """As Python's logging would hand it over."""
        core: Any = self.exp._core
        core.log_message(level, text, "train", "train.py", 7)

    def set_mode(self, on: bool) -> None:
        self.exp.set_mode(on)

    def logging_option(self, **options: Any) -> None:
        self.exp.logging_option(**options)

    def close(self, **options: Any) -> bool:
        return self.exp.close(**options)


def main() -> None:
    os.set_inheritable(int(sys.argv[1]), False)  # it shall end with this process
    orders = socket.socket(fileno=int(sys.argv[1])).makefile("rw", encoding="utf-8")
    program = Program()
    for line in orders:
        order = json.loads(line)
        try:
            answer = {"answer": getattr(program, order.pop("do"))(**order)}
        except Exception as error:
            answer = {"error": [type(error).__name__, str(error)]}
        orders.write(json.dumps(answer) + "\n")
        orders.flush()


if __name__ == "__main__":
    main()
