"""One run from many ranks: every accepted row exactly once, and flushes from anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ledger import read_rows
from processes import Programs, Rank, until


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_every_row_of_every_rank_is_there_exactly_once_and_in_order(
    programs: Programs, n: int
) -> None:
    ranks = programs.ranks(n)
    ranks.log(300)
    report = ranks[n - 1].ask("flush")
    assert report["complete"]
    assert sorted(map(int, report["ranks"])) == list(range(n))
    assert report["rows"] == len(ranks.ledger.entries) == n * 600
    ranks.ledger.prove(ranks.run_dir)  # durable is visible to a reader that opens the files now
    ranks.log(50)
    ranks.close()
    ranks.ledger.prove(ranks.run_dir)
    record = yaml.safe_load((ranks.run_dir / "run.yaml").read_text())
    assert record["status"] == "finished"
    assert record["rows"] == n * 700
    assert {rank: len(attempts) for rank, attempts in record["ranks"].items()} == dict.fromkeys(
        range(n), 1
    )


def test_sixteen_flushes_at_once_from_every_rank_are_each_answered_once(
    programs: Programs,
) -> None:
    ranks = programs.ranks(4)
    ranks.ask("pour")
    for rank in ranks[:2]:
        rank.tell("flush_threads", n=16)
    for rank in ranks[2:]:
        rank.tell("flush_tasks", n=16)
    answers = [rank.answer() for rank in ranks]
    for rank, done in zip(ranks, ranks.ask("stop_pouring")):
        ranks.note(rank, done)
    reports = [report for answer in answers for report in answer]
    assert len(reports) == 64
    for report in reports:
        assert report["complete"]
        assert sorted(map(int, report["ranks"])) == [0, 1, 2, 3]
        assert 0 <= report["elapsed"] < 31
    by_version: dict[str, list[int]] = {}
    for report in reports:
        by_version.setdefault(report["version"], []).append(report["rows"])
    counts = [min(by_version[v]) for v in sorted(by_version, key=lambda v: int(v[2:]))]
    assert counts == sorted(counts), "a later version has at least the rows of an earlier one"
    ranks.close()
    ranks.ledger.prove(ranks.run_dir)


def test_versions_rise_and_flushes_of_one_rank_do_not_wait_for_others(programs: Programs) -> None:
    ranks = programs.ranks(2)
    versions = []
    for rank in [*ranks, *ranks]:
        versions.append(tuple(map(int, rank.ask("flush")["version"].split("."))))
    assert versions == sorted(set(versions))
    ranks.log(3)
    own = ranks[1].ask("flush", scope="rank")
    assert own["complete"]
    assert list(own["ranks"]) == ["1"]
    assert own["ranks"]["1"]["seq"] == 3
    assert own["ranks"]["1"]["last_step"] == 2
    ranks.close()


def test_a_late_joiner_joins_the_next_version_and_the_same_run(programs: Programs) -> None:
    ranks = programs.ranks(2, world_size=3)
    ranks.log(10)
    before = ranks[0].ask("flush")
    assert sorted(before["ranks"]) == ["0", "1"]
    late = programs.rank()
    options = programs.options(rank=2, world_size=3, group="g", redirect_console=False)
    late.tell("init", **options)
    ranks.append(late.joined())
    ranks.log(10)
    after = ranks[0].ask("flush")
    assert after["complete"]
    assert sorted(after["ranks"]) == ["0", "1", "2"]
    ranks.close()
    ranks.ledger.prove(ranks.run_dir)


def test_a_rank_that_comes_when_all_others_have_left_still_gets_the_same_run(
    programs: Programs,
) -> None:
    first = programs.ranks(1, world_size=None)
    first.log(5)
    first.close()
    second = programs.rank()
    second.tell("init", **programs.options(rank=1, group="g", redirect_console=False))
    first[:] = [second.joined()]
    first.log(5)
    assert first[0].ask("close")
    first.ledger.prove(first.run_dir)
    record = yaml.safe_load((first.run_dir / "run.yaml").read_text())
    assert record["status"] == "finished"
    assert sorted(record["ranks"]) == [0, 1]


def test_two_jobs_at_the_same_time_are_never_mixed(programs: Programs) -> None:
    ranks = [programs.rank() for _ in range(4)]
    jobs = {"job a": ranks[::2], "job b": ranks[1::2]}
    for group, members in jobs.items():
        for number, rank in enumerate(members):
            rank.tell(
                "init",
                **programs.options(rank=number, world_size=2, group=group, redirect_console=False),
            )
    for rank in ranks:
        rank.joined()
    assert ranks[0].run_dir == ranks[2].run_dir
    assert ranks[1].run_dir == ranks[3].run_dir
    assert ranks[0].run_dir != ranks[1].run_dir
    for n, rank in enumerate(ranks, 1):
        rank.tell("log", n=10 * n)
    for rank in ranks:
        rank.answer()
    for rank in ranks:
        assert rank.ask("flush")["complete"]
    for rank in ranks:
        rank.ask("close")
    counts = [len(read_rows(rank.run_dir)) for rank in ranks[:2]]
    assert counts == [2 * (10 + 30), 2 * (20 + 40)]


def test_many_runs_that_start_in_a_new_experiment_at_once_all_start(programs: Programs) -> None:
    ranks = [programs.rank() for _ in range(8)]
    for rank in ranks:
        rank.tell("init", **programs.options(redirect_console=False))
    assert len({rank.joined().run_dir for rank in ranks}) == 8
    for rank in ranks:
        assert rank.ask("close")
    (description,) = programs.exps.glob("exp/experiment.yaml*")
    assert yaml.safe_load(description.read_text())["tags"] == []


def test_two_runs_in_one_process_do_not_disturb_each_other(programs: Programs) -> None:
    done = programs.run(
        """
        import sys
        import monarch_like as ml
        one = ml.Experiment("one", base_dir=sys.argv[1])
        two = ml.Experiment("two", base_dir=sys.argv[1])
        three = ml.Experiment("one", base_dir=sys.argv[1])
        for step in range(100):
            for n, exp in enumerate((one, two, three), 1):
                exp.log_metrics({"x": float(n)}, step=step)
        assert two.flush().wait().rows == 100
        one.close()
        two.log_metrics({"x": 2.0}, step=100)
        two.close()
        three.close()
        print("the end")
        for exp in (one, two, three):
            print(exp.run_dir)
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said, *folders = done.stdout.splitlines()
    assert said == "the end"
    values = [[row.value for row in read_rows(Path(folder))] for folder in folders]
    assert values == [[1.0] * 100, [2.0] * 101, [3.0] * 100]


