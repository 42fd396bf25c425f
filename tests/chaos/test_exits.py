"""Rows 12, 13, 14: programs that end, in every way, with everything still under way."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ledger import read_rows
from processes import is_alive, owner_of, until

from . import oracles
from .faults import stopped
from .test_ranks import keeper, recovered
from .victims import Victim, Zygote

CLOSE_SECS = 5.0
"""What the end of a program waits for its runs at most."""

SIGNAL_SECS = 2.0
"""What a program that is told to go waits for its runs at most."""

SLACK_SECS = 1.0
"""For everything else that an interpreter does at its end, on a busy machine."""

ENDS = {
    # How it ends: exit code, status, and how long it may take when the owner stands still.
    "pass": (0, "finished", CLOSE_SECS),
    "exp.close()": (0, "finished", CLOSE_SECS),
    "sys.exit(3)": (3, "finished", CLOSE_SECS),
    "raise ValueError('it diverged')": (1, "failed", CLOSE_SECS),
    "raise KeyboardInterrupt": (1, "interrupted", CLOSE_SECS),
    "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)": (1, "interrupted", CLOSE_SECS),
    "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)": (-15, "preempted", SIGNAL_SECS),
    "os.kill(os.getpid(), signal.SIGHUP); time.sleep(60)": (-1, "crashed", 0.0),
    "os._exit(9)": (9, "crashed", 0.0),
    "os.abort()": (-6, "crashed", 0.0),
    "os.kill(os.getpid(), signal.SIGKILL); time.sleep(60)": (-9, "crashed", 0.0),
}

PROGRAM = """
hear()
for step in range(300):
    log(step, call(step))
