"""A worker under the driver's hand: it stops where the driver wants to look."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

from tree import Failed

TAIL_CHARS = 600


class Worker:
    """A process that writes a line of JSON when it stops or is done, and goes on when told."""

    def __init__(self, command: list[str], log: Path, timeout_secs: float) -> None:
        self.log = log
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EXPMAN_")}
        environment.update(PYTHONWARNINGS="ignore")
        with open(log, "ab") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                cwd=log.parent,
            )
        self.pid = self.process.pid
        self.cpu_secs = 0.0
        self._killer = threading.Timer(timeout_secs, self.process.kill)
        self._killer.daemon = True
        self._killer.start()

    def stopped(self) -> dict[str, Any]:
        """Waits for its next stop; what it says there."""
        told = self._told()
        if "stop" not in told:
            raise Failed(f"it is done where it should have stopped: {told}")
        return told

    def go(self, word: str = "go") -> None:
        """Lets it go on."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(word.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise Failed(self._why()) from None

    def done(self) -> dict[str, Any]:
        """Waits for its end; what it has measured."""
        told = self._told()
        self._end()
        if self.process.returncode != 0:
            raise Failed(self._why())
        return told

    def end(self) -> None:
        """Kills it, when it is still there."""
        if self.process.returncode is None:
            self.process.kill()
            self._end()

    def _end(self) -> None:
        _, status, usage = os.wait4(self.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_secs = usage.ru_utime + usage.ru_stime
        self._killer.cancel()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _told(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self._end()
            raise Failed(self._why())
        told: dict[str, Any] = json.loads(line)
        return told

    def _why(self) -> str:
        said = self.log.read_text(errors="replace")[-TAIL_CHARS:]
        return f"it ended with {self.process.returncode}: {said.strip()}"
