"""Row 19: the power goes at any instant; every acknowledged row is there when it comes back."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from ledger import KEYS
from processes import Programs, Ranks, is_alive, kill_owner, owner_of, stop, until

from .command import recover
from .faults_storage import after_power_cut, disk
from .oracles import record, settles, snapshot

pytestmark = pytest.mark.usefixtures("as_root")

CUTS_IN_SLICE = 3
CUTS = 60


@pytest.mark.row(19)
@pytest.mark.parametrize(
    ("cuts", "kills"),
    [
        pytest.param(CUTS_IN_SLICE, False, marks=pytest.mark.slice),
        pytest.param(CUTS, False, marks=pytest.mark.timeout(600)),
        pytest.param(CUTS // 3, True, marks=pytest.mark.timeout(600)),
    ],
)
def test_after_a_power_cut_every_acknowledged_row_is_there(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    expman: list[str],
    rng: random.Random,
    cuts: int,
    kills: bool,
) -> None:
    with disk(tmp_path) as drive:
        programs: Programs = request.getfixturevalue("programs")
        ranks = programs.ranks(2, base_dir=str(drive.at), run_name="run")
        ranks.ask("pour")
        taken = []
        for n in range(cuts):
            time.sleep(rng.uniform(0.0, 0.3))
            if kills and n % 4 == 3:
                assert ranks[0].ask("flush", timeout=20)["complete"], "an owner lives"
                kill_owner(ranks.run_dir)
            # What the ranks know to be durable before the power goes, by a flush or by itself.
            durable = {rank.rank: rank.ask("stats")["durable_seq"] for rank in ranks}
            if rng.random() < 0.5:
                report = rng.choice(ranks).ask("flush", timeout=20, publish=rng.random() < 0.3)
                assert report["complete"]
                durable = {int(rank): found["seq"] for rank, found in report["ranks"].items()}
            taken.append((drive.cut(), durable))
        for rank, done in zip(ranks, ranks.ask("stop_pouring")):
            ranks.note(rank, done)
        ranks.close()
        ranks.ledger.prove(ranks.run_dir)
        where = ranks.run_dir.relative_to(drive.at)
    assert sum(any(durable.values()) for _, durable in taken) > len(taken) // 2
    for cut, durable in taken:
        with after_power_cut(cut) as at:
            ranks.ledger.prove(at / where, durable)
            recover(expman, at / where)
            ranks.ledger.prove(at / where, durable)
            assert record(at / where)["status"] == "crashed"
            settles(expman, at / where)


@pytest.mark.row(19)
@pytest.mark.slice
def test_a_run_goes_on_after_a_power_cut_with_what_was_acknowledged(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with disk(tmp_path) as drive:
        programs: Programs = request.getfixturevalue("programs")
        ranks = programs.ranks(2, base_dir=str(drive.at), run_name="run")
        ranks.log(100)
        report = ranks[0].ask("flush")
        assert report["complete"]
        ranks.log(100)
        cut = drive.cut()
        kill_all(ranks)
    durable = {int(rank): found["seq"] for rank, found in report["ranks"].items()}
    with after_power_cut(cut) as at:
        kept = ranks.ledger.prove(at / "exp/run", durable)
        again = programs.ranks(
            2, group="another launch", base_dir=str(at), run_name="run", resume=True
        )
        assert [rank.attempt for rank in again] == [1, 1]
        again.ledger = ranks.ledger
        again.log(50)
        again.close()
        rows = again.ledger.prove(again.run_dir, durable)
        assert len(rows) == len(kept) + 2 * 50 * len(KEYS), "what was there, and what is new"
        assert record(again.run_dir)["status"] == "finished"


@pytest.mark.row(19)
@pytest.mark.slice
def test_what_close_has_sealed_is_there_when_the_power_goes_right_behind_it(
    request: pytest.FixtureRequest, tmp_path: Path, expman: list[str]
) -> None:
    with disk(tmp_path) as drive:
        programs: Programs = request.getfixturevalue("programs")
        ranks = programs.ranks(2, base_dir=str(drive.at), run_name="run")
        ranks.log(300)
        assert sorted(ranks.ask("close")) == [False, True]
        cut = drive.cut()
    with after_power_cut(cut) as at:
        run_dir = at / "exp/run"
        before = snapshot(run_dir)
        ranks.ledger.prove(run_dir)
        assert record(run_dir)["status"] == "finished"
        assert {rank: each[0]["state"] for rank, each in record(run_dir)["ranks"].items()} == {
            0: "left",
            1: "left",
        }
        settles(expman, run_dir)
        assert snapshot(run_dir) == before, "there is nothing to mend"


def kill_all(ranks: Ranks) -> None:
    """The owner and all ranks, none of which sees the others die."""
    pids = [owner_of(ranks.run_dir), *(rank.pid for rank in ranks)]
    for pid in pids:
        stop(pid)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(is_alive, pids)))
