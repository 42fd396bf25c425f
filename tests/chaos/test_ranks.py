"""Rows 1, 15, 16: ranks that die at any moment, and come back. What was accepted is there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ledger import read_rows
from processes import is_alive, kill_owner, owner_of, until

from . import oracles
from .faults import memory_cgroup, stopped, thread_of, traced
from .victims import Victim, Zygote

ACCEPTED_IS_SPOOLED_NS = 50_000_000
"""What was accepted this long ago survives the death of all processes."""

KEEPER = """
while (order := hear()) is not None:
    if order == "flush":
        say(bool(exp.flush(timeout=30).wait()))
exp.close()
"""
"""A rank that keeps the run alive, and flushes when it is told."""


def keeper(zygote: Zygote, exps: Path, **options: object) -> Victim:
    """Rank 0 of a run of two, which stays."""
    return zygote.tallied(KEEPER, exps, options={"rank": 0, "world_size": 2, **options}).joined()


def lost(run_dir: Path, rank: int) -> list[dict[str, object]]:
    return [event for event in oracles.events(run_dir, "rank_lost") if event["rank"] == rank]


BURST = """
calls = [call(step) for step in range(1000)]
for step, values in enumerate(calls):
    log(step, values)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.row(1)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("times", [pytest.param(5, marks=pytest.mark.slice), 100])
def test_a_burst_of_a_thousand_rows_and_sigkill_at_once_loses_none_while_the_owner_lives(
    zygote: Zygote, exps: Path, expman: list[str], sockets: Path, times: int
) -> None:
    for n in range(times):
        options = {"group": f"g{n}", "run_name": f"r{n}", "rank": 0, "world_size": 1}
        victim = zygote.tallied(BURST, exps, steps=1000, options=options).joined()
        assert victim.wait() == -signal.SIGKILL
        with oracles.within(12, "the status of a killed run"):
            run = oracles.ended(victim.run_dir)
        assert run["status"] == run["ranks"][0][0]["status"] == "crashed"
        rows = read_rows(victim.run_dir)
        assert oracles.prefix(rows, 0, 0, at_least=1000, at_most=1000) == 1000
        assert not oracles.events(victim.run_dir, "gap")
        oracles.no_temp_files(victim.run_dir)
    oracles.no_sockets(sockets)
    oracles.settles(expman, exps)


@pytest.mark.row(1)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("times", [pytest.param(8, marks=pytest.mark.slice), 60])
def test_a_rank_killed_at_random_moments_loses_nothing_that_was_accepted(
    zygote: Zygote, exps: Path, rng: random.Random, times: int
) -> None:
    staying = keeper(zygote, exps)
    for attempt in range(times):
        pause = rng.choice([0.0, 0.0001, 0.002])
        victim = zygote.tallied(
            f"hear(); pour({pause})", exps, options={"rank": 1, "world_size": 2}
        ).joined()
        assert victim.attempt == attempt
        victim.tell("go")
        time.sleep(rng.uniform(0.0, 0.25))
        victim.signal(signal.SIGKILL)
        victim.wait()
        until(lambda n=attempt: len(lost(staying.run_dir, 1)) > n, 12, "word of the death")
        prove_accepted(victim, staying.run_dir)
    staying.tell("flush")
    assert staying.hear()
    staying.tell(None)
    assert staying.wait() == 0, staying.text()
    oracles.once(read_rows(staying.run_dir))


def prove_accepted(victim: Victim, run_dir: Path) -> int:
    """A: all calls that returned are there, and at most the one that had not returned yet.

    When its ring and spool were full, calls are refused, and each of those is part of a gap.
    """
    assert victim.tally is not None
    accepted = victim.tally.count()
    rows = read_rows(run_dir)
    told = [
        event["count"]
        for event in oracles.events(run_dir, "gap")
        if event["rank"] == victim.rank and "queue full" in event["reason"]
    ]
    assert not told, f"the queue was never full, but {told} calls are said to be left out"
    return oracles.prefix(rows, victim.rank, victim.attempt, accepted, accepted + 1)


