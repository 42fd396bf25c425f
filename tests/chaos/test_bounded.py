"""Bounded: memory, queues, files and waits under a flood with a slow disk; rows 24 and 32.

The bounds of memory are those of `oracles`: what a rank's process may grow by, what an owner may
take; a rank's spool is at most SPOOL_BYTES.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from processes import is_alive, owner_of, until

from . import oracles
from .faults_storage import meddled
from .oracles import events, high_water, no_temp_files, record, settles
from .puppet import Puppet, puppet
from .victims import Zygote

RANKS = 8

SPOOL_BYTES = 1 << 30
"""Of one process and run, as `spool` in model/src/limits.rs."""

SPOOL_FILE_BYTES = 16 << 20

CLOSE_SECS = 5.0

FLOOD = """
import resource

def waited():
    # How often this thread gave up its core by itself; being preempted does not count.
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw

def flood(seconds):
    global step
    slots = [0] * 100_001  # tens of microseconds up to a second: no memory of its own grows
    preempted = 0
    log, clock, end = exp.log_metrics, time.perf_counter_ns, time.monotonic() + seconds
    while time.monotonic() < end:
        waits = waited()
        for step in range(step, step + 100):
            point = {"x": step * 0.5}
            start = clock()
            log(point, step=step)
            slot = (clock() - start) // 10_000
            if slot > 50:
                before, waits = waits, waited()
                if waits == before:
                    preempted += 1
                    slot = 0
            slots[min(slot, 100_000)] += 1
        step += 1
    return [step, {slot: n for slot, n in enumerate(slots) if n}, preempted]

def timed_close(timeout):
    start = time.monotonic()
    try:
        told = exp.close(timeout=timeout)
    except ml.FlushError as error:
        told = str(error)
    return [time.monotonic() - start, told]
"""


@dataclass
class Watch:
    """The largest that anything was while it was watched."""

    owner: int = 0
    spool: dict[str, int] = field(default_factory=lambda: defaultdict(int))


@contextmanager
def watched(run_dir: Path) -> Iterator[Watch]:
    """Looks at the owner's memory and at all spools, again and again."""
    watch, enough = Watch(), threading.Event()

    def look() -> None:
        while not enough.wait(0.1):
            with suppress(OSError, AssertionError, ValueError):
                watch.owner = max(watch.owner, high_water(owner_of(run_dir)))
            sizes: dict[str, int] = defaultdict(int)
            for path in run_dir.glob(".expman/spool/*.spool"):
                with suppress(OSError):
                    sizes[path.name.split(".")[0]] += path.stat().st_size
            for name, size in sizes.items():
                watch.spool[name] = max(watch.spool[name], size)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        enough.set()
        thread.join()


def p999_ms(histogram: dict[str, int]) -> float:
    """The 99.9th percentile, rounded up to the next 10 µs."""
    total, seen = sum(histogram.values()), 0
    for slot, n in sorted((int(slot), n) for slot, n in histogram.items()):
        seen += n
        if seen * 1000 >= total * 999:
            return (slot + 1) / 100
    raise AssertionError("no calls")


