"""Ranks and owners that die, stop and come back: nothing acknowledged is lost, nothing doubled."""

from __future__ import annotations

import json
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ledger import read_rows
from processes import Programs, Rank, Ranks, is_alive, kill_owner, owner_of, stop, until


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run_dir / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def record(run_dir: Path) -> dict[str, Any]:
    loaded = yaml.safe_load((run_dir / "run.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def opened(run_dir: Path, version: str) -> bool:
    return any(event["version"] == version for event in events(run_dir, "flush_opened"))


def test_a_rank_killed_inside_a_barrier_is_named_and_the_others_are_durable(
    programs: Programs,
) -> None:
    ranks = programs.ranks(4)
    ranks.log(100)
    assert ranks[0].ask("flush")["complete"]
    stop(ranks[3].pid)  # it owes an answer for as long as it is stopped
    ranks[0].ask("start_flush", name="f", timeout=30)
    until(lambda: opened(ranks.run_dir, "1.2"))
    assert not ranks[0].ask("is_flushed", name="f")
    start = time.monotonic()
    ranks[3].signal(signal.SIGKILL)
    report = ranks[0].ask("end_flush", name="f")
    assert time.monotonic() - start < 8, "the death ends the barrier, not its deadline"
    assert not report["complete"]
    assert [report["ranks"][str(r)]["state"] for r in range(4)] == ["durable"] * 3 + ["dead"]
    dead = report["ranks"]["3"]
    assert dead["seq"] == 100
    assert dead["last_step"] == 99
    assert abs(time.time() - dead["last_seen"]) < 60
    after = ranks[1].ask("flush")
    assert after["complete"], "the next version does not wait for the dead"
    assert sorted(after["ranks"]) == ["0", "1", "2"]
    for rank in ranks[:3]:
        rank.ask("close")
    ranks.ledger.prove(ranks.run_dir)
    assert [event["rank"] for event in events(ranks.run_dir, "rank_lost")] == [3]
    assert record(ranks.run_dir)["status"] == "crashed"


def test_a_stopped_rank_times_out_and_its_late_answer_is_harmless(programs: Programs) -> None:
    ranks = programs.ranks(3)
    ranks.log(50)
    stop(ranks[1].pid)
    report = ranks[0].ask("flush", timeout=1.0)
    assert not report["complete"]
    assert 1.0 <= report["elapsed"] < 2.0
    assert [report["ranks"][str(r)]["state"] for r in range(3)] == ["durable", "timeout", "durable"]
    assert report["ranks"]["1"]["seq"] <= 50
    ranks[1].signal(signal.SIGCONT)
    after = ranks[2].ask("flush")
    assert after["complete"]
    assert [after["ranks"][str(r)]["seq"] for r in range(3)] == [50, 50, 50]
    ranks.log(50)
    ranks.close()
    ranks.ledger.prove(ranks.run_dir)
    closed = events(ranks.run_dir, "flush_closed")
    assert [(event["complete"], event["missing"]) for event in closed] == [
        (False, [1]),
        (True, []),
    ]


def test_the_owner_killed_under_load_costs_nothing_and_a_pending_flush_completes(
    programs: Programs,
) -> None:
    ranks = programs.ranks(4)
    ranks.log(50)
    assert ranks[0].ask("flush")["complete"]
    ranks.ask("pour")
    owner = owner_of(ranks.run_dir)
    stop(owner)  # so that the flush is surely pending when it dies
    ranks[2].ask("start_flush", name="f", timeout=40)
    time.sleep(0.2)  # let the ranks log more than the owner has taken in
    kill_owner(ranks.run_dir)
    report = ranks[2].ask("end_flush", name="f")
    assert report["complete"]
    assert sorted(report["ranks"]) == ["0", "1", "2", "3"], "also those that were not back yet"
    assert report["version"].startswith("2.")
    for rank, done in zip(ranks, ranks.ask("stop_pouring")):
        ranks.note(rank, done)
    assert owner_of(ranks.run_dir) != owner
    assert ranks[1].ask("flush")["complete"]
    ranks.ledger.prove(ranks.run_dir)
    ranks.close()
    ranks.ledger.prove(ranks.run_dir)
    assert record(ranks.run_dir)["owner_epoch"] == 2
    assert record(ranks.run_dir)["status"] == "finished"
    assert [event["epoch"] for event in events(ranks.run_dir, "owner_changed")] == [2]


def test_a_flush_right_after_the_owner_died_waits_for_all_ranks(programs: Programs) -> None:
    ranks = programs.ranks(3)
    ranks.log(20)
    stop(ranks[1].pid)  # it can't come back by itself
    kill_owner(ranks.run_dir)
    report = ranks[0].ask("flush", timeout=4.0)
    assert not report["complete"], "a rank that has not come back is not durable"
    assert report["ranks"]["1"]["state"] == "timeout"
    ranks[1].signal(signal.SIGCONT)
    after = ranks[0].ask("flush")
    assert after["complete"]
    assert sorted(after["ranks"]) == ["0", "1", "2"]
    ranks.close()
    ranks.ledger.prove(ranks.run_dir)


def test_owners_killed_again_and_again_lose_and_double_nothing(programs: Programs) -> None:
    ranks = programs.ranks(2)
    ranks.ask("pour")
    for epoch in range(2, 6):
        kill_owner(ranks.run_dir)
        report = ranks[epoch % 2].ask("flush", timeout=30)
        assert report["complete"]
        assert report["version"].startswith(f"{epoch}.")
    for rank, done in zip(ranks, ranks.ask("stop_pouring")):
        ranks.note(rank, done)
    ranks.close()
    ranks.ledger.prove(ranks.run_dir)
    assert record(ranks.run_dir)["owner_epoch"] == 5


def has_logged(rank: Rank, n: int) -> bool:
    return int(rank.ask("stats")["accepted_seq"]) > n


def kill_everything(ranks: Ranks) -> None:
    owner = owner_of(ranks.run_dir)
    pids = [owner, *(rank.pid for rank in ranks)]
    for pid in pids:
        stop(pid)  # so that none of them reacts to the others' deaths
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(is_alive, pids)))


