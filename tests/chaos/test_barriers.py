"""Rows 2 to 6: flushes while ranks die, stop, come and go, and while somebody answers nonsense."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ledger import read_rows
from processes import Programs, owner_of, stop, until

from . import links, oracles
from .faults import stopped, traced
from .links import RawLink
from .victims import Zygote


def opened(run_dir: Path, version: str) -> dict[str, Any] | None:
    """The event of a version's opening."""
    found = oracles.events(run_dir, "flush_opened")
    return next((event for event in found if event["version"] == version), None)


def closed(run_dir: Path) -> Counter[str]:
    """How often each version was closed."""
    return Counter(event["version"] for event in oracles.events(run_dir, "flush_closed"))


def states(report: dict[str, Any]) -> dict[int, str]:
    return {int(rank): outcome["state"] for rank, outcome in report["ranks"].items()}


# --- 2 --------------------------------------------------------------------------------------------


@pytest.mark.row(2)
@pytest.mark.slice
@pytest.mark.usefixtures("as_root")
def test_a_rank_killed_between_its_marker_and_the_acknowledgement_ends_the_barrier(
    programs: Programs,
) -> None:
    ranks = programs.ranks(3)
    ranks.log(50)
    assert ranks[0].ask("flush")["complete"]
    ranks.log(50)
    owner = owner_of(ranks.run_dir)
    with traced(owner, "fdatasync:delay_enter=700000"):
        ranks[0].tell("start_flush", name="f", timeout=30)
        ranks[0].answer()
        until(lambda: opened(ranks.run_dir, "1.2"))
        time.sleep(0.2)  # all markers are with the owner, which is still syncing what is in front
        start = time.monotonic()
        ranks[2].signal(signal.SIGKILL)
        report = ranks[0].ask("end_flush", name="f")
    assert time.monotonic() - start < 8, "the death ends the barrier, not its deadline"
    assert states(report)[0] == states(report)[1] == "durable"
    assert states(report)[2] in ("durable", "dead")
    assert report["complete"] == (states(report)[2] == "durable")
    until(lambda: oracles.events(ranks.run_dir, "rank_lost"), 12)
    assert ranks[1].ask("flush")["complete"]
    for rank in ranks[:2]:
        rank.ask("close")
    ranks.ledger.prove(ranks.run_dir)  # all 100 of the dead one, too: they were accepted
    assert max(closed(ranks.run_dir).values()) == 1


@pytest.mark.row(2)
@pytest.mark.timeout(400)
@pytest.mark.parametrize("deaths", [pytest.param(3, marks=pytest.mark.slice), 40])
def test_a_client_that_says_its_marker_and_dies_at_once_is_answered_for(
    programs: Programs, zygote: Zygote, deaths: int
) -> None:
    """Again and again, so that the death meets the marker on its whole way through the owner."""
    ranks = programs.ranks(1, world_size=2)
    for n in range(deaths):
        victim = zygote.start(
            """
            import os
            from pathlib import Path
            from chaos.links import RawLink, metrics_record, frame, data_frame, BARRIER, MARKER
            link = RawLink(Path(run_dir))
            say(link.hello(1))
            version = link.receive_until(BARRIER)
            record = metrics_record(1, {"x": 1.0}, 0)
            marker = frame(MARKER, {"version": version, "upto_seq": 1})
            link.socket.sendall(data_frame(1, 1, record) + marker)
            os.kill(os.getpid(), 9)
            """,
            run_dir=str(ranks.run_dir),
        )
        kind, welcome = victim.hear()
        assert kind == links.WELCOME, welcome
        assert welcome["attempt"] == n
        with oracles.within(3, "a flush with a death in it"):
            report = ranks[0].ask("flush", timeout=20)
        assert states(report)[0] == "durable"
        assert states(report)[1] in ("durable", "dead")
        if states(report)[1] == "durable":
            assert report["ranks"]["1"]["seq"] == 1
        assert victim.wait() == -signal.SIGKILL
        until(lambda n=n: len(oracles.events(ranks.run_dir, "rank_lost")) == n + 1, 12)
    assert ranks[0].ask("flush")["complete"]
    rows = read_rows(ranks.run_dir)
    oracles.once(rows)
    assert len(rows) == deaths, "what came in front of a marker was taken in, whole"


# --- 3 --------------------------------------------------------------------------------------------


