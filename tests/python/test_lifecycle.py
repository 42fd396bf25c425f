"""How runs end: as their programs do, within a deadline, with the program's own exit code."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import monarch_like as ml
from ledger import read_rows, said
from processes import Programs, owner_of, stop, until

START = """
import os, signal, sys, time
import monarch_like as ml
exp = ml.init("exp", base_dir=sys.argv[1])
for step in range(100):
    ml.log_metrics({"loss": 0.5}, step=step)
"""


def the_run(exps: Path) -> Path:
    (found,) = (path.parent for path in exps.glob("*/*/run.yaml"))
    return found


def record(run_dir: Path) -> dict[str, Any]:
    loaded = yaml.safe_load((run_dir / "run.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def ended(run_dir: Path) -> dict[str, Any]:
    """The record of a run that nobody waited for, once it has ended."""
    return until(lambda: (r := record(run_dir))["status"] != "running" and r)


@pytest.mark.parametrize(
    ("end", "code", "status"),
    [
        ("", 0, "finished"),
        ("ml.close()", 0, "finished"),
        ("ml.close('cancelled')", 0, "cancelled"),
        ("sys.exit(7)", 7, "finished"),
        ("raise SystemExit", 0, "finished"),
        ("raise ValueError('it diverged')", 1, "failed"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "interrupted"),
        # What is told of it at the end imports nothing: that may change the exit code.
        ("exp.log_scalar('x', object()); raise KeyboardInterrupt", -signal.SIGINT, "interrupted"),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -signal.SIGINT, "interrupted"),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -signal.SIGTERM, "preempted"),
        ("exp.fail('no progress')", 0, "failed"),
        ("with exp: pass", 0, "finished"),
        ("with exp: raise ValueError('it diverged')", 1, "failed"),
        ("with exp: sys.exit(3)", 3, "failed"),
        ("with exp: raise KeyboardInterrupt", -signal.SIGINT, "interrupted"),
        ("exp.flush().wait(); os._exit(9)", 9, "crashed"),
        ("exp.flush().wait(); os.abort()", -signal.SIGABRT, "crashed"),
        ("exp.flush().wait(); os.kill(os.getpid(), 9)", -signal.SIGKILL, "crashed"),
    ],
)
def test_a_run_ends_as_its_program_and_the_exit_code_is_kept(
    programs: Programs, exps: Path, end: str, code: int, status: str
) -> None:
    start = time.monotonic()
    done = programs.run(f"{START}\n{end}")
    assert done.returncode == code, done.stderr
    assert time.monotonic() - start < 10
    run = ended(the_run(exps))
    assert run["status"] == status
    assert run["ranks"][0][0]["status"] == status
    assert run["finished_at"] >= run["started_at"]
    assert run["duration_secs"] >= 0
    assert len(read_rows(the_run(exps))) == 100, "all that was logged is there"
    if "it diverged" in end:
        assert run["error"]["rank"] == 0
        assert run["error"]["message"] == "ValueError: it diverged"
        assert run["error"]["traceback"].startswith("Traceback (most recent call last)")
        assert "ValueError: it diverged" in done.stderr
    elif "no progress" in end:
        assert run["error"]["message"] == "no progress"
    elif status == "failed":
        assert run["error"]["message"] == "SystemExit: 3"
    else:
        assert run["error"] is None


def test_a_program_without_a_free_descriptor_fails_as_any_other(
    programs: Programs, exps: Path
) -> None:
    # What tells of its end can't even be imported.
    use_up = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
files = []
while True:
    files.append(open(os.devnull))
"""
    done = programs.run(f"{START}\n{use_up}")
    assert done.returncode == 1
    assert "Too many open files" in done.stderr
    run = ended(the_run(exps))
    assert run["status"] == "failed"
    assert "Too many open files" in run["error"]["message"]
    assert run["error"]["traceback"].startswith("Traceback (most recent call last)")
    assert ", in <module>" in run["error"]["traceback"]