say(time.monotonic())
"""


def code_of(end: str, code: int) -> int:
    """The exit code; an interpreter that ends by Ctrl-C ends by its signal."""
    return -signal.SIGINT if "Interrupt" in end or "SIGINT" in end else code


def options(n: int) -> dict[str, Any]:
    return {"rank": 0, "world_size": 1, "group": f"g{n}", "run_name": f"r{n}"}


@pytest.mark.row(13)
@pytest.mark.slice
def test_every_way_to_end_keeps_the_exit_code_and_all_rows_and_tells_the_truth(
    zygote: Zygote, exps: Path, expman: list[str], sockets: Path
) -> None:
    for n, (end, (code, status, _)) in enumerate(ENDS.items()):
        victim = zygote.tallied(PROGRAM + end, exps, steps=300, options=options(n)).joined()
        victim.tell("go")
        victim.hear()
        with oracles.within(CLOSE_SECS + SLACK_SECS, end):
            assert victim.wait() == code_of(end, code), f"{end}: {victim.text()}"
        with oracles.within(12, f"the status behind {end}"):
            run = oracles.ended(victim.run_dir)
        assert run["status"] == run["ranks"][0][0]["status"] == status, end
        rows = read_rows(victim.run_dir)
        assert oracles.prefix(rows, 0, 0, 300, 300) == 300, end
        assert "Fatal" not in victim.text() or "abort" in end
        if status == "failed":
            assert run["error"]["message"] == "ValueError: it diverged"
            assert "Traceback" in run["error"]["traceback"]
        oracles.no_temp_files(victim.run_dir)
    oracles.no_sockets(sockets)
    oracles.settles(expman, exps)


@pytest.mark.row(13)
@pytest.mark.slice
def test_every_way_to_end_is_over_in_time_though_the_owner_stands_still(
    zygote: Zygote, exps: Path, expman: list[str]
) -> None:
    """All at once, each with an owner that is stopped for good and then killed; none loses a row
    that was accepted 50 ms before its end."""
    with ExitStack() as standing:
        stand_still(zygote, exps, expman, standing)


def stand_still(zygote: Zygote, exps: Path, expman: list[str], standing: ExitStack) -> None:
    victims: list[tuple[str, Victim]] = []
    owners = []
    for n, end in enumerate(ENDS):
        pause = "\ntime.sleep(0.2)\nsay(time.monotonic())\n"
        victim = zygote.tallied(PROGRAM + pause + end, exps, steps=300, options=options(n)).joined()
        victims.append((end, victim))
        owners.append(owner_of(victim.run_dir))
        standing.enter_context(stopped(owners[-1]))
    for _, victim in victims:
        victim.tell("go")
    starts = [(victim.hear(), victim.hear())[1] for _, victim in victims]
    ends: dict[str, float] = {}
    until(lambda: gone(victims, ends), 20, "the end of all")
    for (end, victim), start in zip(victims, starts):
        code, _, seconds = ENDS[end]
        if end == "exp.close()":
            code = 1  # who closes a run himself is told by an exception that it was not in time
            assert "FlushError" in victim.text()
        assert victim.wait() == code_of(end, code), f"{end}: {victim.text()}"
        took = ends[end] - start
        assert took <= seconds + SLACK_SECS, f"{end} took {took:.1f} s"
        if seconds and end != "raise ValueError('it diverged')":
            assert "expman recover" in victim.text(), f"{end} says what to do: {victim.text()}"
    for owner in owners:
        os.kill(owner, signal.SIGKILL)
        until(lambda pid=owner: not is_alive(pid))
    for _, victim in victims:
        recovered(expman, victim.run_dir)
        assert oracles.prefix(read_rows(victim.run_dir), 0, 0, 300, 300) == 300
        oracles.no_temp_files(victim.run_dir)
    oracles.settles(expman, exps)


@pytest.mark.row(13)
@pytest.mark.slice
def test_a_program_whose_close_ran_out_of_time_has_ended_as_it_said(
    zygote: Zygote, exps: Path
) -> None:
    """The owner reads it in the ring of the dead process, with all that stands there."""
    ends = ["pass", "raise ValueError('it diverged')", "sys.exit(3)"]
    with ExitStack() as standing:
        victims = []
        for n, end in enumerate(ends):
            victims.append(
                zygote.tallied(PROGRAM + end, exps, steps=300, options=options(n)).joined()
            )
            standing.enter_context(stopped(owner_of(victims[-1].run_dir)))
        for victim in victims:
            victim.tell("go")
        for end, victim in zip(ends, victims):
            assert victim.wait() == code_of(end, ENDS[end][0]), victim.text()
    for end, victim in zip(ends, victims):
        with oracles.within(12, f"the status behind {end}"):
            run = oracles.ended(victim.run_dir)
        assert run["status"] == run["ranks"][0][0]["status"] == ENDS[end][1], end
        assert oracles.prefix(read_rows(victim.run_dir), 0, 0, 300, 300) == 300, end


def gone(victims: list[tuple[str, Victim]], ends: dict[str, float]) -> bool:
    """Notes when each victim ended; whether all have."""
    for end, victim in victims:
        if end not in ends:
            try:
                victim.wait(0.001)
            except TimeoutError:
                continue
            ends[end] = time.monotonic()
    return len(ends) == len(victims)


@pytest.mark.row(13)
@pytest.mark.slice
def test_a_second_ctrl_c_while_the_first_is_still_closing_ends_it_in_time(
    zygote: Zygote, exps: Path
) -> None:
    pauses = [0.0, 0.05, 0.5]
    program = PROGRAM + "time.sleep(60)"
    victims = [
        zygote.tallied(program, exps, steps=300, options=options(n)).joined()
        for n in range(len(pauses))
    ]
    with ExitStack() as standing:
        for victim in victims:
            victim.tell("go")
            victim.hear()
            standing.enter_context(stopped(owner_of(victim.run_dir)))
        with oracles.within(CLOSE_SECS + SLACK_SECS, "two interrupts"):
            for victim, pause in zip(victims, pauses):
                victim.signal(signal.SIGINT)
                time.sleep(pause)
                victim.signal(signal.SIGINT)
            codes = [victim.wait() for victim in victims]
        assert codes == [-signal.SIGINT] * len(pauses), [victim.text() for victim in victims]
    for victim in victims:
        run = oracles.ended(victim.run_dir)
        assert run["status"] in ("interrupted", "crashed")
        oracles.prefix(read_rows(victim.run_dir), 0, 0, 300, 300)


@pytest.mark.row(13)
@pytest.mark.slice
def test_handlers_that_a_program_installed_are_called_and_decide(
    zygote: Zygote, exps: Path
) -> None:
    for n, (when, number) in enumerate(
        [("before", "SIGTERM"), ("after", "SIGTERM"), ("before", "SIGINT"), ("after", "SIGHUP")]
    ):
        handler = f"signal.signal(signal.{number}, lambda *_: (say('called'), sys.exit(42)))\n"
        body = "log(0, call(0))\nsay('ready')\ntime.sleep(60)\n"
        if when == "before":
            # The run is joined when the handler is there already.
            program = "import os, signal, sys, time\n" + handler + "hear()\n"
            program += 'exp = ml.init("exp", base_dir=exps, redirect_console=False, **options)\n'
            program += "exp.log_metrics({'x': 1.0})\nsay('ready')\ntime.sleep(60)\n"
            victim = zygote.start(program, exps=str(exps), options=options(n))
            victim.tell("go")
        else:
            victim = zygote.tallied(handler + body, exps, options=options(n)).joined()
        assert victim.hear() == "ready"
        victim.signal(getattr(signal, number))
        assert victim.hear() == "called"
        with oracles.within(CLOSE_SECS + SLACK_SECS, "a program that leaves by its own handler"):
            assert victim.wait() == 42, victim.text()
        run = oracles.ended(exps / f"exp/r{n}")
        assert run["status"] in ("finished", "failed", "preempted", "interrupted")
        assert len(read_rows(exps / f"exp/r{n}")) in (1, 2)


# --- 12 -------------------------------------------------------------------------------------------


@pytest.mark.row(12)
@pytest.mark.slice
@pytest.mark.parametrize("writes", [False, True])
def test_a_daemon_grandchild_that_keeps_standard_output_holds_up_no_close(
    zygote: Zygote, exps: Path, writes: bool
) -> None:
    """Double fork, a session of its own: nobody's child, with both descriptors, and still there."""
    victim = zygote.tallied(
        """
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                say(os.getpid())
                while True:
                    if writes:
                        try:
                            os.write(1, b"still here\\n" * 100)
                        except OSError:
                            pass
                    time.sleep(0.001 if writes else 60)
            os._exit(0)
        os.wait()
        log(0, call(0))
        print("before", flush=True)
        hear()
        start = time.monotonic()
        exp.close()
        say(time.monotonic() - start)
        print("behind", flush=True)
        """,
        exps,
        writes=writes,
        options={"redirect_console": True, "rank": 0, "world_size": 1},
    ).joined()
    daemon = victim.hear()
    try:
        victim.tell("go")
        assert victim.hear() <= CLOSE_SECS
        with oracles.within(CLOSE_SECS, "the end of the program"):
            assert victim.wait() == 0, victim.text()
        text = victim.text()
        assert "before\n" in text
        assert "behind\n" in text
        assert b"before" in (victim.run_dir / "console.log").read_bytes()
        run = oracles.ended(victim.run_dir)
        assert run["status"] == "finished"
        oracles.prefix(read_rows(victim.run_dir), 0, 0, 1, 1)
    finally:
        os.kill(daemon, signal.SIGKILL)