@pytest.mark.row(3)
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(2.0, marks=pytest.mark.slice),
        pytest.param(20.0, id="beyond its link's patience"),
        pytest.param(60.0, id="beyond its lease"),
    ],
)
def test_a_rank_that_stands_still_inside_a_barrier_times_out_and_comes_back_whole(
    programs: Programs, seconds: float
) -> None:
    ranks = programs.ranks(3)
    ranks.log(200)
    with stopped(ranks[1].pid):
        start = time.monotonic()
        with oracles.within(2.0, "a flush with a deadline of one second"):
            report = ranks[0].ask("flush", timeout=1.0)
        assert not report["complete"]
        assert states(report) == {0: "durable", 1: "timeout", 2: "durable"}
        late = report["version"]
        time.sleep(max(seconds - (time.monotonic() - start), 0))
    with oracles.within(15.0, "the way back"):
        until(lambda: ranks[1].ask("stats")["connected"], 15)
        report = ranks[2].ask("flush", timeout=15.0)
    assert report["complete"]
    assert states(report) == dict.fromkeys(range(3), "durable")
    assert closed(ranks.run_dir)[late] == 1, "its late answer closes nothing again"
    ranks.log(50)
    ranks.close()
    ranks.ledger.prove(ranks.run_dir)
    run = oracles.record(ranks.run_dir)
    assert run["status"] == "finished"
    assert [len(run["ranks"][rank]) for rank in range(3)] == [1, 1, 1], "the same incarnation"


# --- 4 --------------------------------------------------------------------------------------------


@pytest.mark.row(4)
@pytest.mark.slice
def test_who_joins_during_a_barrier_is_in_the_next_version_and_who_leaves_is_not(
    programs: Programs,
) -> None:
    ranks = programs.ranks(3, world_size=4)
    ranks.log(30)
    stop(ranks[2].pid)  # so that the barrier stays open
    ranks[0].ask("start_flush", name="f", timeout=30)
    until(lambda: opened(ranks.run_dir, "1.1"))
    newcomer = programs.rank()
    options = programs.options(rank=3, group="g", world_size=4, redirect_console=False)
    newcomer.tell("init", **options)
    newcomer.joined()
    ranks.note(newcomer, newcomer.ask("log", n=10))
    assert ranks[1].ask("close") is False
    assert not ranks[0].ask("is_flushed", name="f")
    ranks[2].signal(signal.SIGCONT)
    report = ranks[0].ask("end_flush", name="f")
    assert report["complete"]
    assert states(report) == {0: "durable", 1: "durable", 2: "durable"}
    assert opened(ranks.run_dir, "1.1")["ranks"] == [0, 1, 2]  # type: ignore[index]
    after = ranks[0].ask("flush")
    assert after["complete"]
    assert after["version"] == "1.2"
    assert states(after) == {0: "durable", 2: "durable", 3: "durable"}
    assert after["ranks"]["3"]["seq"] == 10
    ranks.ledger.prove(ranks.run_dir)
    for rank in (ranks[0], ranks[2], newcomer):
        rank.ask("close")
    ranks.ledger.prove(ranks.run_dir)


@pytest.mark.row(4)
@pytest.mark.slice
def test_a_leaver_whose_goodbye_is_still_on_its_way_ends_the_barrier_as_durable(
    programs: Programs,
) -> None:
    ranks = programs.ranks(2)
    ranks.log(20)
    owner = owner_of(ranks.run_dir)
    with stopped(owner):
        ranks[0].ask("start_flush", name="f", timeout=30)
        ranks[1].tell("close", timeout=10)
        time.sleep(0.1)
    report = ranks[0].ask("end_flush", name="f")
    assert ranks[1].answer() is False
    assert report["complete"]
    assert states(report) in ({0: "durable"}, {0: "durable", 1: "durable"})
    assert ranks[0].ask("close")
    ranks.ledger.prove(ranks.run_dir)


# --- 5 --------------------------------------------------------------------------------------------

FLUSHES = """
import asyncio, random
chance = random.Random(seed + exp.rank)
counts = {"complete": 0, "incomplete": 0, "cancelled": 0, "timeout": 0}

async def one():
    await asyncio.sleep(chance.uniform(0, 0.2))
    exp.log_metrics({"x": chance.random()})
    task = asyncio.ensure_future(wait(exp.flush(timeout=20)))
    way = chance.randrange(4)
    if way == 0:
        await asyncio.sleep(chance.uniform(0, 0.02))
        task.cancel()
    try:
        if way == 1:
            done = await asyncio.wait_for(task, chance.uniform(0, 0.02))
        else:
            done = await task
        counts["complete" if done.complete else "incomplete"] += 1
    except asyncio.CancelledError:
        counts["cancelled"] += 1
    except asyncio.TimeoutError:
        counts["timeout"] += 1

async def wait(handle):
    return await handle

async def main():
    await asyncio.gather(*(one() for _ in range(flushes)))

hear()
asyncio.run(main())
say(counts)
hear()
exp.close()
"""