LIFE = """
hear()
exp = ml.init("exp", base_dir=exps, **options)
tally = Tally(tally_path)
from known import KEYS, value_of
def log(step):
    exp.log_metrics({key: value_of(exp.rank, step, key) for key in KEYS}, step=step)
    tally.accepted(step)
for step in range(100):
    log(step)
    if step % 10 == 9:
        time.sleep(0.03)  # so that batches are sent in between
    if step % 25 == 9:
        exp.flush(timeout=20).wait()
ml.close()
"""


def killed_at_call(zygote: Zygote, exps: Path, n: int, seen: set[int], fault: str) -> bool:
    """One whole life of a rank that is killed at the n-th system call of any of its threads.

    Returns:
        Whether it lived to its end.
    """
    from .victims import Tally

    path = zygote.folder / f"life-{fault.partition(':')[0]}-{n}"
    tally = Tally(path, 100)
    options = {"rank": 1, "world_size": 2, "group": "g", "redirect_console": False}
    victim = zygote.start(
        "import time" + LIFE, exps=str(exps), options=options, tally_path=str(path)
    )
    with traced(victim.pid, f"{fault}:when={n}"):
        with suppress(BrokenPipeError):  # the first call is the one in which it waits
            victim.tell("go")
        code = victim.wait(60)
    assert code in (0, -signal.SIGKILL), victim.text()
    run_dir = oracles.the_run(exps)

    def word() -> dict[str, object] | None:
        """What the run says of this process, once it says that it is gone."""
        found = [r for r in oracles.record(run_dir)["ranks"].get(1, []) if r["pid"] == victim.pid]
        return found[-1] if found and found[-1]["state"] != "live" else None

    accepted = tally.count()
    if accepted == 0 and code != 0:
        time.sleep(0.1)  # it may have died in front of its join, or behind it
    gone = until(word, 15, f"word of the end of {victim.pid}") if accepted or code == 0 else word()
    if gone is not None:
        attempt = int(str(gone["attempt"]))
        assert attempt not in seen
        seen.add(attempt)
        oracles.prefix(read_rows(run_dir), 1, attempt, accepted, accepted + 1)
        assert gone["status"] == ("finished" if code == 0 else "crashed") or accepted == 100
    return code == 0


@pytest.mark.row(1)
@pytest.mark.slice
@pytest.mark.usefixtures("as_root")
def test_a_rank_killed_at_sampled_system_calls_of_its_life_loses_nothing_accepted(
    zygote: Zygote, exps: Path, rng: random.Random
) -> None:
    staying = keeper(zygote, exps)
    seen: set[int] = set()
    for n in rng.sample(range(2, 60), 8):
        killed_at_call(zygote, exps, n, seen, "all:signal=SIGKILL")
    assert seen, "no sample lived until it had joined"
    staying.tell(None)
    assert staying.wait() == 0, staying.text()


@pytest.mark.row(1)
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(
    "calls", ["all", "write,sendto,sendmsg,pwrite64", "futex,epoll_wait", "mmap,munmap,ftruncate"]
)
def test_a_rank_killed_at_every_system_call_of_its_life_loses_nothing_accepted(
    zygote: Zygote, exps: Path, calls: str
) -> None:
    staying = keeper(zygote, exps)
    seen: set[int] = set()
    n = 1
    while not killed_at_call(zygote, exps, n, seen, f"{calls}:signal=SIGKILL"):
        n += 1
        assert n < 2000
    assert seen
    print(f"{calls}: {n - 1} deaths")
    staying.tell(None)
    assert staying.wait() == 0, staying.text()


# --- rank and owner die together ------------------------------------------------------------------


def killed_together(victim: Victim, owner: int) -> int:
    """Kills owner and rank in one breath; answers with the moment before."""
    assert victim.tally is not None
    moment = time.monotonic_ns()
    os.kill(owner, signal.SIGKILL)
    victim.signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    until(lambda: not is_alive(owner), what="end of the owner")
    return victim.tally.count(moment - ACCEPTED_IS_SPOOLED_NS)


