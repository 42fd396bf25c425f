"""Row 36 with many ranks: a flood of output beside metrics, through one owner."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from ledger import read_rows
from processes import owner_of

from . import oracles
from .victims import Zygote

RANKS = 4

LINE = re.compile(rb"\[[^]]+\] \[rank (\d+) out \d+\] (z*)\n")


def kept_lines(run_dir: Path) -> Counter[int]:
    """How many lines of each rank are stored; all of them are whole."""
    kept: Counter[int] = Counter()
    for text in oracles.texts(run_dir, "console"):
        at = 0
        for line in LINE.finditer(text):
            assert line.start() == at, text[at : at + 200]
            assert len(line[2]) == 199
            kept[int(line[1])] += 1
            at = line.end()
        assert at == len(text), text[at : at + 200]
    return kept


@pytest.mark.row(36)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", [pytest.param(32 << 20, marks=pytest.mark.slice), 1 << 30])
def test_a_flood_of_all_ranks_costs_no_metric_and_every_line_of_it_is_kept_or_counted(
    zygote: Zygote, exps: Path, size: int
) -> None:
    lines = size // RANKS // 200
    program = """
    import subprocess
    exp.flush().wait()
    hear()
    flood = subprocess.Popen(["sh", "-c", f"yes {'z' * 199} | head -n {lines}"])
    step = 0
    while flood.poll() is None:
        log(step, call(step))
        step += 1
        time.sleep(0.001)
    say([step, exp.flush(timeout=120, scope="rank").wait().complete])
    say(exp.stats()["dropped"])
    hear()
    exp.close(timeout=60)
    """
    victims = [
        zygote.tallied(
            program,
            exps,
            lines=lines,
            options={"rank": rank, "world_size": RANKS, "redirect_console": True},
        ).joined()
        for rank in range(RANKS)
    ]
    run_dir = victims[0].run_dir
    for victim in victims:
        victim.tell("go")
    steps = []
    for victim in victims:
        logged, complete = victim.hear(within=600)
        assert complete
        steps.append(logged)
    dropped = [victim.hear() for victim in victims]
    oracles.bounded_memory(owner_of(run_dir), oracles.OWNER_HIGH_WATER_BYTES, "the owner")
    for victim in victims:
        victim.tell("close")
    for victim in victims:
        assert victim.wait(120) == 0, victim.text()[-500:]
    run = oracles.ended(run_dir, 120)
    assert run["status"] == "finished"
    rows = read_rows(run_dir)
    for rank in range(RANKS):
        assert oracles.prefix(rows, rank, 0, steps[rank], steps[rank]) == steps[rank]
    kept = kept_lines(run_dir)
    assert all(set(each) <= {"queue full: console"} for each in dropped), dropped
    told = Counter({rank: sum(each.values()) for rank, each in enumerate(dropped)})
    assert kept + told == Counter(dict.fromkeys(range(RANKS), lines)), "kept or counted"
    gaps: Counter[int] = Counter()
    for event in oracles.events(run_dir, "gap"):
        gaps[event["rank"]] += event["count"]
    assert gaps == +told
