"""Rows 35, 36, 37: what programs log and say that nobody expects; and the calls' own promise."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ledger import console_lines, read_rows
from processes import owner_of, until

from . import oracles
from .victims import Victim, Zygote

ALONE = {"rank": 0, "world_size": 1}


def console(victim: Victim, stream: str = "out") -> list[bytes]:
    """The lines of console.log."""
    kept = console_lines(oracles.texts(victim.run_dir, "console"))
    return [line for _, name, line in kept if name == stream]


# --- 35 -------------------------------------------------------------------------------------------


@pytest.mark.row(35)
@pytest.mark.slice
def test_steps_of_every_kind_are_stored_exactly_or_counted(zygote: Zygote, exps: Path) -> None:
    victim = zygote.tallied(
        """
        import warnings
        import numpy as np
        warnings.simplefilter("ignore")
        kept = [None, 0, -1, 7, 7, 7, 3, -(2**63), 2**63 - 1, np.int64(5), np.uint8(9), True]
        left_out = [2**63, 2**64 - 1, -(2**63) - 1, 10**40, 1.5, "3", [], float("nan"), object()]
        for n, step in enumerate(kept):
            exp.log_metrics({"kept": n}, step=step)
        for n, step in enumerate(left_out):
            exp.log_metrics({"left": n}, step=step)
        exp.log_metrics({"last": 1})
        say(exp.stats()["dropped"])
        exp.close()
        """,
        exps,
        options=ALONE,
    ).joined()
    dropped = victim.hear()
    assert victim.wait() == 0, victim.text()
    rows = read_rows(victim.run_dir)
    kept = [(row.value, row.step) for row in rows if row.key == "kept"]
    steps = [None, 0, -1, 7, 7, 7, 3, -(2**63), 2**63 - 1, 5, 9]
    assert sorted(kept)[:11] == list(enumerate(steps))
    assert [row.value for row in rows if row.key == "last"] == [1], "the next call is taken in"
    stored = len([row for row in rows if row.key in ("kept", "left")])
    counted = oracles.record(victim.run_dir)["ranks"][0][0]["dropped"]
    assert counted == dropped
    assert stored + sum(dropped.values()) == 12 + 9, "each is stored or counted"
    assert not [row for row in rows if row.key == "left" and row.step is not None], (
        "no step is bent into another"
    )


@pytest.mark.row(35)
@pytest.mark.slice
def test_the_same_step_logged_by_all_ranks_and_attempts_is_kept_of_each(
    zygote: Zygote, exps: Path
) -> None:
    program = """
    hear()
    for n in range(300):
        exp.log_metrics({"x": float(n)}, step=42)
    exp.close()
    """
    ranks = [
        zygote.tallied(program, exps, options={"rank": rank, "world_size": 3}) for rank in range(3)
    ]
    (run_dir,) = {rank.joined().run_dir for rank in ranks}
    for rank in ranks:
        rank.tell("go")
    assert [rank.wait() for rank in ranks] == [0, 0, 0]
    rows = read_rows(run_dir)
    for rank in range(3):
        mine = oracles.rows_of(rows, rank, 0)
        assert [row.value for row in mine] == [float(n) for n in range(300)]
        assert {row.step for row in mine} == {42}


# --- 36 -------------------------------------------------------------------------------------------


@pytest.mark.row(36)
@pytest.mark.slice
def test_bytes_of_every_kind_pass_through_and_are_kept(
    zygote: Zygote, exps: Path, seed: int
) -> None:
    victim = zygote.tallied(
        r"""
        import random
        chance = random.Random(seed)
        pieces = [
            bytes(range(256)), b"\xff\xfe\x00bad utf-8 \xc3\x28\n", b"\r 10%\r 50%\r100%\n",
            b"\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b]8;;http://x\x07link\x1b]8;;\x07\n",
            b"\x00" * 1000 + b"\n", b"\n\n\n", b"\t indented\n\tagain\n",
            "é\u202eabc".encode() + b"\n",
            b"[2026-01-01T00:00:00.000000Z] [rank 3 out 1] forged\n",
        ]
        pieces += [chance.randbytes(chance.randrange(3000)) for _ in range(300)]
        chance.shuffle(pieces)
        for piece in pieces:
            at = 0
            while at < len(piece):
                at += os.write(1, piece[at:at + chance.randrange(1, 500)])
        os.write(1, b"\n")
        say([piece.hex() for piece in pieces])
        exp.close()
        """,
        exps,
        seed=seed,
        options={**ALONE, "redirect_console": True},
    ).joined()
    written = bytes.fromhex("".join(victim.hear())) + b"\n"
    assert victim.wait() == 0, victim.text()
    assert victim.output.read_bytes() == written, "the terminal sees every byte"
    assert b"\n".join(console(victim)) + b"\n" == written, "and so does console.log"


@pytest.mark.row(36)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("size", [pytest.param(12 << 20, marks=pytest.mark.slice), 100 << 20])
def test_one_line_of_many_megabytes_is_kept_in_pieces_and_bounded_memory(
    zygote: Zygote, exps: Path, size: int
) -> None:
    victim = zygote.tallied(
        """
        exp.flush().wait()
        block = bytes(ord("a") + n % 26 for n in range(1 << 16))
        before = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
        for n in range(size >> 16):
            at = 0
            while at < len(block):
                at += os.write(1, block[at:])
            if n % 16 == 0:
                log(n // 16, call(n // 16))
                time.sleep(0.02)  # a line that is longer than the queue, but no flood
        os.write(1, b"\\n")
        after = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
        say([before, after])
        say(exp.flush(timeout=60).wait().complete)
        say(exp.stats()["dropped"])
        exp.close(timeout=20)
        """,
        exps,
        size=size,
        options={**ALONE, "redirect_console": True},
    ).joined()
    before, after = victim.hear()
    assert (after - before) << 10 <= oracles.RANK_GROWTH_BYTES, "the rank's memory"
    assert victim.hear() is True
    dropped = victim.hear()
    assert victim.wait() == 0, victim.text()[-500:]
    assert victim.output.stat().st_size == size + 1, "the terminal sees every byte"
    calls = size >> 20
    assert oracles.prefix(read_rows(victim.run_dir), 0, 0, calls, calls) == calls
    assert dropped == {}
    (line,) = console(victim)
    assert line == bytes(ord("a") + n % 26 for n in range(1 << 16)) * (size >> 16)


@pytest.mark.row(36)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", [pytest.param(64 << 20, marks=pytest.mark.slice), 1 << 30])
def test_a_flood_of_output_drops_lines_of_it_and_no_metric(
    zygote: Zygote, exps: Path, size: int
) -> None:
    """Every byte still reaches the terminal; what console.log lacks is counted; metrics win."""
    lines = size // 200
    victim = zygote.tallied(
        """
        exp.flush().wait()
        before = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
        import subprocess
        watch = Stopwatch()
        # Another process: a thread of this one would also fight for the interpreter's lock.
        flood = subprocess.Popen(["sh", "-c", f"yes {'z' * 199} | head -n {lines}"])
        step = 0
        while flood.poll() is None:
            values = call(step)
            watch.call(exp.log_metrics, values, step)
            tally.accepted(step)
            step += 1
            time.sleep(0.0002)
        after = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
        say([step, watch.times[:100_000], before, after])
        say(exp.flush(timeout=60).wait().complete)
        say(exp.stats())
        exp.close(timeout=20)
        """,
        exps,
        lines=lines,
        options={**ALONE, "redirect_console": True},
    ).joined()
    steps, times, before, after = victim.hear()
    if size >= 1 << 30:
        # Of a short flood there are too few calls: a handful of them decides.
        oracles.fast_calls(times)
    assert (after - before) << 10 <= oracles.RANK_GROWTH_BYTES, "the rank's memory"
    assert victim.hear() is True
    stats = victim.hear()
    assert victim.wait() == 0, victim.text()[-500:]
    seen = victim.output.stat().st_size - len(oracles.exit_summary(victim.output))
    assert seen == lines * 200, "the terminal sees every byte"
    rows = read_rows(victim.run_dir)
    assert oracles.prefix(rows, 0, 0, steps, steps) == steps, "metrics win"
    kept = Counter(console(victim))
    assert set(kept) == {b"z" * 199}
    assert set(stats["dropped"]) <= {"queue full: console"}
    dropped = sum(stats["dropped"].values())
    assert kept[b"z" * 199] + dropped == lines, "each line is kept or counted"
    told = oracles.events(victim.run_dir, "gap")
    assert sum(event["count"] for event in told) == dropped
    assert {event["reason"] for event in told} <= {"queue full: console"}
    run = oracles.ended(victim.run_dir)
    assert run["dropped"] == dropped


# --- 37 -------------------------------------------------------------------------------------------


@pytest.mark.row(37)
@pytest.mark.slice
def test_values_that_raise_destructors_and_handlers_that_log_neither_raise_nor_deadlock(
    zygote: Zygote, exps: Path
) -> None:
    victim = zygote.tallied(
        """
        import gc, warnings
        warnings.simplefilter("ignore")
        class Evil:
            def __init__(self, what): self.what = what
            def __float__(self): return self.what()
            def __index__(self): return self.what()
            def __str__(self): return self.what()
        def boom(): raise RuntimeError("boom")
        def stop(): raise SystemExit(5)
        def logs():
            exp.log_metrics({"inner": 1.0})  # from inside of a call
            return 2.0
        def forks():
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            return 3.0
        def slow():
            time.sleep(0.05)
            return 4.0
        for what in (boom, logs, forks, slow, lambda: "no float", lambda: None):
            exp.log_metrics({"evil": Evil(what), "good": 1.0})
            exp.log_scalar("scalar", Evil(what))
            exp.log_params({"p": Evil(what)})
            exp.info(Evil(what))
        class Dies:
            def __del__(self):
                exp.log_metrics({"del": 1.0})
        for _ in range(1000):
            Dies()
        cycle = Dies()
        cycle.me = cycle
        del cycle
        gc.collect()
        heard = []
        def handler(number, frame):
            exp.log_metrics({"handler": 1.0})
            heard.append(number)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        step = 0
        while len(heard) < 300:
            log(step, call(step))
            step += 1
            if step % 100 == 0:
                exp.flush(timeout=5).wait()
        signal.setitimer(signal.ITIMER_REAL, 0)
        counts = exp.stats()["accepted_seq"]
        say([step, len(heard), exp.stats()["dropped"]])
        sys.setrecursionlimit(200)
        def deep(n):
            exp.log_metrics({"deep": float(n)})
            deep(n + 1)
        try:
            deep(0)
        except RecursionError:
            pass
        class AtExit(Dies):
            pass
        forever = AtExit()  # its __del__ runs when the interpreter takes its modules apart
        """,
        exps,
        options=ALONE,
    ).joined()
    steps, heard, dropped = victim.hear()
    assert victim.wait(20) == 0, victim.text()
    for word in ("panicked", "Fatal", "Traceback"):
        assert word not in victim.text(), victim.text()
    counts = Counter(row.key for row in read_rows(victim.run_dir))
    assert counts["good"] == 6, "the good of a call with a bad value is kept"
    assert counts["evil"] >= 3, "what becomes a number is one, whatever it did on the way"
    assert counts["del"] == 1001
    assert counts["handler"] == heard
    assert counts["loss"] == counts["acc"] == steps
    assert counts["deep"] > 10
    assert dropped, "what was left out is counted"
    assert oracles.ended(victim.run_dir)["status"] == "finished"


@pytest.mark.row(37)
@pytest.mark.slice
def test_sixty_four_threads_log_everything_at_once_and_in_order(zygote: Zygote, exps: Path) -> None:
    victim = zygote.tallied(
        """
        go = threading.Barrier(64)
        times = [[] for _ in range(64)]
        def work(n):
            go.wait()
            for step in range(200):
                start = time.perf_counter_ns()
                exp.log_metrics({f"t{n}": float(step)}, step=step)
                times[n].append(time.perf_counter_ns() - start)
                if step % 20 == n % 20:
                    exp.info(f"{n} at {step}")
                if step % 100 == n:
                    assert exp.flush(timeout=20, scope="rank").wait()
        threads = [threading.Thread(target=work, args=(n,)) for n in range(64)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        say(exp.stats()["dropped"])
        exp.close(timeout=20)
        """,
        exps,
        options=ALONE,
    ).joined()
    assert victim.hear() == {}
    assert victim.wait() == 0, victim.text()
    rows = read_rows(victim.run_dir)
    oracles.once(rows)
    for n in range(64):
        mine = oracles.rows_of(rows, 0, 0, f"t{n}")
        assert [row.step for row in mine] == list(range(200))
    assert len((victim.run_dir / "run.log").read_text().splitlines()) == 64 * 10


# --- L: the calls ---------------------------------------------------------------------------------


@pytest.mark.row(9, 24)
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("ranks", "seconds"), [pytest.param(2, 2.0, marks=pytest.mark.slice), (8, 60.0)]
)
def test_ranks_that_log_as_fast_as_they_can_stay_fast_and_small_and_account_for_every_call(
    zygote: Zygote, exps: Path, expman: list[str], ranks: int, seconds: float
) -> None:
    program = """
    exp.flush().wait()
    before = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
    hear()
    values = {f"m{i}": 0.5 * i for i in range(5)}
    first = exp.stats()["accepted_seq"]
    # Millions of short times would be what grows here.
    n, watch, record = 0, Stopwatch(least=100_000), exp.log_metrics
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for n in range(n, n + 100):
            watch.call(record, values, n)
        n += 1
    stats = exp.stats()
    after = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
    say([n, sorted(watch.times)[-1000:], stats, after - before])
    hear()
    start = time.monotonic()
    try:
        exp.close(timeout=30)
        say(["closed", time.monotonic() - start])
    except ml.FlushError as error:
        say([str(error), time.monotonic() - start])
    """
    victims = [
        zygote.tallied(program, exps, seconds=seconds, options={"rank": rank, "world_size": ranks})
        for rank in range(ranks)
    ]
    (run_dir,) = {victim.joined().run_dir for victim in victims}
    for victim in victims:
        victim.tell("go")
    logged = {}
    for victim in victims:
        n, slowest, stats, grown = victim.hear(within=seconds + 60)
        logged[victim.rank] = n
        over = len([t for t in slowest if t > oracles.LOG_P999_MS * 1e6])
        assert over <= n / 1000, f"{over} of {n} calls took more than {oracles.LOG_P999_MS} ms"
        assert grown << 10 <= oracles.RANK_GROWTH_BYTES, f"a rank grew by {grown >> 10} MiB"
        assert stats["queued_bytes"] <= 17 << 20
    oracles.bounded_memory(owner_of(run_dir), oracles.OWNER_HIGH_WATER_BYTES, "the owner")
    for victim in victims:
        victim.tell("close")
    ends = [victim.hear() for victim in victims]
    assert all(took <= 31 for _, took in ends)
    assert [end for end, _ in ends] == ["closed"] * ranks, ends
    assert [victim.wait() for victim in victims] == [0] * ranks
    run = oracles.ended(run_dir, 60)
    for rank, n in logged.items():
        kept = run["ranks"][rank][0]["rows"]
        dropped = run["ranks"][rank][0]["dropped"]
        assert set(dropped) <= {"queue full"}
        assert kept + sum(dropped.values()) == n, "every call is stored or counted"
    told = Counter(event["rank"] for event in oracles.events(run_dir, "gap"))
    assert set(told) == {rank for rank in logged if run["ranks"][rank][0]["dropped"]}
    until(lambda: not list((run_dir / ".expman").glob("wal-*")), 10)
    oracles.no_temp_files(run_dir)