def recovered(expman: list[str], run_dir: Path) -> None:
    """`expman recover RUN` says that it did."""
    done = subprocess.run(
        [*expman, "recover", str(run_dir)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.mark.row(1, 7)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("times", [pytest.param(3, marks=pytest.mark.slice), 30])
@pytest.mark.parametrize("how", ["the next join", "expman recover"])
def test_rank_and_owner_killed_together_keep_what_was_accepted_50_ms_before(
    zygote: Zygote, exps: Path, expman: list[str], rng: random.Random, how: str, times: int
) -> None:
    for n in range(times):
        options = {"group": f"g{n}", "run_name": f"r{n}", "rank": 0, "world_size": 1}
        pause = rng.choice([0.0001, 0.001])
        victim = zygote.tallied(f"hear(); pour({pause})", exps, options=options).joined()
        owner = owner_of(victim.run_dir)
        victim.tell("go")
        if n % 2 == 0:
            time.sleep(rng.uniform(0.1, 0.5))
            in_time = killed_together(victim, owner)
        else:
            # What the owner can not take any more is in a file of the rank by then.
            time.sleep(rng.uniform(0.0, 0.1))
            with stopped(owner):
                time.sleep(rng.uniform(0.1, 0.5))
                in_time = killed_together(victim, owner)
        assert victim.tally is not None
        accepted = victim.tally.count()
        assert 0 < in_time <= accepted
        if how == "expman recover":
            recovered(expman, victim.run_dir)
            assert oracles.record(victim.run_dir)["status"] == "crashed"
            last = oracles.prefix(read_rows(victim.run_dir), 0, 0, in_time, accepted + 1)
            recovered(expman, victim.run_dir)  # again, and nothing changes
        else:
            again = zygote.tallied(
                "for step in range(7): log(step, call(step))\nexp.close()",
                exps,
                options={**options, "resume": True},
            ).joined()
            assert again.wait() == 0, again.text()
            assert (again.run_dir, again.attempt) == (victim.run_dir, 1)
            last = oracles.prefix(read_rows(victim.run_dir), 0, 0, in_time, accepted + 1)
            oracles.prefix(read_rows(victim.run_dir), 0, 1, 7, 7)
        assert oracles.prefix(read_rows(victim.run_dir), 0, 0, last, last) == last
        oracles.no_temp_files(victim.run_dir)
    oracles.settles(expman, exps)


@pytest.mark.row(1, 7)
@pytest.mark.slice
def test_an_owner_that_dies_before_its_ranks_leaves_nothing_behind_when_they_die_too(
    zygote: Zygote, exps: Path, expman: list[str]
) -> None:
    """The owner is gone and can't come back; the rank goes on for a while and is killed, too."""
    victim = zygote.tallied(
        "hear(); pour(0.0005)", exps, options={"rank": 0, "world_size": 1, "run_name": "r"}
    ).joined()
    spawn = victim.run_dir / ".expman/SPAWN"
    victim.tell("go")
    time.sleep(0.2)
    with spawn.open("rb+") as file:
        # Whoever holds this is starting the next owner: nobody else does.
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX)
        kill_owner(victim.run_dir)
        time.sleep(1.0)
        moment = time.monotonic_ns()
        victim.signal(signal.SIGKILL)
        victim.wait()
    assert victim.tally is not None
    in_time = victim.tally.count(moment - ACCEPTED_IS_SPOOLED_NS)
    assert in_time > 500
    spools = list((victim.run_dir / ".expman/spool").glob("*"))
    assert spools, "what nobody took is in a file"
    (log, *_) = (victim.run_dir / ".expman").glob("wal-*")
    modes = {path.stat().st_mode for path in [*spools, log]}
    assert len(modes) == 1, "whoever may read the log may read this, and nobody else"
    recovered(expman, victim.run_dir)
    oracles.prefix(read_rows(victim.run_dir), 0, 0, in_time, victim.tally.count() + 1)
    oracles.no_temp_files(victim.run_dir)
    oracles.settles(expman, exps)


@pytest.mark.row(1)
@pytest.mark.slice
def test_recover_refuses_a_run_whose_ranks_or_owner_live(
    zygote: Zygote, exps: Path, expman: list[str]
) -> None:
    victim = zygote.tallied(
        "pour(0.001)", exps, options={"rank": 0, "world_size": 1, "run_name": "r"}
    ).joined()

    def refused(why: str) -> None:
        done = subprocess.run(
            [*expman, "recover", str(victim.run_dir)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0, done.stdout
        assert why in done.stderr

    refused("its owner lives")
    former = owner_of(victim.run_dir)
    with stopped(victim.pid):
        kill_owner(victim.run_dir)
        # It lives, though it stands still and has no owner.
        refused(f"living processes ({victim.pid} on")
    until(lambda: owner_of(victim.run_dir) != former, 20, "the owner that the rank starts")
    victim.signal(signal.SIGKILL)
    victim.wait()
    assert oracles.ended(victim.run_dir)["status"] == "crashed"
    prove_accepted(victim, victim.run_dir)


# --- 15, 16 ---------------------------------------------------------------------------------------


@pytest.mark.row(15)
@pytest.mark.slice
@pytest.mark.usefixtures("as_root")
def test_a_rank_that_the_kernel_kills_for_memory_crashes_and_the_others_go_on(
    zygote: Zygote, exps: Path
) -> None:
    staying = keeper(zygote, exps)
    with memory_cgroup("rank", 128 << 20) as move:
        victim = zygote.tallied(
            """
            hear()
            hoard = []
            for step in range(len(tally)):
                log(step, call(step))
                if step > 500:
                    hoard.append(os.urandom(1 << 20))
            """,
            exps,
            options={"rank": 1, "world_size": 2},
        ).joined()
        move(victim.pid)
        victim.tell("go")
        assert victim.wait() == -signal.SIGKILL, "the kernel's hand"
    with oracles.within(12, "word of the death"):
        until(lambda: lost(staying.run_dir, 1), 20)
    prove_accepted(victim, staying.run_dir)
    staying.tell("flush")
    assert staying.hear(), "the others go on"
    staying.tell(None)
    assert staying.wait() == 0, staying.text()
    run = oracles.record(staying.run_dir)
    assert (run["ranks"][0][0]["status"], run["ranks"][1][0]["status"]) == ("finished", "crashed")
    assert run["status"] == "crashed"


@pytest.mark.row(16)
@pytest.mark.slice
def test_a_restarted_kernel_keeps_both_incarnations_and_tells_their_steps_apart(
    zygote: Zygote, exps: Path
) -> None:
    options = {"rank": 0, "run_name": "notebook", "resume": True}
    ends = ["os.kill(os.getpid(), 9)", "os._exit(0)", "exp.close()"]
    for attempt, end in enumerate(ends):
        # Every cell again, from step 0 on: nothing is told apart by its step.
        victim = zygote.tallied(
            f"for step in range(40): log(step, call(step))\n{end}",
            exps,
            options={**options, "group": f"kernel {attempt}"},
        ).joined()
        assert victim.attempt == attempt
        victim.wait()
    rows = read_rows(victim.run_dir)
    for attempt in range(3):
        assert oracles.prefix(rows, 0, attempt, 40, 40) == 40
    run = oracles.record(victim.run_dir)
    assert [a["state"] for a in run["ranks"][0]] == ["lost", "lost", "left"]
    assert len({a["incarnation"] for a in run["ranks"][0]}) == 3
    assert run["status"] == "finished", "the last one speaks for its rank"


@pytest.mark.row(1)
@pytest.mark.slice
@pytest.mark.usefixtures("as_root")
def test_a_sender_thread_killed_inside_of_each_write_of_its_own_doubles_nothing(
    zygote: Zygote, exps: Path, rng: random.Random
) -> None:
    """Between two pieces of one frame, and between writing and knowing that it is written."""
    staying = keeper(zygote, exps)
    for attempt, n in enumerate(rng.sample(range(1, 12), 3)):
        victim = zygote.tallied(
            "hear(); pour(0.0005)", exps, options={"rank": 1, "world_size": 2}
        ).joined()
        sender = thread_of(victim.pid, "expman")
        fault = f"write,writev,sendto,sendmsg,pwrite64:signal=SIGKILL:when={n}"
        with traced(sender, fault, threads=False):
            victim.tell("go")
            assert victim.wait() == -signal.SIGKILL, victim.text()
        until(lambda n=attempt: len(lost(staying.run_dir, 1)) > n, 12)
        assert prove_accepted(victim, staying.run_dir) > 0
    staying.tell(None)
    assert staying.wait() == 0, staying.text()
