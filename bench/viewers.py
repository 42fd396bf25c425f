"""The servers that are compared: how each is given the same data, started and asked.

Programs that write the data run in the environment of the one that they are for.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

START_SECS = 60.0
ANSWER_SECS = 900.0
TICKS = os.sysconf("SC_CLK_TCK")

WRITES_MESH = """
import shutil, sys, monarch_like as ml
base, kind, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
if kind == "runs":
    written = min(n, 1000)
    for i in range(written):
        with ml.Experiment("many", f"r{i:05}", base_dir=base, redirect_console=False) as exp:
            for step in range(10):
                exp.log_metrics({"loss": 1 / (step + 1)}, step)
    for i in range(written, n):
        shutil.copytree(f"{base}/many/r{i % written:05}", f"{base}/many/r{i:05}")
else:
    with ml.Experiment("big", "b", base_dir=base, redirect_console=False, on_full="block") as exp:
        for step in range(n):
            exp.log_metrics({"loss": 1 / (step + 1) + (step % 97) * 1e-3}, step)
"""

WRITES_EXPMAN_RS = """
import sys, expman
base, kind, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
kw = dict(base_dir=base, redirect_console=False)
kw.update(system_metrics_interval_secs=0, capture_provenance=False)
if kind == "runs":
    for i in range(n):
        exp = expman.Experiment("many", run_name=f"r{i:05}", **kw)
        for step in range(10):
            exp.log_vector({"loss": 1 / (step + 1)}, step)
        exp.close()
else:
    exp = expman.Experiment("big", run_name="b", **kw)
    for step in range(n):
        exp.log_vector({"loss": 1 / (step + 1) + (step % 97) * 1e-3}, step)
    exp.close()
"""

WRITES_TENSORBOARD = """
import os, sys, time
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
base, kind, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
def write(folder, steps):
    writer = EventFileWriter(folder, max_queue_size=100_000, flush_secs=30)
    now = time.time()
    for step in range(steps):
        value = Summary.Value(tag="loss", simple_value=1 / (step + 1) + (step % 97) * 1e-3)
        summary = Summary(value=[value])
        writer.add_event(Event(wall_time=now + step * 1e-3, step=step, summary=summary))
    writer.close()
if kind == "runs":
    for i in range(n):
        write(os.path.join(base, f"r{i:05}"), 10)
else:
    write(os.path.join(base, "b"), n)
"""

WRITES_TRACKIO = """
import os, sys
base, kind, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.environ["TRACKIO_DIR"] = base
from trackio.sqlite_storage import SQLiteStorage
# As its own server stores what a client sends: a thousand rows at once.
def write(run, steps):
    for at in range(0, steps, 1000):
        part = range(at, min(at + 1000, steps))
        rows = [{"loss": 1 / (step + 1) + (step % 97) * 1e-3} for step in part]
        SQLiteStorage.bulk_log(project="p", run=run, metrics_list=rows, steps=list(part))
if kind == "runs":
    for i in range(n):
        write(f"r{i:05}", 10)
else:
    write("b", n)
"""


@dataclass(frozen=True)
class Answer:
    """One answer: how long it took from the question to its last byte, and how long it is."""

    secs: float
    size: int
    body: bytes


class Failed(RuntimeError):
    """A server did not start, or did not answer as it should."""


@dataclass
class Viewer:
    """A server under test."""

    name: str
    python: str
    writes: str
    note: str = ""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    port: int = 0

    def write(self, base: Path, kind: str, n: int) -> None:
        """Writes the data that it is to show."""
        base.mkdir(parents=True, exist_ok=True)
        command = [self.python, "-c", self.writes, str(base), kind, str(n)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        done = subprocess.run(command, check=False, timeout=3 * ANSWER_SECS, **quiet)
        if done.returncode:
            raise Failed(f"{self.name}: {done.stderr.decode()[-500:]}")

    def command(self, base: Path) -> tuple[list[str], dict[str, str]]:
        """What starts it, and what that needs in its environment."""
        raise NotImplementedError

    def list_question(self) -> tuple[str, Any]:
        """The address of the list of runs, and what is posted there."""
        raise NotImplementedError

    def chart_question(self) -> tuple[str, Any]:
        """The same for the metric `loss` of the run `b`."""
        raise NotImplementedError

    def runs_in(self, body: bytes) -> int:
        """How many runs a list has."""
        return len(json.loads(body))

    def has_points(self, body: bytes) -> bool:
        """Whether a chart has anything to show."""
        return len(body) > 200

    def start(self, base: Path) -> float:
        """Starts it and waits until it listens; how long that took."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command, env = self.command(base)
        begun = time.monotonic()
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while time.monotonic() - begun < START_SECS:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return time.monotonic() - begun
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.01)
        self.stop()
        raise Failed(f"{self.name} did not start")

    def stop(self) -> None:
        """Ends it and what it has started."""
        if self.process is not None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(self.process.pid, number)
                    self.process.wait(5)
                    break
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    continue
            self.process = None

    def ask(self, question: tuple[str, Any]) -> Answer:
        """Asks once, on a connection of its own."""
        path, body = question
        begun = time.perf_counter()
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECS)
        headers = {"accept": "application/vnd.expman.columns, application/json"}
        if body is None:
            link.request("GET", path, headers=headers)
        else:
            headers["content-type"] = "application/json"
            link.request("POST", path, json.dumps(body), headers)
        answer = link.getresponse()
        told = answer.read()
        secs = time.perf_counter() - begun
        link.close()
        if answer.status != 200:
            raise Failed(f"{self.name}: {path}: {answer.status} {told[:200]!r}")
        return Answer(secs, len(told), told)

    def pids(self) -> list[int]:
        """It and its children."""
        assert self.process is not None
        found, rest = [], [self.process.pid]
        while rest:
            pid = rest.pop()
            found.append(pid)
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    text = Path(f"/proc/{pid}/task/{task}/children").read_text()
                    rest += [int(child) for child in text.split()]
            except OSError:
                continue
        return found

    def cpu_secs(self) -> float:
        """User and system time so far."""
        total = 0
        for pid in self.pids():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def rss_bytes(self) -> int:
        """Resident memory."""
        total = 0
        for pid in self.pids():
            try:
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except OSError:
                continue
        return total * os.sysconf("SC_PAGE_SIZE")


