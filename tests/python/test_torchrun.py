"""`torchrun --logs-specs monarch_like`: workers that know nothing of it are captured by rank.

torch itself is too large for these tests: `torch_standin` has the classes of its interface that
matter, and `torchrun_standin.py` does with them what torchrun does. Everything else is real.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ledger import read_console, read_messages, read_rows
from processes import DEADLINE_SECS, environment, until

HERE = Path(__file__).parent


class Torchrun:
    """Launches a script of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.exps = folder / "experiments"
        self.logs = folder / "logs"
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        code: str,
        workers: int = 3,
        restarts: int = 0,
        env: dict[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        script = self.folder / "train.py"
        script.write_text(textwrap.dedent(code), encoding="utf-8")
        options = {"log_dir": str(self.logs), **options}
        paths = [str(HERE / "torch_standin"), environment()["PYTHONPATH"]]
        started = subprocess.Popen(
            [
                sys.executable,
                str(HERE / "torchrun_standin.py"),
                str(workers),
                str(restarts),
                json.dumps(options),
                str(script),
            ],
            cwd=self.folder,
            env=environment(**{"PYTHONPATH": os.pathsep.join(paths), **(env or {})}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._started.append(started)
        return started

    def run(self, code: str, code_of: int = 0, **how: Any) -> tuple[bytes, bytes]:
        """Launches, and answers with what was shown."""
        started = self.start(code, **how)
        out, err = started.communicate(timeout=DEADLINE_SECS)
        assert started.returncode == code_of, err.decode()
        return out, err

    @property
    def run_dir(self) -> Path:
        (found,) = {path.parent for path in self.exps.glob("*/*/run.yaml")}
        return found

    @property
    def record(self) -> dict[str, Any]:
        loaded = yaml.safe_load((self.run_dir / "run.yaml").read_text())
        assert isinstance(loaded, dict)
        return loaded

    def lines(self, rank: int, stream: str = "out") -> list[bytes]:
        kept = read_console(self.run_dir / "console.log")
        return [text for r, s, text in kept if (r, s) == (rank, stream)]

    def end(self) -> None:
        for started in self._started:
            if started.poll() is None:
                started.kill()
            started.communicate()


@pytest.fixture
def torchrun(no_process_left_behind: None, tmp_path: Path) -> Iterator[Torchrun]:
    torchrun = Torchrun(tmp_path)
    yield torchrun
    torchrun.end()


TALK = r"""
import os, subprocess, sys
rank = os.environ["RANK"]
print("rank", rank)
print("bad of", rank, file=sys.stderr)
os.write(1, b"\xff raw " + rank.encode() + b"\n")
subprocess.run(["sh", "-c", f"echo child of {rank}"])
print("left open", end="")
"""


def test_what_workers_write_is_shown_and_stored_by_rank(torchrun: Torchrun) -> None:
    out, err = torchrun.run(TALK)
    record = torchrun.record
    assert (record["status"], record["experiment"]) == ("finished", "train")
    assert (record["world_size"], record["launcher"]) == (3, "torchrun")
    shown = b""
    for rank in range(3):
        lines = [b"rank %d", b"\xff raw %d", b"child of %d"]
        lines = [line % rank for line in lines] + [b"left open"]
        assert torchrun.lines(rank) == lines
        assert torchrun.lines(rank, "err") == [b"bad of %d" % rank]
        shown += b"\n".join(lines)
    assert sorted(out.replace(b"left open", b"")) == sorted(shown.replace(b"left open", b""))
    assert sorted(err.splitlines()) == [b"bad of %d" % rank for rank in range(3)]
    left = [path for path in torchrun.logs.rglob("*") if path.is_file()]
    assert left == [], "what nobody asked for is removed"


def test_what_was_asked_of_torchrun_is_done_too(torchrun: Torchrun) -> None:
    out, err = torchrun.run(TALK, redirects=1, filter=[0, 2])
    assert out == b"", "standard output was redirected"
    assert sorted(err.splitlines()) == [b"bad of 0", b"bad of 2"], "and rank 1 is not shown"
    files = {path.parent.name: path.read_bytes() for path in torchrun.logs.rglob("stdout.log")}
    assert files == {
        str(rank): b"rank %d\n\xff raw %d\nchild of %d\nleft open" % (rank, rank, rank)
        for rank in range(3)
    }
    for rank in range(3):
        assert len(torchrun.lines(rank)) == 4
        assert torchrun.lines(rank, "err") == [b"bad of %d" % rank]


def test_no_folder_for_logs_is_fine(torchrun: Torchrun) -> None:
    out, _ = torchrun.run(TALK, log_dir=os.devnull, env={"EXPMAN_EXPERIMENT": "named"})
    assert out.count(b"child of") == 3
    assert torchrun.run_dir.parent.name == "named"
    assert [len(torchrun.lines(rank)) for rank in range(3)] == [4, 4, 4]


LOGS = """
import logging, os, subprocess, sys
import monarch_like as ml
print("before")
exp = ml.init("digits", logging="INFO")
print("during", exp.rank)
subprocess.run(["echo", "child"])
logging.info("a record")
for step in range(10):
    exp.log_metrics({"loss": 1.0}, step=step)
assert exp.flush().wait()
"""


def test_a_worker_that_logs_joins_the_same_run_and_no_line_is_doubled(torchrun: Torchrun) -> None:
    torchrun.run(LOGS + "exp.close()\nprint('after')\n")
    record = torchrun.record
    assert record["status"] == "finished"
    assert {rank: len(attempts) for rank, attempts in record["ranks"].items()} == dict.fromkeys(
        range(3), 2
    )
    rows = read_rows(torchrun.run_dir)
    assert sorted((row.rank, row.step) for row in rows) == [
        (rank, step) for rank in range(3) for step in range(10)
    ]
    for rank in range(3):
        assert torchrun.lines(rank) == [b"before", b"during %d" % rank, b"child", b"after"]
    messages = read_messages(torchrun.run_dir / "run.log")
    assert sorted((m.rank, m.text) for m in messages) == [(r, "a record") for r in range(3)]


@pytest.mark.parametrize(
    ("end", "code", "status", "of_rank_1"),
    [
        ("exp.close('cancelled' if exp.rank == 1 else 'finished')", 0, "cancelled", "cancelled"),
        ("exp.fail('no progress') if exp.rank == 1 else exp.close()", 0, "failed", "failed"),
        ("if exp.rank == 1: raise ValueError('it diverged')", 1, "failed", "failed"),
        ("if exp.rank == 1: os.kill(os.getpid(), 9)", 1, "crashed", "crashed"),
    ],
)
def test_a_run_ends_as_its_workers_did(
    torchrun: Torchrun, end: str, code: int, status: str, of_rank_1: str
) -> None:
    together = """
import time
open(f"ready_{exp.rank}", "w").close()
while not all(os.path.exists(f"ready_{rank}") for rank in range(3)):
    time.sleep(0.01)
"""
    wait = "if exp.rank != 1: time.sleep(60)\n" if code else ""
    torchrun.run(LOGS + together + end + "\n" + wait, code_of=code)
    record = torchrun.record
    assert record["status"] == status
    assert record["ranks"][1][0]["status"] == of_rank_1
    if "it diverged" in end:
        assert record["error"]["rank"] == 1
        assert record["error"]["message"] == "ValueError: it diverged"
        assert record["ranks"][0][0]["status"] == "preempted", "torchrun ended it"
    if status == "crashed":
        messages = read_messages(torchrun.run_dir / "run.log")
        said = [(m.rank, m.text) for m in messages if m.logger == "torchrun"]
        assert said == [(1, "the worker was ended by signal 9")]


def test_a_worker_without_our_help_that_fails_is_named(torchrun: Torchrun) -> None:
    _, err = torchrun.run(
        """
        import os, sys, time
        print("started", flush=True)
        if os.environ["RANK"] == "2":
            sys.exit("it diverged")
        time.sleep(60)
        """,
        code_of=1,
    )
    assert b"it diverged" in err
    record = torchrun.record
    assert record["status"] == "failed"
    assert (record["error"]["rank"], record["error"]["message"]) == (2, "exit code 1")
    assert torchrun.lines(2, "err") == [b"it diverged"]
    assert [record["ranks"][rank][0]["status"] for rank in range(3)] == [
        "cancelled",
        "cancelled",
        "failed",
    ]


def test_what_a_worker_left_in_torch_s_error_file_is_why_it_failed(torchrun: Torchrun) -> None:
    torchrun.run(
        """
        import json, os, sys
        extra = {"py_callstack": "Traceback of it", "timestamp": "1"}
        with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as file:
            json.dump({"message": {"message": "ValueError: it diverged", "extraInfo": extra}}, file)
        sys.exit(1)
        """,
        workers=1,
        code_of=1,
    )
    error = torchrun.record["error"]
    assert (error["message"], error["traceback"]) == ("ValueError: it diverged", "Traceback of it")


def test_workers_that_are_started_again_go_on_in_the_same_run(torchrun: Torchrun) -> None:
    torchrun.run(
        """
        import os, sys
        attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
        print("attempt", attempt)
        sys.exit(attempt == "0")
        """,
        workers=2,
        restarts=1,
    )
    assert torchrun.record["status"] == "finished"
    assert {rank: len(of) for rank, of in torchrun.record["ranks"].items()} == {0: 1, 1: 1}
    for rank in range(2):
        assert torchrun.lines(rank) in ([b"attempt 0", b"attempt 1"], [b"attempt 1"])
    assert b"attempt 0" in torchrun.lines(0) + torchrun.lines(1)


def test_a_flood_is_stored_byte_for_byte_and_its_room_given_back(torchrun: Torchrun) -> None:
    started = torchrun.start(
        """
        import os, sys
        out = sys.stdout.buffer
        for n in range(1500):
            out.write(bytes([97 + n % 26]) * 99_999 + b"\\n")
        """,
        workers=1,
    )
    kept, shown = -1, 0
    assert started.stdout is not None
    while piece := os.read(started.stdout.fileno(), 1 << 20):
        shown += len(piece)
        with contextlib.suppress(FileNotFoundError):
            for path in torchrun.logs.rglob("0.out"):
                kept = path.stat().st_blocks * 512
    assert started.wait(DEADLINE_SECS) == 0
    assert shown == 150_000_000
    lines = torchrun.lines(0)
    assert [(line[:1], len(line)) for line in lines] == [
        (bytes([97 + n % 26]), 99_999) for n in range(1500)
    ]
    assert torchrun.record["dropped"] == 0
    assert 0 <= kept < 30_000_000, "room of the file when most of it was read"


def test_workers_outlive_a_launcher_that_is_killed(torchrun: Torchrun, tmp_path: Path) -> None:
    started = torchrun.start(
        """
        import os, sys, time
        print("started", flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)
        for n in range(10_000):
            print("nobody reads", n)
        open("done" + os.environ["RANK"], "w").close()
        """,
        workers=2,
    )
    until(lambda: list(torchrun.exps.glob("*/*/console.log")))
    until(lambda: [torchrun.lines(rank) for rank in range(2)] == [[b"started"]] * 2)
    started.send_signal(signal.SIGKILL)
    started.wait(DEADLINE_SECS)
    (tmp_path / "go").touch()
    until(lambda: (tmp_path / "done0").exists() and (tmp_path / "done1").exists())
    until(lambda: torchrun.record["status"] == "crashed")


def test_a_launcher_that_is_told_to_go_says_so(torchrun: Torchrun) -> None:
    started = torchrun.start("import time\nprint('started', flush=True)\ntime.sleep(60)\n")
    until(lambda: list(torchrun.exps.glob("*/*/console.log")))
    until(lambda: [torchrun.lines(rank) for rank in range(3)] == [[b"started"]] * 3)
    started.terminate()
    assert started.wait(DEADLINE_SECS) == 1
    assert torchrun.record["status"] == "preempted"


def test_a_run_that_cannot_be_joined_keeps_no_launch_from_running(
    torchrun: Torchrun, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    out, err = torchrun.run(TALK, env={"EXPMAN_DIR": str(tmp_path / "file")})
    assert out.count(b"child of") == 3
    assert err.count(b"monarch_like: output is not captured: ") == 1
    assert str(tmp_path / "file").encode() in err


def test_two_launches_at_once_have_runs_of_their_own(torchrun: Torchrun) -> None:
    both = [torchrun.start(TALK, workers=2) for _ in range(2)]
    for started in both:
        started.communicate(timeout=DEADLINE_SECS)
        assert started.returncode == 0
    logs = list(torchrun.exps.glob("*/*/console.log"))
    assert [len(read_console(path)) for path in logs] == [10, 10]
