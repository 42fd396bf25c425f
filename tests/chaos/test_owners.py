"""Rows 7, 8, 9: owners that are killed, stopped, doubled; nothing acknowledged is lost."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ledger import read_rows
from processes import Programs, is_alive, kill_owner, marked, owner_of, stop, until

from . import oracles
from .faults import traced
from .serving import Server, statuses
from .victims import Victim, Zygote

BUSY = """
reports = open(reports_path, "a", buffering=1)
leaving = threading.Event()
def flushes():
    while not leaving.wait(0.02):
        report = exp.flush(timeout=25, publish=True).wait()
        if report:
            reports.write(f"{report.ranks[exp.rank].seq} {report.version}\\n")
        else:
            reports.write(f"incomplete {report}\\n")
flushing = threading.Thread(target=flushes)
flushing.start()
def stay():
    hear()
    leaving.set()
threading.Thread(target=stay).start()
step = 0
while not leaving.is_set():
    log(step, call(step))
    step += 1
    time.sleep(pause)
flushing.join()
exp.close(timeout=20)
"""
"""Logs and flushes into metrics.parquet all the time; writes down what each flush reported."""


class Busy:
    """A rank that keeps its owner busy with everything an owner does."""

    def __init__(self, zygote: Zygote, exps: Path, pause: float = 0.004) -> None:
        self.reports = zygote.folder / "reports"
        self.reports.touch()
        self.victim: Victim = zygote.tallied(
            BUSY, exps, options={"rank": 0}, reports_path=str(self.reports), pause=pause
        ).joined()
        self.run_dir = self.victim.run_dir
        until(lambda: self.durable() > 0, what="a first flush")

    def durable(self) -> int:
        """Up to where the flushes so far called its rows durable."""
        lines = self.reports.read_text().splitlines()
        wrong = [line for line in lines if line.startswith("incomplete")]
        assert not wrong, wrong
        return max((int(line.split()[0]) for line in lines), default=0)

    def prove_durable(self) -> None:
        """A: everything that a flush called durable so far is there now, once; and a prefix."""
        durable = self.durable()
        assert self.victim.tally is not None
        rows = read_rows(self.run_dir)
        oracles.prefix(rows, 0, 0, durable, self.victim.tally.count() + 1)

    def leave(self, epochs: int) -> None:
        """A at the end: all that was logged is there, and each owner had an epoch of its own."""
        self.victim.tell("leave")
        assert self.victim.wait() == 0, self.victim.text()
        assert self.victim.tally is not None
        logged = self.victim.tally.count()
        oracles.prefix(read_rows(self.run_dir), 0, 0, logged, logged)
        run = oracles.ended(self.run_dir)
        assert run["status"] == "finished"
        assert run["owner_epoch"] == epochs
        assert not oracles.events(self.run_dir, "gap", "rank_lost")
        versions = [line.split()[1] for line in self.reports.read_text().splitlines()]
        numbers = [tuple(map(int, version.split("."))) for version in versions]
        assert numbers == sorted(set(numbers)), "versions rise over the deaths of owners"
        oracles.no_temp_files(self.run_dir)


def next_owner(run_dir: Path, former: int) -> int:
    """Waits for the owner behind one that is gone."""

    def look() -> int:
        found = owner_of(run_dir)
        return found if found != former and is_alive(found) else 0

    return until(look, 20, f"the owner behind {former}")


@pytest.mark.row(7)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [pytest.param(4, marks=pytest.mark.slice), 100])
def test_an_owner_killed_at_random_moments_loses_and_doubles_nothing(
    zygote: Zygote, exps: Path, expman: list[str], sockets: Path, rng: random.Random, kills: int
) -> None:
    busy = Busy(zygote, exps)
    owner = owner_of(busy.run_dir)
    for _ in range(kills):
        time.sleep(rng.uniform(0.0, 0.4))
        kill_owner(busy.run_dir)
        busy.prove_durable()
        owner = next_owner(busy.run_dir, owner)
    busy.leave(epochs=kills + 1)
    oracles.no_sockets(sockets)
    oracles.settles(expman, exps)


CALLS = {
    "write": "write,pwrite64,writev,pwritev",
    "sync": "fdatasync,fsync,sync_file_range",
    "rename": "rename,renameat,renameat2,link,linkat,unlink,unlinkat",
    "open": "openat,ftruncate,mkdir,mkdirat",
    "send": "sendto,sendmsg,recvfrom,recvmsg",
}
"""What an owner does that others can see."""


def killed_at(busy: Busy, owner: int, calls: str, n: int, patience: float) -> bool:
    """Kills the owner at the n-th of some system calls in any of its threads, if it gets there."""
    with traced(owner, f"{calls}:signal=SIGKILL:when={n}"):
        deadline = time.monotonic() + patience
        while is_alive(owner) and time.monotonic() < deadline:
            time.sleep(0.005)
    return not is_alive(owner)


@pytest.mark.row(7)
@pytest.mark.slice
@pytest.mark.usefixtures("as_root")
def test_an_owner_killed_at_sampled_writes_syncs_and_renames_loses_and_doubles_nothing(
    zygote: Zygote, exps: Path, rng: random.Random
) -> None:
    busy = Busy(zygote, exps)
    owner, deaths = owner_of(busy.run_dir), 0
    for name in ("write", "sync", "rename"):
        for n in rng.sample(range(1, 8), 2):
            if killed_at(busy, owner, CALLS[name], n, patience=2.0):
                deaths += 1
                busy.prove_durable()
                owner = next_owner(busy.run_dir, owner)
    assert deaths >= 3
    busy.leave(epochs=deaths + 1)


@pytest.mark.row(7)
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("name", list(CALLS))
def test_an_owner_killed_at_every_write_sync_and_rename_loses_and_doubles_nothing(
    zygote: Zygote, exps: Path, expman: list[str], name: str
) -> None:
    busy = Busy(zygote, exps)
    owner, deaths = owner_of(busy.run_dir), 0
    for n in range(1, 41):
        if not killed_at(busy, owner, CALLS[name], n, patience=20.0):
            continue
        deaths += 1
        busy.prove_durable()
        owner = next_owner(busy.run_dir, owner)
    assert deaths > 20
    busy.leave(epochs=deaths + 1)
    oracles.settles(expman, exps)


@pytest.mark.row(7)
@pytest.mark.usefixtures("as_root")
@pytest.mark.timeout(900)
def test_an_owner_killed_at_every_step_of_its_own_start_is_followed_by_one_that_starts(
    zygote: Zygote, exps: Path
) -> None:
    """Recovery that is killed, and recovered from in turn: owners that die before they serve.

    The rank is traced together with what it starts, and only owners make these system calls.
    """
    busy = Busy(zygote, exps, pause=0.01)
    for name in ("rename", "sync"):
        for n in range(1, 15):
            former = owner_of(busy.run_dir)
            with traced(busy.victim.pid, f"{CALLS[name]}:signal=SIGKILL:when={n}"):
                kill_owner(busy.run_dir)
                # Of an early step no owner gets through as long as this lasts; some have tried.
                with suppress(TimeoutError):
                    until(lambda f=former: owner_of(busy.run_dir) != f, 1.5)
            until(lambda f=former: owner_of(busy.run_dir) != f, 30, f"an owner behind {name} {n}")
            assert is_alive(busy.victim.pid), "the rank itself writes nothing of this"
            busy.prove_durable()
    until(lambda: is_alive(owner_of(busy.run_dir)), 20)
    busy.leave(epochs=oracles.record(busy.run_dir)["owner_epoch"])


# --- 8 --------------------------------------------------------------------------------------------


@pytest.mark.row(8)
@pytest.mark.slice
def test_an_owner_that_was_paused_while_a_successor_started_is_fenced_and_writes_nothing(
    programs: Programs,
) -> None:
    """What a cleaner of temporary files, or a lock that a file system gave up, does to a run."""
    ranks = programs.ranks(2)
    ranks.log(50)
    assert ranks[0].ask("flush")["complete"]
    ranks[0].ask("pour")
    old = owner_of(ranks.run_dir)
    ranks[1].kill()
    until(lambda: oracles.events(ranks.run_dir, "rank_lost"), 12)
    time.sleep(0.2)  # so that much is on its way
    stop(old)
    try:
        (ranks.run_dir / ".expman/LOCK").unlink()
        Path(json.loads((ranks.run_dir / ".expman/owner.json").read_text())["address"]).unlink()
        reborn = programs.rank()
        options = programs.options(rank=1, world_size=2, group="g", redirect_console=False)
        reborn.tell("init", **options)
        ranks[1] = reborn.joined()
        new = owner_of(ranks.run_dir)
        assert new != old
        assert oracles.record(ranks.run_dir)["owner_epoch"] == 2
        ranks.note(ranks[1], ranks[1].ask("log", n=50))
        assert ranks[1].ask("flush", scope="rank", timeout=10)["complete"]
        time.sleep(0.3)
    finally:
        os.kill(old, signal.SIGCONT)
    with oracles.within(20, "the end of the fenced owner"):
        until(lambda: not is_alive(old), 25, "the end of the fenced owner")
    with oracles.within(25, "the way of the other rank to the new owner"):
        ranks.note(ranks[0], ranks[0].ask("stop_pouring"))
        until(lambda: ranks[0].ask("stats")["connected"], 20)
        assert ranks[0].ask("flush", timeout=25)["complete"]
    ranks.ledger.prove(ranks.run_dir)
    assert owner_of(ranks.run_dir) == new, "it took nothing back"
    ranks.close()
    ranks.ledger.prove(ranks.run_dir)
    run = oracles.record(ranks.run_dir)
    assert (run["status"], run["owner_epoch"]) == ("finished", 2)
    assert "fenced" in (ranks.run_dir / ".expman/owner.log").read_text()
    assert oracles.events(ranks.run_dir, "gap") == []


@pytest.mark.row(8)
def test_a_paused_owner_that_is_continued_with_its_lock_goes_on_as_the_owner(
    programs: Programs,
) -> None:
    ranks = programs.ranks(2)
    ranks.log(50)
    owner = owner_of(ranks.run_dir)
    stop(owner)
    late = programs.rank()
    options = programs.options(rank=2, group="g", redirect_console=False, timeout=1.0)
    late.tell("init", **options)
    with pytest.raises(Exception, match="JoinError"), oracles.within(20, "a refusal"):
        late.joined()
    late.kill()
    ranks.log(50)
    os.kill(owner, signal.SIGCONT)
    # Its hello may still be heard, by an owner that then sees that it is gone.
    until(lambda: ranks[0].ask("flush", timeout=20)["complete"], 12, "a complete flush")
    assert owner_of(ranks.run_dir) == owner
    ranks.close()
    ranks.ledger.prove(ranks.run_dir)
    assert oracles.record(ranks.run_dir)["owner_epoch"] == 1


# --- 9 --------------------------------------------------------------------------------------------


@pytest.mark.row(9)
@pytest.mark.slice
def test_of_owners_that_race_for_a_run_one_wins_and_the_others_say_so(
    exps: Path, expman: list[str], sockets: Path
) -> None:
    run_dir = exps / "exp/race"
    run_dir.mkdir(parents=True)
    seed = {"name": "race", "experiment": "exp", "launch_key": "k"}
    spec = json.dumps({"run_dir": str(run_dir), "seed": seed})
    env = {**os.environ, "EXPMAN_OWNER_SPEC": spec}
    racers = [
        subprocess.Popen([*expman, "owner"], env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    try:
        words = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
        assert sorted(words) == ["ready"] + ["taken"] * 5
        winner = racers[words.index("ready")]
        assert owner_of(run_dir) == winner.pid
        for racer in racers:
            if racer is not winner:
                assert racer.wait(10) == 0
        assert len(list(sockets.glob("*.sock"))) == 1
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    assert oracles.record(run_dir)["owner_epoch"] == 1


@pytest.mark.row(9)
@pytest.mark.parametrize("ranks", [pytest.param(6, marks=pytest.mark.slice), 48])
def test_ranks_that_come_at_the_same_moment_start_one_owner(
    zygote: Zygote, exps: Path, ranks: int
) -> None:
    program = """
    exp.log_metrics(call(0), step=0)
    hear()
    exp.close(timeout=20)
    """
    racers = [
        zygote.tallied(program, exps, steps=1, options={"rank": rank, "world_size": ranks})
        for rank in range(ranks)
    ]
    (run_dir,) = {racer.joined().run_dir for racer in racers}
    for racer in racers:
        racer.tell("leave")
    assert [racer.wait() for racer in racers] == [0] * ranks, [r.text() for r in racers]
    run = oracles.ended(run_dir)
    assert run["owner_epoch"] == 1
    assert sorted(run["ranks"]) == list(range(ranks))
    assert len(read_rows(run_dir)) == 2 * ranks


@pytest.mark.row(9)
@pytest.mark.slice
@pytest.mark.parametrize("standing", [fcntl.lockf, fcntl.flock], ids=["stopped", "forked"])
def test_who_stands_still_while_it_starts_an_owner_keeps_nobody_else_from_it(
    zygote: Zygote, exps: Path, standing: Callable[[int, int], None]
) -> None:
    """This process stands for a rank that was stopped with the turn to start an owner, or for a
    child that was forked from a rank while that had it."""
    victim = zygote.tallied(
        "pour(0.001)\nexp.flush(timeout=20).wait()\nsay('done')",
        exps,
        steps=300,
        options={"rank": 0},
    ).joined()
    hidden = victim.run_dir / ".expman"
    turn = os.open(hidden / "SPAWN", os.O_RDWR)
    try:
        standing(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        first = owner_of(victim.run_dir)
        os.kill(first, signal.SIGKILL)
        with oracles.within(8 if standing is fcntl.lockf else 3, "another owner"):
            until(lambda: living_owner(victim.run_dir) not in (None, first), 12)
        assert victim.hear() == "done"
    finally:
        os.close(turn)
    assert victim.wait() == 0, victim.text()
    assert oracles.prefix(read_rows(victim.run_dir), 0, 0, 300, 300) == 300


def living_owner(run_dir: Path) -> int | None:
    """The process that is the run's owner now."""
    pid = owner_of(run_dir)
    return pid if is_alive(pid) else None


