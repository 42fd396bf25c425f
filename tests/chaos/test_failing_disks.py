"""Rows 17, 18, 24: disks that are full, fail or are slow; nothing is falsely acknowledged."""

from __future__ import annotations

import os
import re
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from ledger import Row, read_console, read_rows
from processes import Programs, Ranks, is_alive, kill_owner, owner_of, stop, until

from .command import recover
from .faults import limit, small_disk
from .faults_storage import Ballast, Meddled, meddled
from .oracles import (
    events,
    fast_calls,
    gaps,
    no_temp_files,
    record,
    settles,
    within,
)
from .puppet import puppet
from .victims import Zygote

pytestmark = pytest.mark.usefixtures("as_root")

MIB = 1 << 20

# --- row 18: system calls that fail ------------------------------------------------------------

SLICE = pytest.mark.slice

FAILING = {
    "the first sync fails": (["fdatasync:error=EIO:when=1"], SLICE),
    "the second and fifth sync fail": (["fdatasync:error=EIO:when=2+3"], ()),
    "a sync has no room": (["fdatasync:error=ENOSPC:when=1"], ()),
    "a sync is interrupted": (["fdatasync:error=EINTR:when=1+2"], ()),
    "a write fails": (["pwrite64:error=EIO:when=1"], ()),
    "writes fail again and again": (["pwrite64:error=EIO:when=2..8+2"], SLICE),
    "a write has no room": (["pwrite64:error=ENOSPC:when=1"], ()),
    "writes are interrupted": (["pwrite64:error=EINTR:when=1+2"], ()),
    "a write and the cut behind it fail": (
        ["pwrite64:error=EIO:when=2", "ftruncate:error=EIO:when=1"],
        (),
    ),
    "a write and a sync fail": (["pwrite64:error=EIO:when=1", "fdatasync:error=EIO:when=1"], ()),
    "files can not be made": (["openat:error=ENOSPC:when=1..4"], ()),
    "a sync of a new file has no room": (["fsync:error=ENOSPC:when=1..2"], ()),
    "a rename has no room": (["/^rename:error=ENOSPC:when=1..2"], SLICE),
    "a rename fails": (["/^rename:error=EIO:when=1"], ()),
}


@pytest.mark.row(18)
@pytest.mark.parametrize(
    "inject",
    [pytest.param(inject, marks=marks, id=name) for name, (inject, marks) in FAILING.items()],
)
def test_a_failing_call_of_the_owner_is_survived_and_nothing_is_falsely_acknowledged(
    programs: Programs, tmp_path: Path, expman: list[str], inject: list[str]
) -> None:
    ranks = programs.ranks(2)
    ranks.log(50)
    assert ranks[0].ask("flush")["complete"]
    owner = owner_of(ranks.run_dir)
    with meddled(owner, *inject, folder=tmp_path) as calls:
        for n in range(5):
            ranks.log(20)
            report = ranks[n % 2].ask("flush", timeout=25, publish=n == 3)
            acknowledged(ranks, report)
            assert report["complete"], "what failed was tried again"
        until(calls.injected, 10, "a call that was meddled with")
        never_synced_again(calls)
    assert owner_of(ranks.run_dir) == owner, "no failing call ends the owner"
    assert is_alive(owner)
    ranks.log(20)
    ranks.close()
    ranks.ledger.prove(ranks.run_dir)
    assert record(ranks.run_dir)["status"] == "finished"
    assert not gaps(ranks.run_dir)
    if not any("EINTR" in what for what in inject):
        said = [event["what"] for event in events(ranks.run_dir, "problem")]
        said.append((ranks.run_dir / ".expman/owner.log").read_text())
        assert any("os error" in text for text in said), "what failed was told"
    no_temp_files(ranks.run_dir)
    settles(expman, ranks.run_dir)


def acknowledged(ranks: Ranks, report: dict[str, Any]) -> None:
    """What a report calls durable is on the disk now."""
    durable = {
        int(rank): outcome["seq"]
        for rank, outcome in report["ranks"].items()
        if outcome["state"] == "durable"
    }
    nothing = dict.fromkeys((rank.rank for rank in ranks), 0)
    ranks.ledger.prove(ranks.run_dir, {**nothing, **durable})


