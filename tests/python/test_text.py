"""Every line of every rank, in real processes: rolled, packed, exported; and how a run crashed."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from processes import Programs, environment, kill_owner, until

WRITER = """
    import os, sys, time
    import monarch_like as ml

    rank, lines = int(sys.argv[2]), int(sys.argv[3])
    out = os.open(sys.argv[4], os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(out, 2)
    with ml.init("exp", base_dir=sys.argv[1], rank=rank, world_size=2, group="g") as exp:
        for n in range(lines):
            # Bytes of all kinds; the number tells where a line belongs.
            noise = bytes((n * k + rank) % 256 for k in range(n % 50)).replace(b"\\n", b"")
            os.write(1 + n % 2, b"%d " % n + noise + b"\\n")
            if n % 10 == 0:
                exp.warn(f"message {n}\\nof two lines")
            if n % 20 == 0:
                time.sleep(0.01)
            if n % 500 == 499:
                assert exp.flush(timeout=60, scope="rank").wait()
    sys.exit(0)
"""


def told(command: list[str], *args: object) -> str:
    """What a command of expman prints."""
    done = subprocess.run([*command, *map(str, args)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def exported(expman: list[str], run_dir: Path) -> list[dict[str, Any]]:
    out = told(expman, "export", run_dir, "--logs", "-f", "jsonl")
    return [json.loads(line) for line in out.splitlines()]


def pieces(run_dir: Path) -> list[Path]:
    return list(run_dir.glob("*-*.log*"))


def text_of(line: dict[str, Any]) -> bytes:
    if "text" in line:
        return str(line["text"]).encode()
    return base64.b64decode(line["text_base64"])


@pytest.mark.timeout(240)
def test_lines_are_there_exactly_once_though_texts_roll_and_owners_are_killed(
    programs: Programs,
    exps: Path,
    expman: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EXPMAN_TEST_ROLL_BYTES", "32768")
    lines = 6000
    ranks = [programs.start(WRITER, rank, lines, tmp_path / f"{rank}.out") for rank in range(2)]

    def run_dir() -> Path | None:
        return next((p.parent.parent for p in exps.glob("*/*/.expman/owner.json")), None)

    folder = until(run_dir)
    assert folder is not None
    rolled = 0

    def rolls() -> bool:
        return len(pieces(folder)) > rolled or any(rank.poll() is not None for rank in ranks)

    for _ in range(4):
        # Each owner dies after it has rolled some more, wherever it stands just then.
        until(rolls, what="a roll")
        rolled = len(pieces(folder))
        assert [rank.poll() for rank in ranks] == [None, None], "they are to be long at it"
        kill_owner(folder)
    for number, rank in enumerate(ranks):
        rank.communicate(timeout=120)
        seen = (tmp_path / f"{number}.out").read_bytes()
        assert rank.returncode == 0, seen[-2000:]
        assert seen.count(b"\n") >= lines
    until(lambda: "finished" in (folder / "run.yaml").read_text(), what="the run's end")

    packed = sorted(folder.glob("*-*.log.zst"))
    assert len(packed) > 4
    assert not list(folder.glob("*-*.log")), "plain pieces are packed before the run ends"
    found = exported(expman, folder)
    for number in range(2):
        own = [line for line in found if line["rank"] == number]
        for stream, wanted in ("out", range(0, lines, 2)), ("err", range(1, lines, 2)):
            kept = [text_of(line) for line in own if line["stream"] == stream]
            expected = [
                b"%d " % n
                + bytes(
                    (n * k + number) % 256 for k in range(n % 50) if (n * k + number) % 256 != 10
                )
                for n in wanted
            ]
            assert kept == expected
        said = [line["text"] for line in own if line["stream"] == "log"]
        assert said == [f"message {n}\nof two lines" for n in range(0, lines, 10)]
        seqs = sorted(line["seq"] for line in own)
        assert len(set(seqs)) == len(seqs)

    # Parquet has the same rows, field by field.
    file = folder.parent / "lines.parquet"
    told(expman, "export", folder, "--logs", "-o", file)
    rows = pq.read_table(file).to_pylist()
    assert len(rows) == len(found)
    for row, line in zip(rows, found):
        assert row["text"] == text_of(line)
        assert row["timestamp"].isoformat().replace("+00:00", "") in line["time"] + "000000"
        assert [
            row[k] for k in ("rank", "stream", "logger", "file", "line", "seq", "ends_line")
        ] == [line[k] for k in ("rank", "stream", "logger", "file", "line", "seq", "ends_line")]
    doctor = json.loads(told(expman, "doctor", folder, "--json"))
    assert not [f for f in doctor["findings"] if f["severity"] == "damage"], doctor


CRASHES = """
    import os, signal, sys, time
    import monarch_like as ml

    def train(rank):
        if rank in (0, 1):
            raise ValueError(f"rank {rank}: loss is nan")
        if rank == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    rank = int(sys.argv[2])
    exp = ml.init("exp", base_dir=sys.argv[1], rank=rank, world_size=4, group="g")
    for n in range(30):
        print(f"rank {rank} at {n}", flush=True)
    exp.info("about to train")
    exp.flush(timeout=60).wait()
    with open(sys.argv[3] + f"/ready-{rank}", "w"):
        pass
    turn = {2: 0, 0: 1, 1: 1, 3: 2}[rank]
    while not os.path.exists(sys.argv[3] + f"/go-{turn}"):
        time.sleep(0.01)
    train(rank)
"""


@pytest.mark.timeout(180)
def test_a_crash_names_the_first_rank_the_same_traceback_once_and_last_lines(
    programs: Programs, exps: Path, expman: list[str], tmp_path: Path
) -> None:
    # One program for all of them, as in any launch: tracebacks name its file.
    program = tmp_path / "train.py"
    program.write_text(textwrap.dedent(CRASHES))
    ranks = [
        subprocess.Popen(
            [sys.executable, program, exps, str(rank), tmp_path],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank in range(4)
    ]
    until(lambda: len(list(tmp_path.glob("ready-*"))) == 4, what="all ranks to be ready")
    (folder,) = (hidden.parent for hidden in exps.glob("*/*/.expman"))
    (tmp_path / "go-0").touch()
    assert ranks[2].wait(60) == -9
    until(lambda: "rank_lost" in (folder / "events.jsonl").read_text(), what="its loss")
    (tmp_path / "go-1").touch()
    assert [ranks[0].wait(60), ranks[1].wait(60)] == [1, 1]
    (tmp_path / "go-2").touch()
    assert ranks[3].wait(60) == 0

    crash = json.loads(told(expman, "inspect", folder, "--crash", "--json", "--lines", "31"))
    assert not crash["healthy"]
    failures = crash["failures"]
    assert sorted(f["rank"] for f in failures) == [0, 1, 2]
    lost = failures[0]
    assert lost["rank"] == 2
    assert (lost["state"], lost["reason"]) == ("lost", "its process is gone")
    assert {"rank 2 at 29", "about to train"} <= {line["text"] for line in lost["lines"]}
    assert all(len(f["lines"]) == 31 for f in failures)
    (group,) = crash["tracebacks"]
    assert group["rank_set"] == "0-1"
    assert all(w["text"].startswith("Traceback (most recent") for w in group["wordings"])
    assert {w["text"].splitlines()[-1] for w in group["wordings"]} == {
        "ValueError: rank 0: loss is nan",
        "ValueError: rank 1: loss is nan",
    }
    shown = told(expman, "inspect", folder, "--crash")
    assert shown.count("Traceback (most recent") == 1, shown
    assert "first to fail rank 2, lost" in shown
    healthy = programs.run(
        """
        import sys
        import monarch_like as ml
        with ml.init("fine", base_dir=sys.argv[1]) as exp:
            print(exp.run_dir)
        """
    )
    assert "no rank failed" in told(expman, "inspect", healthy.stdout.strip(), "--crash")