@pytest.mark.row(9)
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("seconds", "steps"), [pytest.param(3.0, 20_000, marks=pytest.mark.slice), (45.0, 100_000)]
)
def test_owners_that_die_before_they_serve_are_tried_again_with_growing_pauses(
    zygote: Zygote, exps: Path, tmp_path: Path, expman: list[str], seconds: float, steps: int
) -> None:
    """Meanwhile the rank logs at full speed: what waits is in bounded memory, the rest in files."""
    victim = zygote.tallied(
        """
        exp.log_metrics({"warm": 1.0})
        assert exp.flush().wait()
        before = exp.stats()["accepted_seq"]
        calls = [call(step) for step in range(len(tally))]
        say(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
        hear()
        watch = Stopwatch()
        for step, values in enumerate(calls):
            watch.call(exp.log_metrics, values, step)
            tally.accepted(step)
            if step % 20 == 0:
                time.sleep(pause)
        say([exp.stats()["accepted_seq"] - before, watch.times])
        hear()
        exp.close(timeout=30)
        """,
        exps,
        steps=steps,
        options={"rank": 0},
        pause=seconds * 0.7 / (steps / 20),
    ).joined()
    before = int(victim.hear()) << 10
    kills: list[float] = []
    done = threading.Event()

    def hunt() -> None:
        while not done.is_set():
            for pid, command in marked(tmp_path).items():
                if "owner_main" in command:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except OSError:
                        continue
                    kills.append(time.monotonic())

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        victim.tell("go")
        time.sleep(seconds)
    finally:
        done.set()
        hunter.join()
    accepted, times = victim.hear()
    assert accepted == steps, "nothing was refused"
    oracles.fast_calls(times)
    oracles.bounded_memory(victim.pid, oracles.RANK_GROWTH_BYTES, "a rank without owner", before)
    starts = len([1 for a, b in zip(kills, kills[1:]) if b - a > 0.015])
    assert 2 <= starts <= 12 + 2 * seconds, f"{starts} owners were started in {seconds} s"
    victim.tell("leave")
    assert victim.wait() == 0, victim.text()
    rows = [row for row in read_rows(victim.run_dir) if row.key != "warm"]
    assert oracles.prefix(rows, 0, 0, steps, steps) == steps
    oracles.ended(victim.run_dir)
    oracles.no_temp_files(victim.run_dir)
    oracles.settles(expman, exps)


@pytest.mark.row(9)
@pytest.mark.slice
def test_a_run_without_an_owner_is_crashed_to_everyone_who_looks(
    zygote: Zygote, exps: Path, expman: list[str]
) -> None:
    """RUNNING only while an owner lives: list, inspect and the record of a killed run agree."""
    victim = zygote.tallied(
        "pour(0.001)", exps, options={"rank": 0, "run_name": "r", "world_size": 1}
    ).joined()

    with Server(expman, exps) as server:
        assert statuses(expman, victim.run_dir, server) == {"running"}
        owner = owner_of(victim.run_dir)
        os.kill(owner, signal.SIGKILL)
        victim.signal(signal.SIGKILL)
        victim.wait()
        until(lambda: not is_alive(owner))
        with oracles.within(3, "the truth about a run that nobody has touched since"):
            until(lambda: statuses(expman, victim.run_dir, server) == {"crashed"}, 10)