# --- 14 -------------------------------------------------------------------------------------------

UNTIL_CLOSED = """
def until_closed(do):
    try:
        do()
    except ml.ExpmanError:
        pass  # the run was closed under it, and says so
log(0, call(0))
"""

IN_FLIGHT = {
    "dropped": "[exp.flush() for _ in range(5)]",
    "held": "handles = [exp.flush(publish=True) for _ in range(5)]",
    "waited for by a daemon thread": """
threading.Thread(target=lambda: until_closed(exp.flush().wait), daemon=True).start()
time.sleep(pause)
""",
    "waited for by many daemon threads": """
def again():
    while True:
        exp.flush().wait()
for _ in range(8):
    threading.Thread(target=until_closed, args=(again,), daemon=True).start()
time.sleep(pause)
""",
    "awaited by a loop that is closed": """
import asyncio
async def wait():
    await exp.flush()
async def main():
    tasks = [asyncio.ensure_future(wait()) for _ in range(5)]
    await asyncio.sleep(pause)
asyncio.run(main())
""",
    "awaited by a loop in a daemon thread": """
import asyncio
async def main():
    while True:
        await asyncio.gather(*(waiting() for _ in range(4)))
async def waiting():
    await exp.flush()
threading.Thread(target=until_closed, args=(lambda: asyncio.run(main()),), daemon=True).start()
time.sleep(pause)
""",
    "waited for while logging": """
def pour():
    while True:
        exp.log_metrics({"y": 1.0})
for _ in range(2):
    threading.Thread(target=pour, daemon=True).start()
handle = exp.flush()
time.sleep(pause)
""",
    "waited for by a thread that is no daemon": """
threading.Thread(target=until_closed, args=(lambda: exp.flush(timeout=3).wait(),)).start()
""",
}
"""What is under way when the interpreter ends."""


@pytest.mark.row(14)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("times", [pytest.param(20, marks=pytest.mark.slice), 1000])
def test_an_interpreter_that_ends_with_flushes_in_flight_neither_aborts_nor_hangs(
    zygote: Zygote, exps: Path, rng: random.Random, times: int
) -> None:
    staying = keeper(zygote, exps, world_size=2)
    ways = list(IN_FLIGHT)
    for n in range(times):
        way = ways[n % len(ways)]
        end = rng.choice(["", "sys.exit(0)", "ml.close()", "raise SystemExit"])
        victim = zygote.tallied(
            f"{UNTIL_CLOSED}\n{IN_FLIGHT[way]}\n{end}",
            exps,
            steps=1,
            options={"rank": 1, "world_size": 2},
            pause=rng.choice([0.0, 0.001, 0.01]),
        ).joined()
        try:
            code = victim.wait(CLOSE_SECS + 5)
        except TimeoutError:
            raise AssertionError(
                f"flushes {way}, then {end!r}: it hangs; {victim.text()}"
            ) from None
        text = victim.text()
        assert code == 0, f"flushes {way}, then {end!r}: exit code {code}; {text}"
        for word in ("Fatal", "panicked", "Traceback", "Segmentation", "abort"):
            assert word not in text, f"flushes {way}, then {end!r}: {text}"
        assert victim.attempt == n
    rows = read_rows(staying.run_dir)
    kept = {(row.rank, row.attempt) for row in rows if row.key == "loss"}
    assert kept >= {(1, n) for n in range(times)}, "each is there"
    staying.tell("flush")
    assert staying.hear()
    before = oracles.descriptors(owner_of(staying.run_dir))
    assert sum(before.values()) < 64, f"the owner leaks: {before}"
    staying.tell(None)
    assert staying.wait() == 0, staying.text()
    oracles.once(rows)