def test_ranks_that_are_not_numbered_get_numbers_from_the_owner(programs: Programs) -> None:
    ranks: list[Rank] = [programs.rank() for _ in range(3)]
    for rank in ranks:
        rank.tell("init", **programs.options(group="g", world_size=3, redirect_console=False))
    assert sorted(rank.joined().rank for rank in ranks) == [0, 1, 2]
    for rank in ranks:
        rank.ask("close")


def test_a_flush_that_publishes_brings_all_rows_into_metrics_parquet(programs: Programs) -> None:
    ranks = programs.ranks(2)
    ranks.log(20)
    report = ranks[1].ask("flush", publish=True, tag="ckpt-1")
    assert report["complete"]
    assert not list(ranks.run_dir.glob(".expman/seg-*"))
    rows = ranks.ledger.prove(ranks.run_dir)
    assert len(rows) == 80
    events = (ranks.run_dir / "events.jsonl").read_text().splitlines()
    closed = [e for e in map(json.loads, events) if e["type"] == "flush_closed"]
    assert closed[-1]["tag"] == "ckpt-1"
    until(
        lambda: (
            (yaml.safe_load((ranks.run_dir / "run.yaml").read_text())["last_flush"] or {}).get(
                "tag"
            )
            == "ckpt-1"
        )
    )
    ranks.close()
    ranks.ledger.prove(ranks.run_dir)
