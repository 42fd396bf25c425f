"""Rows 20, 21: damaged, cut, missing and half-made files: all else is kept, and it is told.

A run is killed whole, its folder copied and damaged in one way each; then it is looked at,
recovered, and proved against an independent reading of its log.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from ledger import Ledger, Row, read_rows
from processes import Programs, is_alive, owner_of, stop, until

from . import command
from .oracles import doctor, events, no_temp_files, once, record, settles, snapshot

SAMPLES = 12
"""Cases of a kind in the slice."""

BULK = 250
"""Runs that one doctor looks at together."""


@dataclass
class Killed:
    """A run that was killed whole, with what it holds."""

    run_dir: Path
    log: str
    bytes: bytes
    frames: list[tuple[int, int]]
    ledger: Ledger
    rows_by_frame: list[int]

    def copy(self, to: Path) -> Path:
        """The same run at another place."""
        shutil.copytree(self.run_dir, to)
        return to

    def rows_within(self, rows: Sequence[Row], upto: int) -> list[Row]:
        """Of the rows of the whole log, those in whole frames up to a byte."""
        whole = sum(end <= upto for _, end in self.frames)
        return list(rows[: self.rows_by_frame[whole]])


def frames_of(log: bytes) -> list[tuple[int, int]]:
    """Where each frame begins and ends."""
    found, at = [], 0
    while at + 12 <= len(log):
        (length,) = struct.unpack_from("<I", log, at + 4)
        found.append((at, at + 12 + length))
        at += 12 + length
    return found


@pytest.fixture
def killed(programs: Programs) -> Killed:
    """Two ranks, a few frames of rows, messages and scalars; nothing is sealed yet."""
    ranks = programs.ranks(2, run_name="run")
    for n in (2, 1, 3):
        ranks.log(n)
        assert ranks[n % 2].ask("flush")["complete"]
    pids = [owner_of(ranks.run_dir), *(rank.pid for rank in ranks)]
    for pid in pids:
        stop(pid)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(is_alive, pids)))
    (log,) = ranks.run_dir.glob(".expman/wal-*.wal")
    data = log.read_bytes()
    frames = frames_of(data)
    assert frames[-1][1] == len(data), "the log ends with a whole frame"
    ranks.ledger.prove(ranks.run_dir)
    counts = []
    for _, end in [(0, 0), *frames]:
        log.write_bytes(data[:end])
        counts.append(len(read_rows(ranks.run_dir)))
    log.write_bytes(data)
    return Killed(ranks.run_dir, log.name, data, frames, ranks.ledger, counts)


# --- row 20: the commit log --------------------------------------------------------------------


def flipped(data: bytes, at: int, mask: int) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def cases(killed: Killed, rng: random.Random, all_of_them: bool) -> dict[str, tuple[int, bytes]]:
    """By name: up to which byte the log is as it was, and what it is now."""
    size = len(killed.bytes)
    places = list(range(size))
    if not all_of_them:
        edges = {edge for frame in killed.frames for edge in frame} - {size}
        lengths = [start + 4 for start, _ in killed.frames]
        places = sorted({*rng.sample(places, SAMPLES), *edges, *lengths})
    cut = {f"cut-{n}": (n, killed.bytes[:n]) for n in places}
    masks = [1 << rng.randrange(8) for _ in places]
    flips = {
        f"flip-{n}-{mask}": (n, flipped(killed.bytes, n, mask)) for n, mask in zip(places, masks)
    }
    return {**cut, **flips}


def check(
    killed: Killed,
    name: str,
    damage: tuple[int, bytes],
    run_dir: Path,
    all_rows: list[Row],
    found: str,
) -> None:
    """A: the whole frames in front of the damage are there, once; what is missing was told.

    Args:
        killed: the run as it was.
        name: of the case, for messages.
        damage: up to which byte the log was as before, and what it was then.
        run_dir: the run as it is now.
        all_rows: those of the run as it was.
        found: what a doctor said of it.
    """
    intact, damaged = damage
    rows = read_rows(run_dir)
    once(rows)
    by_id = {(row.rank, row.attempt, row.seq, row.key): row for row in all_rows}
    for row in rows:
        known = by_id[row.rank, row.attempt, row.seq, row.key]
        assert (row.step, row.bits) == (known.step, known.bits), f"{name}: {row} is wrong"
    there = {(row.rank, row.attempt, row.seq, row.key) for row in rows}
    for row in killed.rows_within(all_rows, intact):
        assert (row.rank, row.attempt, row.seq, row.key) in there, f"{name}: {row} is missing"
    if intact in {0, *(end for _, end in killed.frames)} and name.startswith("cut-"):
        return  # as if what is missing had never been
    torn = [event["torn_bytes"] for event in events(run_dir, "owner_changed")]
    told = " ".join([found, *(event["what"] for event in events(run_dir, "problem"))])
    assert any(torn) or killed.log in told, f"{name}: nobody was told"
    if len(rows) < len(all_rows) and not name.startswith("cut-"):
        assert killed.log in told, f"{name}: rows are missing, and nobody was told"
        kept = [path.read_bytes() for path in run_dir.rglob("*.corrupt*")]
        assert damaged in kept, f"{name}: what stood behind the damage is gone"


@pytest.mark.row(20)
@pytest.mark.slice
def test_a_log_cut_or_flipped_somewhere_recovers_its_intact_frames_and_tells_the_damage(
    killed: Killed, tmp_path: Path, expman: list[str], rng: random.Random
) -> None:
    everything(killed, tmp_path, expman, cases(killed, rng, all_of_them=False))


@pytest.mark.row(20)
@pytest.mark.timeout(1800)
def test_a_log_cut_at_each_byte_and_with_each_byte_flipped_recovers_its_intact_frames(
    killed: Killed, tmp_path: Path, expman: list[str], rng: random.Random
) -> None:
    everything(killed, tmp_path, expman, cases(killed, rng, all_of_them=True))


def everything(
    killed: Killed, tmp_path: Path, expman: list[str], damages: dict[str, tuple[int, bytes]]
) -> None:
    """Doctors look at all runs, mend them, and have nothing left to do; each run is then proved."""
    all_rows = read_rows(killed.run_dir)
    names = list(damages)
    problems = []
    for start in range(0, len(names), BULK):
        base = tmp_path / f"bulk-{start}"
        for name in names[start : start + BULK]:
            run_dir = killed.copy(base / "exp" / name)
            (run_dir / ".expman" / killed.log).write_bytes(damages[name][1])
        before = snapshot(base)
        code, found = doctor(expman, base)
        assert code != 0, "runs that crashed, with damaged logs"
        said: dict[str, str] = defaultdict(str)
        for finding in found["findings"]:
            said[Path(finding["run"]).name] += json.dumps(finding)
        assert snapshot(base) == before, "a look changes nothing"
        settles(expman, base)
        for name in names[start : start + BULK]:
            run_dir = base / "exp" / name
            try:
                check(killed, name, damages[name], run_dir, all_rows, said[name])
                assert record(run_dir)["status"] == "crashed"
                no_temp_files(run_dir)
            except AssertionError as error:
                problems.append(str(error))
        shutil.rmtree(base)
    assert not problems, f"{len(problems)} of {len(names)}:\n" + "\n".join(problems[:40])


@pytest.mark.row(20)
@pytest.mark.slice
@pytest.mark.parametrize("how", ["cut", "flip", "zeros", "noise behind", "empty", "gone"])
def test_a_run_with_a_damaged_log_is_read_and_recovered_by_hand_as_well(
    killed: Killed, tmp_path: Path, expman: list[str], rng: random.Random, how: str
) -> None:
    start, end = killed.frames[-2]
    middle = rng.randrange(start + 12, end)
    intact, damaged = {
        "cut": (start, killed.bytes[:middle]),
        "flip": (start, flipped(killed.bytes, middle, 1)),
        "zeros": (start, killed.bytes[:start] + bytes(4096)),
        "noise behind": (len(killed.bytes), killed.bytes + rng.randbytes(100)),
        "empty": (0, b""),
        "gone": (0, b""),
    }[how]
    run_dir = killed.copy(tmp_path / "copy/exp/run")
    log = run_dir / ".expman" / killed.log
    if how == "gone":
        log.unlink()
    else:
        log.write_bytes(damaged)
    before = command.inspect(expman, run_dir)
    assert before["meta"]["status"] != "running", "nobody owns it"
    command.run(expman, "export", run_dir, "-f", "jsonl", "-o", tmp_path / "out.jsonl")
    done = command.run(expman, "recover", run_dir)
    # A tail of zeros is what a power cut leaves of a write: torn like one that is cut off.
    damage_told = how in ("flip", "noise behind")
    assert done.returncode == (4 if damage_told else 0), done.stderr
    all_rows = read_rows(killed.run_dir)
    rows = read_rows(run_dir)
    there = {(row.rank, row.attempt, row.seq, row.key) for row in rows}
    for row in killed.rows_within(all_rows, intact):
        assert (row.rank, row.attempt, row.seq, row.key) in there
    if damage_told:
        told = " ".join(event["what"] for event in events(run_dir, "problem"))
        assert killed.log in told
        assert damaged in [path.read_bytes() for path in run_dir.rglob("*.corrupt*")]
    settles(expman, run_dir)


# --- row 21: the other files -------------------------------------------------------------------

DAMAGES: dict[str, Callable[[Path], object]] = {
    "no run.yaml": lambda run: (run / "run.yaml").unlink(),
    "empty run.yaml": lambda run: (run / "run.yaml").write_bytes(b""),
    "run.yaml is no YAML": lambda run: (run / "run.yaml").write_bytes(b"name: [unclosed"),
    "no config.yaml": lambda run: (run / "config.yaml").unlink(),
    "no metrics.parquet": lambda run: (run / "metrics.parquet").unlink(),
    "empty metrics.parquet": lambda run: (run / "metrics.parquet").write_bytes(b""),
    "metrics.parquet without a footer": lambda run: os.truncate(run / "metrics.parquet", 100),
    "no events.jsonl": lambda run: (run / "events.jsonl").unlink(),
    "half a line in events.jsonl": lambda run: append(run / "events.jsonl", b'{"id":"1.99","ti'),
    "half-made files": lambda run: [
        (run / name).write_bytes(b"PAR1 half")
        for name in ("metrics.parquet.tmp", "run.yaml.tmp", ".expman/seg-x.parquet.tmp")
    ],
    "no owner.json": lambda run: (run / ".expman/owner.json").unlink(),
    "no LOCK": lambda run: (run / ".expman/LOCK").unlink(),
    "no console.log": lambda run: (run / "console.log").unlink(),
}
"""What may be wrong with a run whose owner was killed before it sealed anything."""


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@pytest.mark.row(21)
@pytest.mark.slice
def test_what_is_missing_or_half_made_is_rebuilt_from_the_log(
    killed: Killed, tmp_path: Path, expman: list[str]
) -> None:
    base = tmp_path / "damaged"
    names = {name: name.replace(" ", "-").replace("/", "-") for name in DAMAGES}
    for name, damage in DAMAGES.items():
        damage(killed.copy(base / "exp" / names[name]))
    for look in ("list", "inspect"):
        command.run(expman, look, base / "exp" / names["no run.yaml"])  # whatever they say
    code, found = doctor(expman, base)
    assert code != 0
    settles(expman, base)
    problems = []
    for name in DAMAGES:
        run_dir = base / "exp" / names[name]
        try:
            killed.ledger.prove(run_dir)
            assert record(run_dir)["status"] == "crashed"
            assert record(run_dir)["rows"] == len(killed.ledger.entries)
            no_temp_files(run_dir)
        except (AssertionError, OSError, ValueError) as error:
            problems.append(f"{name}: {error!r}")
    assert not problems, "\n".join(problems) + f"\n{found}"


@pytest.mark.row(21)
@pytest.mark.slice
@pytest.mark.parametrize("damage", ["no footer", "gone", "flipped"])
def test_a_finished_run_whose_only_copy_is_damaged_is_told_and_left_alone(
    programs: Programs, tmp_path: Path, expman: list[str], damage: str
) -> None:
    ranks = programs.ranks(1, run_name="run")
    ranks.log(500)
    ranks.close()
    path = ranks.run_dir / "metrics.parquet"
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-50] if damage == "no footer" else flipped(data, len(data) - 9, 255))
    before = snapshot(ranks.run_dir)
    code, found = doctor(expman, ranks.run_dir)
    assert code != 0
    assert "metrics.parquet" in str(found)
    assert snapshot(ranks.run_dir) == before
    doctor(expman, ranks.run_dir, "--fix")
    first = snapshot(ranks.run_dir)
    if damage != "gone":
        kept = [content for _, content in first.values()]
        assert before["metrics.parquet"][1] in kept, "nobody throws away what a person may mend"
    doctor(expman, ranks.run_dir, "--fix")
    assert snapshot(ranks.run_dir) == first, "the second time changes nothing"
