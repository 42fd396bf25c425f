"""The files of a run: readable by anything, from its first moment to long after its end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import monarch_like as ml
from ledger import read_messages, said
from processes import Programs, until

COLUMNS = {
    "key": pa.string(),
    "rank": pa.int32(),
    "step": pa.int64(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "attempt": pa.int32(),
    "seq": pa.int64(),
    "kind": pa.int8(),
    "value": pa.float64(),
    "int_value": pa.int64(),
    "text": pa.string(),
}

READERS: dict[str, Callable[[str], int]] = {
    "pyarrow": lambda path: pq.read_table(path).num_rows,
    "pandas": lambda path: len(pd.read_parquet(path)),
    "pandas, one metric": lambda path: len(pd.read_parquet(path, filters=[("key", "==", "loss")])),
    "polars": lambda path: len(pl.read_parquet(path)),
    "polars, one metric": lambda path: len(
        pl.scan_parquet(path).filter(pl.col("key") == "loss").collect()
    ),
    "duckdb": lambda path: duckdb.connect().sql(f"from '{path}'").pl().height,
    "duckdb, one metric": lambda path: (
        duckdb.connect().sql(f"select step, value from '{path}' where key = 'loss'").pl().height
    ),
}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_every_file_of_a_run_is_there_from_its_first_moment(exp: ml.Experiment, exps: Path) -> None:
    assert exp.run_dir == exps / "exp" / exp.run_name
    names = {path.name for path in exp.run_dir.iterdir()}
    assert names == {
        ".expman",
        "artifacts",
        "config.yaml",
        "console.log",
        "events.jsonl",
        "metrics.parquet",
        "run.log",
        "run.yaml",
    }
    assert load(exps / "exp" / "experiment.yaml").keys() >= {"display_name", "description", "tags"}
    for read in READERS.values():
        assert read(str(exp.run_dir / "metrics.parquet")) == 0
    assert load(exp.run_dir / "run.yaml")["status"] == "running"
    assert load(exp.run_dir / "config.yaml") == {}


def test_a_run_is_named_by_its_local_time_and_two_of_one_second_stay_apart(exps: Path) -> None:
    runs = [ml.Experiment("exp", base_dir=exps, redirect_console=False) for _ in range(3)]
    names = [exp.run_name for exp in runs]
    assert len(set(names)) == 3
    for name in names:
        assert re.fullmatch(r"\d{8}_\d{6}(_\d+)?", name)
        started = datetime.strptime(name[:15], "%Y%m%d_%H%M%S")
        assert abs((datetime.now() - started).total_seconds()) < 60
    for exp in runs:
        exp.close()


def test_metrics_parquet_has_the_columns_it_promises(exp: ml.Experiment) -> None:
    exp.log_metrics({"f": 0.5, "i": 2**53 + 1, "n": 3, "b": True, "t": "text"}, step=7)
    exp.log_metrics({"f": 0.25})
    before = datetime.now(timezone.utc)
    exp.close()
    table = pq.read_table(exp.run_dir / "metrics.parquet")
    assert dict(zip(table.schema.names, table.schema.types)) == COLUMNS
    rows = {(row["key"], row["step"]): row for row in table.to_pylist()}
    shown = {
        key: (row["kind"], row["value"], row["int_value"], row["text"]) for key, row in rows.items()
    }
    assert shown == {
        ("f", 7): (0, 0.5, None, None),
        ("i", 7): (1, None, 2**53 + 1, None),
        ("n", 7): (1, 3.0, 3, None),
        ("b", 7): (2, 1.0, 1, None),
        ("t", 7): (3, None, None, "text"),
        ("f", None): (0, 0.25, None, None),
    }
    assert all((row["rank"], row["attempt"]) == (0, 0) for row in rows.values())
    assert rows["f", 7]["seq"] == 1
    assert abs((rows["f", 7]["timestamp"] - before).total_seconds()) < 60
    order = [(row["key"], row["rank"], row["step"] or -1) for row in table.to_pylist()]
    assert order == sorted(order)


def test_metrics_parquet_can_be_read_at_every_moment_with_every_reader(
    programs: Programs,
) -> None:
    ranks = programs.ranks(2)
    path = str(ranks.run_dir / "metrics.parquet")
    enough = threading.Event()
    problems: list[str] = []
    reads = dict.fromkeys(READERS, 0)

    def read_again_and_again(name: str) -> None:
        seen = 0
        while not enough.is_set():
            try:
                n = READERS[name](path)
            except Exception as error:
                problems.append(f"{name}: {error!r}")
                return
            if n < seen:
                problems.append(f"{name}: {n} rows after {seen}")
            seen = n
            reads[name] += 1

    threads = [threading.Thread(target=read_again_and_again, args=(name,)) for name in READERS]
    for thread in threads:
        thread.start()
    for _ in range(25):
        ranks.log(40)
        assert ranks[0].ask("flush", publish=True)["complete"]
    enough.set()
    for thread in threads:
        thread.join(60)
    ranks.close()
    assert not problems
    assert min(reads.values()) >= 3, reads
    for name, read in READERS.items():
        assert read(path) == (2000 if "one metric" in name else 4000), name
    ranks.ledger.prove(ranks.run_dir)


def test_what_is_logged_appears_in_metrics_parquet_without_a_flush(exp: ml.Experiment) -> None:
    exp.log_metrics({"loss": 0.5}, step=1)
    read = READERS["pyarrow"]
    until(lambda: read(str(exp.run_dir / "metrics.parquet")) == 1, within=10)


TRICKY = [
    "on", "off", "yes", "no", "y", "n", "null", "~", "", " ", " x ", "true", "True", "1", "1.0",
    "1e3", "1e-300", "0x10", "0o7", "012", "12:30:45", "2026-01-01", ".inf", ".nan", "-", "- a",
    "a: b", "a #b", "#", "&a", "*a", "!t", "%x", "@", "`", "{", "}", "[", "]", ",", "?", "|", ">",
    "'", '"', "\\", "\\n", "a\nb", "a\n\nb\n", "\n", "\r", "\r\n", "\t", "a\tb", "\0", "\x07",
    "\x1b[31m", "\x7f", "\x85", "\u2028", "\ufeff", "\u202e", "ünï", "\U0001f600", "<<", "=",
    "---", "...", "a" * 5000, "x: " * 50,
]  # fmt: skip


def test_parameters_of_every_shape_come_back_from_config_yaml(exp: ml.Experiment) -> None:
    params: dict[str, Any] = {
        "tricky values": TRICKY,
        "tricky names": {name: n for n, name in enumerate(TRICKY)},
        "numbers": [0, -1, 2**63 - 1, -(2**63), 0.1, 1e300, 5e-324, -0.0, float("inf"), 1.0],
        "bools": [True, False, None],
        "nested": {"a": {"b": [{"c": [1, [2, [3]]]}, []], "e": {}}},
    }
    exp.log_params(params)
    exp.log_params({"nested": {"a": {"e": {"f": 1}}}, "later": (1, 2)})
    exp.close()
    kept = load(exp.run_dir / "config.yaml")
    params["nested"]["a"]["e"] = {"f": 1}
    params["later"] = [1, 2]
    assert kept == params
    assert repr(kept["numbers"]) == repr(params["numbers"]), "with their types and signs"


def test_run_yaml_tells_what_the_run_is(exps: Path) -> None:
    with ml.Experiment(
        "exp",
        "on",
        base_dir=exps,
        redirect_console=False,
        tags=["a", "12:30"],
        description="two\nlines: yes",
        params={"lr": 0.1},
    ) as exp:
        for step, loss in enumerate([3.0, 1.0, float("nan"), 2.0]):
            exp.log_metrics({"loss": loss, "name": "x"}, step=step)
        exp.log_scalar("best", 1.0)
        assert exp.flush(tag="ckpt").wait()
    record = load(exp.run_dir / "run.yaml")
    assert uuid.UUID(record["id"]).version == 7
    assert record["id"] == exp.run_id
    assert (record["name"], record["experiment"]) == ("on", "exp")
    assert record["status"] == "finished"
    assert record["description"] == "two\nlines: yes"
    assert record["tags"] == ["a", "12:30"]
    assert record["language"] == "python"
    assert record["env_path"]
    assert record["command"]
    assert record["host"]
    assert record["launcher"] == "single"
    assert record["rows"] == 8
    assert record["dropped"] == 0
    assert record["scalars"] == {"best": 1.0}
    loss = record["metrics"]["loss"]
    assert (loss["last"], loss["step"], loss["min"], loss["max"], loss["count"]) == (2, 3, 1, 3, 4)
    assert record["metrics"]["name"]["last"] == "x"
    assert (record["last_flush"]["complete"], record["last_flush"]["tag"]) == (True, "ckpt")
    (attempt,) = record["ranks"][0]
    assert (attempt["attempt"], attempt["state"], attempt["status"]) == (0, "left", "finished")
    assert attempt["pid"] == os.getpid()
    assert (attempt["rows"], attempt["points"], attempt["last_step"]) == (4, 8, 3)
    assert attempt["durable_seq"] == attempt["accepted_seq"] >= 5
    for name in ("started_at", "finished_at"):
        moment = datetime.fromisoformat(str(record[name]).replace("Z", "+00:00"))
        assert abs((datetime.now(timezone.utc) - moment).total_seconds()) < 60


def test_events_tell_the_story_of_the_run(programs: Programs) -> None:
    ranks = programs.ranks(2)
    assert ranks[0].ask("flush")["complete"]
    ranks[1].kill()
    until(lambda: "rank_lost" in (ranks.run_dir / "events.jsonl").read_text())
    ranks[0].ask("close")
    lines = (ranks.run_dir / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["type"] for event in events] == [
        "run_started",
        "status",
        "rank_joined",
        "rank_joined",
        "flush_opened",
        "flush_closed",
        "rank_lost",
        "rank_left",
        "status",
    ]
    assert len({event["id"] for event in events}) == len(events)
    stamps = [event["timestamp"] for event in events]
    assert stamps == sorted(stamps)
    opened, closed = events[4], events[5]
    assert (opened["version"], opened["ranks"]) == ("1.1", [0, 1])
    assert (closed["version"], closed["complete"], closed["missing"]) == ("1.1", True, [])
    assert (events[6]["rank"], events[7]["rank"]) == (1, 0)
    assert (events[8]["from"], events[8]["to"]) == ("running", "crashed")


def test_what_was_left_out_is_in_the_record_and_the_events(exp: ml.Experiment) -> None:
    with pytest.warns(RuntimeWarning, match="bad value"):
        exp.log_metrics({"good": 1.0, "bad": None})
    exp.log_metrics({"bad": object()})
    exp.close()
    record = load(exp.run_dir / "run.yaml")
    assert record["dropped"] == 2
    assert record["ranks"][0][0]["dropped"] == {"bad value": 2}
    lines = (exp.run_dir / "events.jsonl").read_text().splitlines()
    gaps = [e for e in map(json.loads, lines) if e["type"] == "gap"]
    assert sum(gap["count"] for gap in gaps) == 2
    assert {gap["reason"] for gap in gaps} == {"bad value"}


def test_messages_of_many_lines_read_back_by_their_prefix(exp: ml.Experiment) -> None:
    exp.info("one\n[2026] two\n\n\tthree")
    exp.warn("")
    exp.log_message(35, "by number")
    exp.close()
    assert said(exp.run_dir) == [
        ("INFO", 0, "one\n[2026] two\n\n\tthree"),
        ("WARN", 0, ""),
        ("LEVEL35", 0, "by number"),
    ]
    assert [message.seq for message in read_messages(exp.run_dir / "run.log")] == [1, 2, 3]


def test_the_command_lists_inspects_and_exports_what_the_face_wrote(
    exps: Path, expman: list[str], tmp_path: Path
) -> None:
    with ml.Experiment("exp", "run", base_dir=exps, redirect_console=False) as exp:
        for step in range(10):
            exp.log_metrics({"loss": step / 2, "lr": 0.1}, step=step)

    def call(*args: object) -> str:
        command = [*expman, *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = json.loads(call("list", exps, "--json"))
    assert "run" in json.dumps(listed)
    assert exp.run_id in call("inspect", exp.run_dir, "--json")
    table = tmp_path / "table.csv"
    call("export", exp.run_dir, "-f", "csv", "-o", table)
    frame = pd.read_csv(table)
    assert list(frame["step"]) == list(range(10))
    assert list(frame["loss"]) == [step / 2 for step in range(10)]