@pytest.mark.row(5)
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("flushes", "kills"), [pytest.param(64, 0, marks=pytest.mark.slice), (64, 3), (1000, 5)]
)
def test_overlapping_flushes_of_several_ranks_some_cancelled_are_each_answered_once(
    zygote: Zygote, exps: Path, seed: int, rng: random.Random, flushes: int, kills: int
) -> None:
    ranks = [
        zygote.tallied(
            FLUSHES,
            exps,
            options={"rank": rank, "world_size": 3},
            seed=seed,
            flushes=flushes,
        )
        for rank in range(3)
    ]
    run_dir = {rank.joined().run_dir for rank in ranks}.pop()
    for rank in ranks:
        rank.tell("go")
    for _ in range(kills):
        time.sleep(rng.uniform(0.01, 0.3))
        os.kill(owner_of(run_dir), signal.SIGKILL)
    with oracles.within(25, "flushes with a deadline of 20 s"):
        counts = [rank.hear() for rank in ranks]
    for count in counts:
        assert sum(count.values()) == flushes, "each is answered once"
        assert count["complete"] > 0
        assert count["incomplete"] == 0, count
    for rank in ranks:
        rank.tell("leave")
        assert rank.wait() == 0, rank.text()
        assert rank.text() == ""
    versions = closed(run_dir)
    assert max(versions.values()) == 1, "each version is closed once"
    assert all(event["complete"] for event in oracles.events(run_dir, "flush_closed"))
    rows = read_rows(run_dir)
    oracles.once(rows)
    assert len(rows) == 3 * flushes
    numbers = [tuple(map(int, version.split("."))) for version in versions]
    assert numbers == sorted(numbers), "versions rise"


# --- 6 --------------------------------------------------------------------------------------------


@pytest.mark.row(6)
@pytest.mark.slice
def test_duplicate_stale_and_foreign_answers_complete_nothing(programs: Programs) -> None:
    ranks = programs.ranks(1, world_size=3)
    with RawLink(ranks.run_dir) as one, RawLink(ranks.run_dir) as two:
        for number, link in enumerate((one, two), 1):
            kind, welcome = link.hello(number)
            assert kind == links.WELCOME, welcome
        ranks[0].ask("start_flush", name="f", timeout=20)
        version = one.receive_until(links.BARRIER)
        assert two.receive_until(links.BARRIER) == version
        epoch, number = map(int, str(version).split(".")) if isinstance(version, str) else version
        nonsense = [(epoch, number + 1), (epoch, number - 1), (epoch + 1, number), (0, 0)]
        for e, n in [*nonsense, *nonsense]:
            one.send(links.MARKER, {"version": like(version, e, n), "upto_seq": 7})
        for _ in range(5):  # the other one's answer says nothing about this one
            two.send(links.MARKER, {"version": version, "upto_seq": 0})
        time.sleep(0.5)
        assert not ranks[0].ask("is_flushed", name="f"), "nobody has answered for rank 1 yet"
        one.socket.sendall(
            links.data_frame(1, 1, links.metrics_record(1, {"x": 1.0}, 3))
            + 3 * links.frame(links.MARKER, {"version": version, "upto_seq": 1})
        )
        report = ranks[0].ask("end_flush", name="f")
        assert report["complete"]
        assert states(report) == {0: "durable", 1: "durable", 2: "durable"}
        assert report["ranks"]["1"]["seq"] == 1
        one.send(links.MARKER, {"version": version, "upto_seq": 1})  # too late, by now
        ranks[0].ask("start_flush", name="g", timeout=20)
        after = one.receive_until(links.BARRIER)
        assert after != version
        one.send(links.MARKER, {"version": version, "upto_seq": 1})
        two.send(links.MARKER, {"version": after, "upto_seq": 0})
        time.sleep(0.3)
        assert not ranks[0].ask("is_flushed", name="g"), "an answer to the last version is none"
        one.send(links.MARKER, {"version": after, "upto_seq": 1})
        assert ranks[0].ask("end_flush", name="g")["complete"]
        for link in (one, two):
            link.send(links.BYE, "finished")
            link.receive_until(links.FAREWELL)
    assert max(closed(ranks.run_dir).values()) == 1
    assert len(read_rows(ranks.run_dir)) == 1


def like(version: Any, epoch: int, number: int) -> Any:
    """A version as this owner writes them."""
    return f"{epoch}.{number}" if isinstance(version, str) else [epoch, number]


@pytest.mark.row(6)
@pytest.mark.slice
def test_a_marker_that_promises_more_than_was_sent_makes_nothing_durable(
    programs: Programs,
) -> None:
    ranks = programs.ranks(1, world_size=2)
    with RawLink(ranks.run_dir) as link:
        assert link.hello(1)[0] == links.WELCOME
        ranks[0].ask("start_flush", name="f", timeout=20)
        version = link.receive_until(links.BARRIER)
        link.socket.sendall(
            links.data_frame(1, 1, links.metrics_record(1, {"x": 1.0}, 0))
            + links.frame(links.MARKER, {"version": version, "upto_seq": 1000})
        )
        report = ranks[0].ask("end_flush", name="f")
        assert report["ranks"]["1"]["seq"] <= 1, "durable is what the owner has, not what it hears"
        link.send(links.BYE, "finished")
        link.receive_until(links.FAREWELL)