def never_synced_again(calls: Meddled) -> None:
    """A commit log whose sync failed is never synced again: the kernel forgets what it lost."""
    poisoned = set()
    for line in calls.calls():
        found = re.search(r"fdatasync\(\d+<([^>]*\.wal)>\) += (.*)", line)
        if found:
            assert found[1] not in poisoned, f"{found[1]} was synced again after a failed sync"
            if found[2].startswith("-1 E") and "EINTR" not in found[2]:
                poisoned.add(found[1])


@pytest.mark.row(18)
@pytest.mark.slice
def test_what_a_failed_sync_may_have_lost_is_never_relied_on(
    programs: Programs, tmp_path: Path, expman: list[str]
) -> None:
    ranks = programs.ranks(1)
    rank = ranks[0]
    ranks.log(50)
    assert rank.ask("flush")["complete"]
    sizes = {log: log.stat().st_size for log in ranks.run_dir.glob(".expman/wal-*.wal")}
    owner = owner_of(ranks.run_dir)
    with meddled(owner, "fdatasync:error=EIO:when=1", folder=tmp_path) as calls:
        ranks.log(50)
        assert rank.ask("flush", timeout=25)["complete"]
        until(calls.injected, 10)
    for pid in (owner, rank.pid):
        stop(pid)
    for pid in (owner, rank.pid):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(owner) and not is_alive(rank.pid))
    # The kernel marks pages clean whose writing failed: what they held was never on the disk.
    for log, size in sizes.items():
        if log.exists():
            os.truncate(log, size)
    ranks.ledger.prove(ranks.run_dir)
    recover(expman, ranks.run_dir)
    ranks.ledger.prove(ranks.run_dir)


@pytest.mark.row(18)
@pytest.mark.slice
def test_while_every_sync_fails_nothing_is_durable_and_then_everything_is(
    programs: Programs, tmp_path: Path
) -> None:
    ranks = programs.ranks(2)
    ranks.log(10)
    assert ranks[0].ask("flush")["complete"]
    owner = owner_of(ranks.run_dir)
    with meddled(owner, "fdatasync,fsync:error=EIO", folder=tmp_path) as calls:
        ranks.log(30)
        for timeout in (0.5, 1.5):
            with within(timeout + 1.0, "the flush"):
                report = ranks[1].ask("flush", timeout=timeout)
            assert not report["complete"]
            assert {outcome["state"] for outcome in report["ranks"].values()} == {"timeout"}
            assert all(outcome["seq"] <= 10 for outcome in report["ranks"].values())
        assert calls.injected()
        told = until(lambda: ranks[0].ask("stats")["last_error"], 10, "the trouble in stats()")
        assert "os error 5" in told or "Input/output error" in told
        assert ranks[0].ask("stats")["durable_seq"] == 10
    assert ranks[1].ask("flush", timeout=25)["complete"]
    assert owner_of(ranks.run_dir) == owner
    ranks.close()
    ranks.ledger.prove(ranks.run_dir)
    assert record(ranks.run_dir)["status"] == "finished"