@pytest.mark.row(24, 9)
@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(4.0, marks=[pytest.mark.slice, pytest.mark.timeout(120)]),
        pytest.param(60.0, marks=pytest.mark.timeout(1800)),
    ],
)
@pytest.mark.usefixtures("as_root")
def test_eight_ranks_that_log_as_fast_as_they_can_on_a_slow_disk_stay_within_all_bounds(
    zygote: Zygote, exps: Path, tmp_path: Path, expman: list[str], seconds: float
) -> None:
    ranks = [
        puppet(
            zygote, base_dir=str(exps), rank=n, world_size=RANKS, group="g", redirect_console=False
        )
        for n in range(RANKS)
    ]
    run_dir = ranks[0].run_dir
    for rank in ranks:
        rank.do(f"exec({FLOOD!r}, globals())")
        rank.log(100)
    before = [high_water(rank.pid) for rank in ranks]
    owner = owner_of(run_dir)
    with watched(run_dir) as watch:
        with meddled(owner, "fdatasync,fsync:delay_exit=500000", folder=tmp_path):
            for rank in ranks:
                rank.start(f"flood({seconds})")
            floods = [rank.answer() for rank in ranks]
            stats = [rank.stats() for rank in ranks]
            for rank in ranks:
                rank.start(f"timed_close({CLOSE_SECS})")
            closes = [rank.answer() for rank in ranks]
        grown = [high_water(rank.pid) - was for rank, was in zip(ranks, before)]
        for rank in ranks:
            rank.victim.tell(None)
            assert rank.victim.wait() == 0
        took = time.monotonic()
        until(lambda: not is_alive(owner), 60 + 20 * seconds, "end of the owner")
        took = time.monotonic() - took
    slowest = max(p999_ms(histogram) for _, histogram, _ in floods)
    logged = sum(steps for steps, _, _ in floods)
    preempted = sum(n for _, _, n in floods)
    print(
        f"{logged} calls in {seconds:g} s, p99.9 at most {slowest:.2f} ms "
        f"({preempted} calls were preempted); ranks grew by at most "
        f"{max(grown) >> 20} MiB, the owner had {watch.owner >> 20} MiB, a spool at most "
        f"{max(watch.spool.values(), default=0) >> 20} MiB; close took "
        f"{max(secs for secs, _ in closes):.1f} s, the import behind it {took:.1f} s"
    )
    # L: no call waits for the disk; close is in time and says what it leaves. A call whose thread
    # was taken off its core, since ten processes want two of them, did not wait for anything.
    assert slowest < oracles.LOG_P999_MS
    for (secs, told), left in zip(closes, stats):
        assert secs < CLOSE_SECS + 1.0, f"close took {secs:.1f} s"
        if left["spooled_bytes"] and isinstance(told, str):
            assert "spool" in told
            assert "expman recover" in told
    # M: everybody within bounds.
    assert max(grown) < oracles.RANK_GROWTH_BYTES, f"{max(grown) >> 20} MiB"
    assert watch.owner < oracles.OWNER_HIGH_WATER_BYTES, f"{watch.owner >> 20} MiB"
    assert max(watch.spool.values(), default=0) <= SPOOL_BYTES + SPOOL_FILE_BYTES
    # A: every call is a row or in a gap.
    balanced(run_dir, {rank: steps for rank, (steps, _, _) in enumerate(floods)})
    # A rank that was out of time when it closed has said how it ended in its ring.
    assert record(run_dir)["status"] == "finished"
    no_temp_files(run_dir)
    settles(expman, run_dir)


def balanced(run_dir: Path, logged: dict[int, int]) -> None:
    """Of each rank's steps from 0 on each is present once with its value, or in a gap."""
    table = pq.read_table(run_dir / "metrics.parquet", columns=["rank", "step", "seq", "value"])
    missing = 0
    for rank, steps in logged.items():
        mine = table.filter(pc.equal(table["rank"], rank)).sort_by("seq")
        there = mine["step"].to_numpy()
        assert (mine["value"].to_numpy() == there * 0.5).all()
        assert (there[1:] > there[:-1]).all(), "each once, in order"
        assert len(there) == 0 or there[-1] < steps
        missing += steps - len(there)
    in_gaps = sum(event["count"] for event in events(run_dir, "gap"))
    assert missing == in_gaps == record(run_dir)["dropped"]


NAMES = """
def names(per_call, calls):
    for n in range(calls):
        exp.log_metrics({f"m{n}_{i}": float(i) for i in range(per_call)}, step=n)
"""


@pytest.mark.row(32)
@pytest.mark.timeout(600)
def test_a_million_names_in_a_run_are_kept_within_the_bounds(
    zygote: Zygote, exps: Path, expman: list[str]
) -> None:
    names_per_call, calls = 10_000, 100
    rank: Puppet = puppet(zygote, base_dir=str(exps), redirect_console=False)
    rank.log(10)
    before = high_water(rank.pid)
    rank.do(f"exec({NAMES!r}, globals())")
    with watched(rank.run_dir) as watch:
        rank.do(f"names({names_per_call}, {calls})")
        assert rank.flush(timeout=120)["complete"]
        grown = high_water(rank.pid) - before
        rank.close(timeout=120)
    table: Any = pq.read_table(rank.run_dir / "metrics.parquet", columns=["key", "value"])
    print(f"the rank grew by {grown >> 20} MiB, the owner had {watch.owner >> 20} MiB")
    assert table.num_rows == names_per_call * calls + 10
    assert pc.count_distinct(table["key"]).as_py() == names_per_call * calls + 1
    assert len(record(rank.run_dir)["metrics"]) <= 10_000, "run.yaml summarises so many"
    assert grown < oracles.RANK_GROWTH_BYTES + (64 << 20), "and the names that Python made"
    assert watch.owner < oracles.OWNER_HIGH_WATER_BYTES
    settles(expman, rank.run_dir)
