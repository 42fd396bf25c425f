"""One setting for the text of all ranks, and their lines on the terminal of whoever asks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ledger import read_console, read_messages
from processes import Programs, RankError, Ranks, kill_owner, until


def console(run_dir: Path) -> list[tuple[int, bytes]]:
    return [(rank, text) for rank, _, text in read_console(run_dir / "console.log")]


def flushed(ranks: Ranks) -> dict[str, Any]:
    report = ranks[0].ask("flush", timeout=20)
    assert report["complete"]
    return dict(report)


def test_any_rank_switches_the_forwarding_of_all_ranks_off_and_on(programs: Programs) -> None:
    ranks = programs.ranks(3, redirect_console=True)
    assert flushed(ranks)["forwarding"] is True
    ranks[2].ask("set_mode", on=False)
    # Rank 2 has been told by the owner, behind whom everybody's flush stands.
    assert flushed(ranks)["forwarding"] is False
    for rank in ranks:
        rank.ask("say_lines", lines=["unheard"])
        rank.ask("python_log", level=50, text="unheard")
        rank.ask("log", n=1)
    late = programs.rank()
    joining = programs.options(rank=3, world_size=4, group="g", redirect_console=True)
    late.ask("init", **joining)
    late.ask("say_lines", lines=["unheard"])
    assert flushed(ranks)["forwarding"] is False
    ranks[1].ask("set_mode", on=True)
    assert flushed(ranks)["forwarding"] is True
    for rank in [*ranks, late]:
        rank.ask("say_lines", lines=["heard"])
        rank.ask("python_log", level=1, text="heard")
    flushed(ranks)
    assert sorted(console(ranks.run_dir)) == [(rank, b"heard") for rank in range(4)]
    messages = read_messages(ranks.run_dir / "run.log")
    assert sorted((m.rank, m.level, m.text, m.logger, m.file, m.line) for m in messages) == [
        (rank, "LEVEL1", "heard", "train", "train.py", 7) for rank in range(4)
    ]
    assert not ranks[0].ask("stats")["dropped"], "what nobody wanted is not dropped"
    late.ask("close")
    ranks.close()
    events = (ranks.run_dir / "events.jsonl").read_text().splitlines()
    changes = [e for e in map(json.loads, events) if e["type"] == "forwarding"]
    assert [(e["rank"], e["enabled"]) for e in changes] == [(2, False), (1, True)]


def test_the_level_holds_in_every_rank_and_outlives_the_owner(programs: Programs) -> None:
    ranks = programs.ranks(2)
    ranks[1].ask("logging_option", level="error")
    kill_owner(ranks.run_dir)
    flushed(ranks)
    for level in (39, 40, 41):
        ranks[0].ask("python_log", level=level, text=str(level))
    flushed(ranks)
    assert [m.text for m in read_messages(ranks.run_dir / "run.log")] == ["40", "41"]
    ranks.close()
    record = yaml.safe_load((ranks.run_dir / "run.yaml").read_text())
    assert record["forwarding"] == {"version": 1, "enabled": True, "level": 40}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"level": 256}, "level=256"),
        ({"level": -1}, "level=-1"),
        ({"level": "loud"}, "level='loud'"),
        ({"stream_to_client": 2}, "stream_to_client=2"),
        ({"aggregate_window_sec": 5}, "aggregate_window_sec=5 needs stream_to_client"),
        ({"stream_to_client": True, "aggregate_window_sec": 0}, "aggregate_window_sec=0"),
        ({"stream_to_client": True, "aggregate_window_sec": "3"}, "aggregate_window_sec='3'"),
    ],
)
def test_an_option_that_makes_no_sense_is_named_and_changes_nothing(
    programs: Programs, options: dict[str, Any], word: str
) -> None:
    ranks = programs.ranks(1)
    with pytest.raises(RankError, match=re.escape(word)) as raised:
        ranks[0].ask("logging_option", **options)
    assert raised.value.kind == "ConfigError"
    ranks.close()
    record = yaml.safe_load((ranks.run_dir / "run.yaml").read_text())
    assert "forwarding" not in record


def test_streaming_while_nothing_is_forwarded_is_refused_in_words(programs: Programs) -> None:
    ranks = programs.ranks(1)
    ranks[0].ask("set_mode", on=False)
    with pytest.raises(RankError, match="forward no text"):
        ranks[0].ask("logging_option", stream_to_client=True)
    ranks.close()


def shown(ranks: Ranks) -> list[str]:
    return ranks[0].output.read_text().splitlines()


def test_whoever_asks_sees_the_lines_of_all_others_whole_and_with_their_rank(
    programs: Programs,
) -> None:
    ranks = programs.ranks(3, redirect_console=True)
    ranks[1].ask("say_lines", lines=["before"])
    flushed(ranks)
    ranks[0].ask("logging_option", stream_to_client=True, aggregate_window_sec=None)
    said = [f"line {n} {'x' * (n * 7 % 300)}" for n in range(200)]
    for rank in ranks:
        rank.tell("say_lines", lines=said)
    for rank in ranks:
        rank.answer()
    ranks[2].ask("say", text="10%\r50%\r100%\n", stream="stderr")
    ranks[2].ask("python_log", level=40, text="two\nlines")
    flushed(ranks)
    ranks.close()
    lines = shown(ranks)
    for rank in (1, 2):
        mine = [line for line in lines if line.startswith(f"[{rank}] line ")]
        assert mine == [f"[{rank}] {line}" for line in said]
    rest = [line for line in lines if "line " not in line]  # two descriptors: in any order
    assert sorted(rest) == ["[2] 100%", "[2] ERROR lines", "[2] ERROR two"]
    assert [line for line in lines if line.startswith("line ")] == said, "its own, as written"
    kept = [text.decode() for rank, text in console(ranks.run_dir) if rank == 0]
    assert kept == said, "what is shown is not captured again"


def test_alike_lines_of_all_ranks_are_shown_once_and_an_outlier_on_its_own(
    programs: Programs,
) -> None:
    ranks = programs.ranks(4, redirect_console=True)
    ranks[0].ask("logging_option", stream_to_client=True, aggregate_window_sec=0.3)
    for rank in ranks[1:]:
        rank.ask("say_lines", lines=[f"epoch 1 loss 0.{rank.rank}"])
    ranks[3].ask("say_lines", lines=["epoch 1 loss nan"])
    flushed(ranks)
    until(lambda: len(shown(ranks)) >= 2, 20, "the end of the window")
    assert sorted(shown(ranks)) == ["[1-3] \u00d73 epoch 1 loss 0.1..0.3", "[3] epoch 1 loss nan"]
    ranks[0].ask("logging_option", stream_to_client=False)
    ranks[1].ask("say_lines", lines=["unseen"])
    flushed(ranks)
    ranks.close()
    assert len(shown(ranks)) == 2