@pytest.mark.row(18)
@pytest.mark.slice
def test_a_short_write_is_cut_and_written_again(programs: Programs) -> None:
    ranks = programs.ranks(2)
    ranks.log(50)
    assert ranks[0].ask("flush")["complete"]
    owner = owner_of(ranks.run_dir)
    (log,) = ranks.run_dir.glob(".expman/wal-*.wal")
    # The next write goes as far as this and is short, what follows fails: no file may be larger.
    limit(owner, resource.RLIMIT_FSIZE, log.stat().st_size + 100)
    ranks.log(200)
    report = ranks[0].ask("flush", timeout=1.0)
    acknowledged(ranks, report)
    assert not report["complete"]
    limit(owner, resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
    assert ranks[0].ask("flush", timeout=25)["complete"]
    assert owner_of(ranks.run_dir) == owner
    ranks.ledger.prove(ranks.run_dir)
    ranks.close()
    ranks.ledger.prove(ranks.run_dir)


@pytest.mark.row(7, 18)
@pytest.mark.parametrize(
    "inject",
    [
        pytest.param("fsync:error=EIO:when=1", marks=SLICE),
        "ftruncate:error=ENOSPC:when=1",
        "/^rename:error=ENOSPC:when=1",
        "openat:error=ENOSPC:when=30",
        "pwrite64:error=ENOSPC:when=1",
    ],
)
def test_an_owner_that_fails_while_it_starts_is_started_again(
    programs: Programs, tmp_path: Path, inject: str
) -> None:
    ranks = programs.ranks(1)
    ranks.log(50)
    assert ranks[0].ask("flush")["complete"]
    with meddled(ranks[0].pid, inject, folder=tmp_path):
        kill_owner(ranks.run_dir)  # every owner that the rank starts from here on fails
        ranks.log(50)
        report = ranks[0].ask("flush", timeout=1.5)
        acknowledged(ranks, report)
    assert ranks[0].ask("flush", timeout=25)["complete"]
    ranks.log(50)
    ranks.close()
    ranks.ledger.prove(ranks.run_dir)
    assert record(ranks.run_dir)["status"] == "finished"


@pytest.mark.row(18)
@pytest.mark.parametrize(
    "name", [pytest.param("run.log", marks=SLICE), "console.log", "events.jsonl"]
)
def test_texts_survive_failing_writes_and_syncs_line_by_line(
    zygote: Zygote, exps: Path, tmp_path: Path, name: str
) -> None:
    rank = puppet(zygote, base_dir=str(exps), redirect_console=True)
    rank.do("exp.info('first')", "print('first')")
    assert rank.flush()["complete"]
    owner = owner_of(rank.run_dir)
    path = rank.run_dir / name
    inject = ["pwrite64,write:error=EIO:when=1+3", "fdatasync,fsync:error=EIO:when=1+3"]
    with meddled(owner, *inject, folder=tmp_path, paths=[path]) as calls:
        for n in range(40):
            rank.do(
                f"exp.info('line {n}')", f"print('line {n}')", f"exp.log_params({{'p{n}': {n}}})"
            )
            if n % 8 == 7:
                assert rank.flush(timeout=25)["complete"]
        until(calls.injected, 10)
    rank.do("exp.info('last')", "print('last')")
    rank.close()
    expected = ["first", *(f"line {n}" for n in range(40)), "last"]
    lines = (rank.run_dir / "run.log").read_text().splitlines()
    assert [line.rsplit("] ", 1)[1] for line in lines] == expected
    console = read_console(rank.run_dir / "console.log")
    assert [line.decode() for _, stream, line in console if stream == "out"] == expected
    told = [key for event in events(rank.run_dir, "params") for key in event["keys"]]
    assert told == [f"p{n}" for n in range(40)]


# --- row 17: full disks ------------------------------------------------------------------------


@pytest.mark.row(17)
@pytest.mark.slice
def test_a_disk_that_is_full_for_a_while_costs_nothing_as_long_as_the_queue_holds(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with small_disk(tmp_path / "disk", 24 * MIB) as at:
        programs: Programs = request.getfixturevalue("programs")
        ranks = programs.ranks(2, base_dir=str(at))
        ranks.log(50)
        assert ranks[0].ask("flush")["complete"]
        owner = owner_of(ranks.run_dir)
        ballast = Ballast(at)
        ballast.fill()
        ranks.log(2000)
        with within(2.5, "the flush"):
            report = ranks[0].ask("flush", timeout=1.5)
        acknowledged(ranks, report)
        assert not report["complete"]
        told = until(lambda: ranks[0].ask("stats")["last_error"], 10, "the trouble in stats()")
        assert "No space left" in told
        ballast.free()
        assert ranks[1].ask("flush", timeout=25)["complete"]
        assert owner_of(ranks.run_dir) == owner
        assert until(lambda: ranks[0].ask("stats")["last_error"] is None, 10, "its end")
        ranks.log(50)
        ranks.close()
        ranks.ledger.prove(ranks.run_dir)
        assert not gaps(ranks.run_dir)
        assert record(ranks.run_dir)["status"] == "finished"


@pytest.mark.row(17)
@pytest.mark.slice
def test_a_disk_full_beyond_the_queue_drops_the_newest_counts_them_and_resumes(
    zygote: Zygote, tmp_path: Path, expman: list[str]
) -> None:
    with small_disk(tmp_path / "disk", 64 * MIB) as at:
        rank = puppet(zygote, base_dir=str(at), redirect_console=False)
        first = rank.log(1000)
        assert rank.flush()["complete"]
        ballast = Ballast(at)
        ballast.fill(2 * MIB)
        flood = rank.log(40_000, text_bytes=1000)  # 30 MB at least: ring and disk hold less
        assert rank.stats()["dropped"], "the queue and what was left of the disk hold less"
        with within(2.0, "the flush"):
            report = rank.flush(timeout=1.0)
        durable = report["ranks"]["0"]["seq"] if report["ranks"] else 0
        assert not report["complete"]
        on_disk = max(row.seq for row in read_rows(rank.run_dir))
        assert durable <= on_disk, "nothing is falsely acknowledged"
        ballast.free()
        until(lambda: rank.flush(timeout=10)["complete"], 30, "a complete flush")
        last = rank.log(1000)
        assert rank.flush(timeout=10)["complete"]
        dropped = sum(rank.stats()["dropped"].values())
        rank.close()
        fast_calls([*first, *flood, *last])
        rows = read_rows(rank.run_dir)
        steps = [row.step for row in rows]
        assert len(steps) == len(set(steps)), "nothing twice"
        told = events(rank.run_dir, "gap")
        assert sum(gap["count"] for gap in told) == dropped == 42_000 - len(steps)
        accounted(rows, told, 42_000)
        assert record(rank.run_dir)["dropped"] == dropped
        assert {gap["reason"] for gap in told} == {"queue full"}
        assert set(range(1000)) | set(range(41_000, 42_000)) <= set(steps), "it resumed"
        settles(expman, rank.run_dir)


@pytest.mark.row(17, 2)
def test_a_program_ends_in_time_on_a_full_disk_and_says_what_is_not_durable(
    zygote: Zygote, tmp_path: Path, expman: list[str]
) -> None:
    with small_disk(tmp_path / "disk", 24 * MIB) as at:
        rank = puppet(zygote, base_dir=str(at), redirect_console=False)
        rank.log(100)
        assert rank.flush()["complete"]
        ballast = Ballast(at)
        ballast.fill()
        rank.log(1000)
        with within(7.0, "the end of the program"):
            rank.victim.tell(None)
            assert rank.victim.wait() == 0, "training's exit code is its own"
        assert "101 to 1100 of rank 0" in rank.victim.text()
        ballast.free()
        ended = until(lambda: record(rank.run_dir)["status"] != "running", 30, "end of the run")
        assert ended
        steps = sorted(row.step or 0 for row in read_rows(rank.run_dir))
        assert steps == list(range(1100)), "the owner wrote them when it could"


def accounted(rows: list[Row], told: list[dict[str, Any]], steps: int) -> None:
    """A: between two rows that are there, exactly so many are missing as the gaps there say.

    A gap is told by a record, which has a number itself.
    """
    edges = [(0, -1), *sorted((row.seq, row.step or 0) for row in rows), (1 << 62, steps)]
    for (seq, step), (next_seq, next_step) in zip(edges, edges[1:]):
        if next_step != step + 1:
            between = [g for g in told if seq < g["from_seq"] and g["to_seq"] < next_seq]
            assert next_step - step - 1 == sum(gap["count"] for gap in between), between


# --- row 24: slow disks ------------------------------------------------------------------------


@pytest.mark.row(24)
@pytest.mark.slice
def test_a_slow_disk_does_not_slow_logging_down(zygote: Zygote, exps: Path, tmp_path: Path) -> None:
    ranks = [
        puppet(zygote, base_dir=str(exps), rank=n, world_size=2, group="g", redirect_console=False)
        for n in range(2)
    ]
    owner = owner_of(ranks[0].run_dir)
    times: list[list[int]] = [[], []]
    with meddled(owner, "fdatasync,fsync:delay_exit=500000", folder=tmp_path) as calls:
        for _ in range(4):
            for n, rank in enumerate(ranks):
                times[n] += rank.log(1000)
            with within(6.0, "a flush: a sync that was under way, and its own"):
                assert ranks[0].flush(timeout=30)["complete"]
        assert calls.injected() >= 4
    for n, rank in enumerate(ranks):
        rank.close()
        fast_calls(times[n])
    rows = read_rows(ranks[0].run_dir)
    assert len(rows) == len({(row.rank, row.seq) for row in rows}) == 8000