def test_everything_killed_right_after_a_flush_keeps_all_flushed_rows(programs: Programs) -> None:
    ranks = programs.ranks(4)
    for _ in range(3):
        ranks.log(40)
        report = ranks[3].ask("flush")
    kill_everything(ranks)
    assert report["complete"]
    assert report["rows"] == len(ranks.ledger.entries)
    ranks.ledger.prove(ranks.run_dir)


def test_everything_killed_under_load_keeps_a_prefix_of_every_rank_and_resumes(
    programs: Programs,
) -> None:
    ranks = programs.ranks(2, run_name="r")
    poured = ranks.ask("pour")
    for rank in ranks:
        until(partial(has_logged, rank, 50))
    report = ranks[0].ask("flush")
    assert report["complete"]
    kill_everything(ranks)
    rows = read_rows(ranks.run_dir)
    for rank, start in zip(ranks, poured):
        last = max(row.seq for row in rows if row.rank == rank.rank)
        durable = report["ranks"][str(rank.rank)]["seq"]
        assert last >= durable
        stop = start["start"] + last - start["first_seq"] + 1
        ranks.note(rank, {**start, "stop": stop})
    ranks.ledger.prove(ranks.run_dir)

    again = programs.ranks(2, group="another launch", run_name="r", resume=True)
    assert again.run_dir == ranks.run_dir
    assert [rank.attempt for rank in again] == [1, 1]
    again.ledger = ranks.ledger
    again.log(30)
    again.close()
    again.ledger.prove(again.run_dir)
    assert record(again.run_dir)["status"] == "finished"
    kept = record(again.run_dir)["ranks"]
    assert {r: [a["state"] for a in attempts] for r, attempts in kept.items()} == {
        0: ["lost", "left"],
        1: ["lost", "left"],
    }


def test_a_killed_rank_crashes_the_run_and_loses_only_its_last_moments(
    programs: Programs,
) -> None:
    ranks = programs.ranks(2)
    ranks.log(100)
    time.sleep(0.5)  # ten times what a row may take until it has left the process
    ranks[1].signal(signal.SIGKILL)
    ranks[1].process.wait(10)
    until(lambda: events(ranks.run_dir, "rank_lost"), within=10)
    assert ranks[0].ask("flush")["complete"]
    assert ranks[0].ask("close")
    ranks.ledger.prove(ranks.run_dir)
    assert record(ranks.run_dir)["status"] == "crashed"
    lost = record(ranks.run_dir)["ranks"][1][0]
    assert (lost["state"], lost["status"], lost["rows"]) == ("lost", "crashed", 100)


def test_a_rank_that_starts_again_continues_its_run_as_another_attempt(
    programs: Programs,
) -> None:
    ranks = programs.ranks(2)
    ranks.log(10)
    assert ranks[0].ask("flush")["complete"]
    ranks[1].kill()
    reborn = programs.rank()
    reborn.tell(
        "init",
        **programs.options(rank=1, world_size=2, group="g", redirect_console=False),
    )
    ranks[1] = reborn.joined()
    assert ranks[1].attempt == 1
    ranks.log(10)  # steps 0 to 9 again from the one, 10 to 19 from the other
    ranks.close()
    ranks.ledger.prove(ranks.run_dir)
    assert record(ranks.run_dir)["status"] == "finished", "the last attempt speaks for its rank"


def test_a_late_answer_of_a_former_owner_s_link_changes_nothing(programs: Programs) -> None:
    ranks = programs.ranks(2)
    ranks.log(10)
    owner = owner_of(ranks.run_dir)
    stop(owner)
    ranks.log(10)
    late = ranks[0].ask("flush", timeout=0.5)
    assert not late["complete"]
    assert late["version"] == "0.0", "no owner answered"
    os.kill(owner, signal.SIGCONT)
    after = ranks[0].ask("flush")
    assert after["complete"]
    assert after["ranks"]["0"]["seq"] == 20
    assert owner_of(ranks.run_dir) == owner
    ranks.close()
    ranks.ledger.prove(ranks.run_dir)
