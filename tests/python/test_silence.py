"""A rank that hangs: told once, with its step and what it said last, to everyone who looks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from processes import Programs, Ranks, until

AFTER_SECS = 3.0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Owners that take a rank for silent soon."""
    monkeypatch.setenv("EXPMAN_SILENT_SECS", str(AFTER_SECS))


def told(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run_dir / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["type"] == kind]


def rank_as_shown(expman: list[str], run_dir: Path, rank: int) -> dict[str, Any]:
    command = [*expman, "inspect", str(run_dir), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout)["meta"]["ranks"][str(rank)][-1])


def train(ranks: Ranks, steps: int) -> None:
    for _ in range(steps):
        for rank in ranks:
            rank.ask("log", n=1)
        time.sleep(0.05)


@pytest.mark.usefixtures("impatient")
def test_a_rank_that_hangs_while_others_advance_is_told_once_with_its_last_lines(
    programs: Programs, expman: list[str]
) -> None:
    ranks = programs.ranks(3, redirect_console=True)
    train(ranks, 5)
    ranks[1].ask("say_lines", lines=["loading batch 5", "waiting for NCCL"])
    train(ranks, 1)
    hung = ranks.pop(1)
    end = time.monotonic() + AFTER_SECS + 6
    while time.monotonic() < end and not told(hung.run_dir, "rank_silent"):
        train(ranks, 1)
    train(ranks, 40)  # another look of the owner: it is told once
    (silent,) = told(hung.run_dir, "rank_silent")
    assert (silent["rank"], silent["last_step"]) == (1, 5)
    assert silent["silent_secs"] >= AFTER_SECS
    assert silent["others_step"] > 5
    assert silent["last_lines"] == ["loading batch 5", "waiting for NCCL"]

    until(lambda: rank_as_shown(expman, hung.run_dir, 1)["silent_since"], 10)
    shown = rank_as_shown(expman, hung.run_dir, 1)
    assert "2026" < shown["last_line_at"] < shown["last_step_at"]
    hung.signal(signal.SIGSTOP)  # such a rank takes no part in a barrier, either
    report = ranks[0].ask("flush", timeout=1)
    os.kill(hung.pid, signal.SIGCONT)
    assert not report["complete"]
    missing = report["ranks"]["1"]
    assert (missing["state"], missing["last_step"]) == ("timeout", 5)
    assert missing["last_lines"] == ["loading batch 5", "waiting for NCCL"]
    assert report["ranks"]["0"]["last_lines"] == []

    hung.ask("log", n=1)
    until(lambda: told(hung.run_dir, "rank_back"), 10)
    until(lambda: rank_as_shown(expman, hung.run_dir, 1)["silent_since"] is None, 10)
    assert len(told(hung.run_dir, "rank_silent")) == 1
    ranks.append(hung)
    ranks.close()


@pytest.mark.usefixtures("impatient")
def test_when_all_ranks_stand_still_the_one_behind_is_told(programs: Programs) -> None:
    ranks = programs.ranks(3)
    train(ranks, 5)
    for rank in ranks[:2]:
        rank.ask("log", n=1)  # they are one step ahead, and wait for rank 2
    (silent,) = until(lambda: told(ranks.run_dir, "rank_silent"), AFTER_SECS + 15)
    assert (silent["rank"], silent["last_step"], silent["others_step"]) == (2, 4, 5)
    ranks.close()


@pytest.mark.usefixtures("impatient")
def test_a_rank_that_logs_seldom_or_only_at_its_start_is_not_told(programs: Programs) -> None:
    ranks = programs.ranks(3)
    ranks[1].ask("log", n=1)
    start = time.monotonic()
    ranks[2].ask("log", n=1)
    for n in range(4):
        while time.monotonic() < start + 2.0 * (n + 1):
            ranks[0].ask("log", n=1)
            time.sleep(0.05)
        if n < 2:
            ranks[2].ask("log", n=1)  # its pause is two seconds: five are nothing to it
    assert not told(ranks.run_dir, "rank_silent")
    ranks.close()