def test_a_program_that_handles_sigterm_does_as_it_likes(programs: Programs, exps: Path) -> None:
    done = programs.run(
        f"""
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
{START}
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""
    )
    assert done.returncode == 5, done.stderr
    assert len(read_rows(the_run(exps))) == 100


def test_the_heaviest_end_of_a_rank_is_the_end_of_the_run(programs: Programs) -> None:
    ranks = programs.ranks(3)
    for rank, status in zip(ranks, ["finished", "failed", "cancelled"]):
        rank.ask("close", status=status)
    assert record(ranks.run_dir)["status"] == "failed"
    each = record(ranks.run_dir)["ranks"]
    assert [each[r][0]["status"] for r in range(3)] == ["finished", "failed", "cancelled"]


def test_closing_twice_does_nothing_and_logging_afterwards_is_told(exps: Path) -> None:
    exp = ml.Experiment("exp", base_dir=exps, redirect_console=False)
    exp.log_metrics({"loss": 1.0})
    assert exp.close() is True
    assert exp.close() is True
    with pytest.warns(RuntimeWarning, match="the run is closed"):
        exp.log_metrics({"loss": 2.0})
    exp.log_metrics({"loss": 3.0})  # once is enough
    exp.fail("too late")
    with pytest.raises(ml.ExpmanError, match="closed"):
        exp.flush().wait()
    assert [row.value for row in read_rows(exp.run_dir)] == [1.0]
    assert record(exp.run_dir)["status"] == "finished"


def test_an_owner_that_is_stopped_does_not_hold_up_close_beyond_its_deadline(
    programs: Programs,
) -> None:
    ranks = programs.ranks(1)
    owner = owner_of(ranks.run_dir)
    stop(owner)
    try:
        ranks.log(100)
        start = time.monotonic()
        with pytest.raises(Exception, match=r"FlushError.* 1 to 100 of rank 0"):
            ranks[0].ask("close", timeout=1.0)
        assert 1.0 <= time.monotonic() - start < 2.0
        start = time.monotonic()
        assert ranks[0].end() == 0
        assert time.monotonic() - start < 2.0
    finally:
        os.kill(owner, signal.SIGCONT)


def test_the_end_of_a_program_waits_for_a_stopped_owner_five_seconds_at_most(
    programs: Programs, exps: Path
) -> None:
    code = f"""
{START}
import json
more = ml.Experiment("more", base_dir=sys.argv[1])
for e in (exp, more):
    os.kill(json.loads((e.run_dir / ".expman/owner.json").read_text())["pid"], signal.SIGSTOP)
    e.log_metrics({{"loss": 0.25}}, step=100)
print(time.monotonic())
"""
    done = programs.run(code)
    end = time.monotonic()
    for path in exps.glob("*/*/.expman/owner.json"):
        os.kill(json.loads(path.read_text())["pid"], signal.SIGCONT)
    assert done.returncode == 0, done.stderr
    assert end - float(done.stdout) < 5.0 + 1.5, "one deadline for both runs"
    assert done.stderr.count("are not known to be durable") == 2


def test_the_module_has_one_current_run_and_init_closes_the_last(exps: Path) -> None:
    one = ml.init("one", base_dir=exps, redirect_console=False)
    assert ml.current() is one
    ml.log_metrics({"loss": 1.0}, step=1)
    ml.log_vector({"loss": 2.0}, step=2)
    ml.log_scalar("best", 0.5)
    ml.log_params({"model": {"layers": [1, 2]}})
    ml.info("hello")
    ml.warn("careful")
    ml.error("broken")
    ml.log_message("debug", "detail")
    assert ml.flush().wait().rows == 2
    two = ml.init("two", base_dir=exps, redirect_console=False)
    assert ml.current() is two
    assert record(one.run_dir)["status"] == "finished"
    assert ml.close() is True
    assert ml.close() is False
    with pytest.raises(ml.ConfigError):
        ml.current()
    assert record(one.run_dir)["scalars"] == {"best": 0.5}
    config = yaml.safe_load((one.run_dir / "config.yaml").read_text())
    assert config == {"model": {"layers": [1, 2]}}
    assert said(one.run_dir) == [
        ("INFO", 0, "hello"),
        ("WARN", 0, "careful"),
        ("ERROR", 0, "broken"),
        ("DEBUG", 0, "detail"),
    ]


# --- flush handles ----------------------------------------------------------------------------


def test_awaiting_and_waiting_for_a_flush_give_the_same_report(exp: ml.Experiment) -> None:
    async def both() -> None:
        exp.log_metrics({"loss": 1.0}, step=5)
        handle = exp.flush(timeout=30)
        report = await handle
        assert report
        assert report.complete
        assert report == handle.wait() == handle.result() == await handle
        assert handle.done()
        assert report.ranks[0] == ml.RankOutcome(
            state="durable", seq=1, last_step=5, last_seen=report.ranks[0].last_seen
        )
        assert "complete" in str(report)

    asyncio.run(both())


def test_a_flush_works_under_a_running_loop_and_leaves_it_free(exp: ml.Experiment) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def main() -> None:
        ticking = asyncio.ensure_future(tick())
        for step in range(20):
            exp.log_metrics({"loss": 1.0}, step=step)
            assert (await exp.flush()).complete
        assert exp.flush().wait(10)  # and the blocking form inside of it
        ticking.cancel()

    asyncio.run(main())
    assert ticks > 20


def test_cancelling_stops_waiting_only(exp: ml.Experiment) -> None:
    async def main() -> None:
        exp.log_metrics({"loss": 1.0})
        stop(owner_of(exp.run_dir))
        handle = exp.flush()
        try:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(handle, 0.2)
            assert not handle.done()
            with pytest.raises(TimeoutError):
                handle.wait(timeout=0.1)
        finally:
            os.kill(owner_of(exp.run_dir), signal.SIGCONT)
        assert (await handle).complete

    asyncio.run(main())


def test_an_incomplete_flush_is_falsy_and_raises_when_strict(programs: Programs) -> None:
    ranks = programs.ranks(2)
    stop(ranks[1].pid)
    report = ranks[0].ask("flush", timeout=0.3)
    assert not report["complete"]
    with pytest.raises(Exception, match=r"FlushError: .*INCOMPLETE \(rank 1 timeout\)"):
        ranks[0].ask("flush", timeout=0.3, strict=True)
    ranks[1].signal(signal.SIGCONT)
    assert ranks[0].ask("flush", strict=True)["complete"]
    ranks.close()


def test_the_async_context_manager_closes_the_run_without_blocking_the_loop(exps: Path) -> None:
    async def main() -> None:
        async with ml.Experiment("exp", base_dir=exps, redirect_console=False) as exp:
            exp.log_metrics({"loss": 1.0})
            assert await exp.flush()
        assert record(exp.run_dir)["status"] == "finished"
        failing = ml.Experiment("exp", base_dir=exps, redirect_console=False)
        with pytest.raises(ValueError, match="no"):
            async with failing:
                raise ValueError("no")
        assert record(failing.run_dir)["error"]["message"] == "ValueError: no"

    asyncio.run(main())


def test_programs_that_end_with_flushes_in_flight_never_hang_or_abort(programs: Programs) -> None:
    code = f"""
{START}
import asyncio
async def leave():
    for _ in range(8):
        asyncio.ensure_future(wait(exp.flush()))
    await asyncio.sleep(float(sys.argv[2]))
async def wait(handle):
    await handle
handles = [exp.flush() for _ in range(8)]
asyncio.run(leave())
"""
    for n in range(8):
        done = programs.run(code, n * 0.002, within=20)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "panicked" not in done.stderr


def test_a_pipe_that_nobody_reads_any_more_does_not_break_the_end(
    programs: Programs, exps: Path
) -> None:
    program = programs.start(f"{START}\nsys.stdout.write('x' * 100_000); sys.stdout.flush()")
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()
    assert program.wait(30) == 0, program.stderr.read()
    program.stderr.close()
    assert ended(the_run(exps))["status"] == "finished"
