"""Rows 32 to 35: names, values and steps. Most of it is shown elsewhere:

| row | what | test in tests/python |
|---|---|---|
| 32 | 10,000 names in a row | `test_ten_thousand_names_in_one_call_are_kept_and_more_are_counted` |
| 33 | names of metrics | `test_any_name_comes_back_and_none_clashes_with_a_column` |
| 33 | empty, 1 MB | `test_a_name_that_is_none_is_refused_and_the_rest_of_its_call_is_kept` |
| 33 | case twins | `test_names_that_differ_only_in_case_stay_apart` |
| 33 | no UTF-8 form | `test_a_name_without_utf8_form_is_shown_not_lost` |
| 33 | experiments, runs | `test_a_name_that_is_empty_too_long_or_leaves_the_folder_is_refused` |
| 34 | NaN to i64::MIN, bool | `test_every_value_comes_back_exact_and_of_its_type` |
| 34 | fp16 and other types | `test_numbers_of_other_types_become_what_they_stand_for` |
| 34 | type changes | `test_a_name_whose_type_changes_loses_nothing` |
| 35 | None, negative, repeated | `test_steps_of_any_order_sign_and_size_are_kept` |
| 35 | no step at all | `test_a_step_that_is_none_is_counted_and_warned_about` |

A million names in a run are in `test_bounded.py`.
Here is what those do not show: the same after a crash, and in a live client's eyes.
"""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ledger import Row, read_rows
from processes import is_alive, owner_of, stop, until

from .command import recover
from .oracles import record, settles
from .puppet import Puppet, puppet
from .serving import Follower, Server
from .victims import Zygote

VALUES = {
    "nan": "float('nan')",
    "inf": "float('inf')",
    "minus inf": "-float('inf')",
    "minus zero": "-0.0",
    "least": "5e-324",
    "greatest": "1.7976931348623157e308",
    "tenth": "0.1",
    "2^53+1": "2**53 + 1",
    "i64 min": "-2**63",
    "i64 max": "2**63 - 1",
    "true": "True",
    "false": "False",
    "text": "'a\\0b\\r\\n\\u202e\\U0001f600'",
    "empty": "''",
}

NAMES = ["step", "rank", "timestamp", "../../x", "nul\0", "cr\r\nlf", "\u202egnp", "Loss", "loss"]

STEPS: list[int | None] = [5, 3, 3, None, -1, 2**63 - 1, -(2**63), 0]


def logged(zygote: Zygote, exps: Path) -> Puppet:
    """A rank that has logged all of these, whatever it could."""
    rank = puppet(zygote, base_dir=str(exps), run_name="run", redirect_console=False)
    values = ", ".join(f"{name!r}: {value}" for name, value in VALUES.items())
    rank.do(f"exp.log_metrics({{{values}}}, step=1)")
    rank.do(f"exp.log_metrics({{name: 1.0 for name in {NAMES!r}}}, step=2)")
    for step in STEPS:
        rank.do(f"exp.log_metrics({{'x': 0.5}}, step={step})")
    rank.do(f"exp.log_metrics({{'x': 0.5}}, step={2**64 - 1})")
    return rank


def bits(value: object) -> object:
    return Row("", 0, None, 0, 0, value).bits  # type: ignore[arg-type]


def exact(rows: list[Row]) -> None:
    """A: each value has its bits, each name its row, each step its place."""
    by_key = {row.key: row for row in rows if row.step == 1}
    assert {key: row.bits for key, row in by_key.items()} == {
        key: bits(eval(value)) for key, value in VALUES.items()
    }
    assert {row.key for row in rows if row.step == 2} == set(NAMES)
    assert [row.step for row in rows if row.key == "x"] == STEPS


@pytest.mark.row(33, 34, 35)
@pytest.mark.slice
def test_values_names_and_steps_of_any_kind_survive_a_crash_bit_for_bit(
    zygote: Zygote, exps: Path, expman: list[str]
) -> None:
    rank = logged(zygote, exps)
    assert rank.flush()["complete"]
    dropped = rank.stats()["dropped"]
    assert dropped == {"bad step": 1}, "a step of 2^64-1 is counted"
    owner = owner_of(rank.run_dir)
    for pid in (owner, rank.pid):
        stop(pid)
    for pid in (owner, rank.pid):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(owner) and not is_alive(rank.pid))
    exact(sorted(read_rows(rank.run_dir), key=lambda row: row.seq))
    recover(expman, rank.run_dir)
    exact(sorted(read_rows(rank.run_dir), key=lambda row: row.seq))
    assert record(rank.run_dir)["dropped"] == 1
    settles(expman, rank.run_dir)
    outside = {path.name for path in exps.parent.iterdir()} | {p.name for p in exps.iterdir()}
    assert "x" not in outside, "a name is never a path"


def shown(value: object) -> object:
    """What JSON makes of a value: an int is a number, a float that has no JSON form its name."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


@pytest.mark.row(34)
@pytest.mark.slice
def test_a_live_client_sees_every_value_exact_and_of_its_type(
    zygote: Zygote, exps: Path, expman: list[str]
) -> None:
    rank = puppet(zygote, base_dir=str(exps), run_name="run", redirect_console=False)
    with Server(expman, exps) as server:
        client = Follower(server, server.key(rank.run_dir))
        values: dict[str, Any] = {name: eval(value) for name, value in VALUES.items()}
        for step, value in enumerate(VALUES.values()):
            rank.do(f"exp.log_metrics({{'x': {value}, 'y': 1.0}}, step={step})")
        client.sees(len(values) - 1, "y")
        seen = dict(client.reader.points("x")[0])
        for step, (name, value) in enumerate(values.items()):
            expected = shown(value)
            found = seen[step]
            assert (type(found), found) == (type(expected), expected), name
            if isinstance(value, float) and value == 0.0:
                assert math.copysign(1.0, found) == math.copysign(1.0, value)
    rank.close()