class Mesh(Viewer):
    """`expman serve`."""

    def __init__(self, python: str) -> None:
        super().__init__("expman-mesh", python, WRITES_MESH)

    def command(self, base: Path) -> tuple[list[str], dict[str, str]]:
        expman = str(Path(self.python).with_name("expman"))
        return [expman, "serve", str(base), "--port", str(self.port)], {}

    def list_question(self) -> tuple[str, Any]:
        return "/api/runs", None

    def chart_question(self) -> tuple[str, Any]:
        key = json.loads(self.ask(("/api/runs?experiment=big", None)).body)[0]["key"]
        return f"/api/runs/{key}/series?keys=loss", None


class ExpmanRs(Viewer):
    """`exp serve` of expman-rs, built from its crate: the one in its wheel wants a newer libc."""

    def __init__(self, python: str, exp: str) -> None:
        super().__init__("expman-rs 1.3.0", python, WRITES_EXPMAN_RS)
        self._exp = exp

    def command(self, base: Path) -> tuple[list[str], dict[str, str]]:
        return [self._exp, "serve", str(base), "--port", str(self.port)], {}

    def list_question(self) -> tuple[str, Any]:
        return "/api/experiments/many/runs", None

    def chart_question(self) -> tuple[str, Any]:
        return "/api/experiments/big/runs/b/metrics", None


class TensorBoard(Viewer):
    """`tensorboard`, with its data server."""

    def __init__(self, python: str) -> None:
        note = "shows 1,000 points of each, chosen at random"
        super().__init__("TensorBoard", python, WRITES_TENSORBOARD, note)

    def command(self, base: Path) -> tuple[list[str], dict[str, str]]:
        program = str(Path(self.python).with_name("tensorboard"))
        return [program, "--logdir", str(base), "--port", str(self.port)], {}

    def list_question(self) -> tuple[str, Any]:
        return "/data/runs", None

    def chart_question(self) -> tuple[str, Any]:
        query = urlencode({"run": "b", "tag": "loss"})
        return f"/data/plugin/scalars/scalars?{query}", None

    def ask(self, question: tuple[str, Any]) -> Answer:
        """Until its data is loaded it does not know what it is asked for."""
        begun = time.perf_counter()
        while True:
            try:
                answer = super().ask(question)
                if self.is_loaded(question, answer.body):
                    return Answer(time.perf_counter() - begun, answer.size, answer.body)
            except Failed:
                pass
            if time.perf_counter() - begun > ANSWER_SECS:
                raise Failed("TensorBoard did not load its data")
            time.sleep(0.02)

    def is_loaded(self, question: tuple[str, Any], body: bytes) -> bool:
        """It answers with what it has so far: the last step must be among it."""
        if question[0] == "/data/runs":
            return len(json.loads(body)) >= self.expected
        return any(step >= self.expected - 1 for _, step, _ in json.loads(body))

    expected = 1


class Trackio(Viewer):
    """`trackio show`."""

    def __init__(self, python: str) -> None:
        super().__init__("trackio", python, WRITES_TRACKIO, "at most 3,000 rows of a run")

    def command(self, base: Path) -> tuple[list[str], dict[str, str]]:
        program = (
            "import trackio; trackio.show('p', open_browser=False, block_thread=True, "
            f"server_port={self.port})"
        )
        return [self.python, "-c", program], {"TRACKIO_DIR": str(base)}

    def list_question(self) -> tuple[str, Any]:
        return "/api/get_runs_for_project", {"project": "p"}

    def chart_question(self) -> tuple[str, Any]:
        return "/api/get_logs", {"project": "p", "run": "b"}

    def runs_in(self, body: bytes) -> int:
        return len(json.loads(body)["data"])
