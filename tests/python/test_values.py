"""Values and names: exact where they are taken, counted and told where they are not."""

from __future__ import annotations

import math
import struct
import threading
import warnings
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import monarch_like as ml
from ledger import Row, read_rows

NAN_WITH_PAYLOAD = struct.unpack("<d", struct.pack("<Q", 0x7FF8_DEAD_BEEF_0001))[0]

EXACT: dict[str, Any] = {
    "nan": math.nan,
    "nan with a payload": NAN_WITH_PAYLOAD,
    "inf": math.inf,
    "minus inf": -math.inf,
    "minus zero": -0.0,
    "least float": 5e-324,
    "greatest float": 1.7976931348623157e308,
    "tenth": 0.1,
    "i64 min": -(2**63),
    "i64 max": 2**63 - 1,
    "2^53 + 1": 2**53 + 1,
    "zero": 0,
    "one": 1,
    "one as float": 1.0,
    "true": True,
    "false": False,
    "empty": "",
    "text": "a\0b\r\n\t'\"ünï\U0001f600",
}


@pytest.fixture
def strict(exps: Path) -> Iterator[ml.Experiment]:
    """A run that raises on what others count."""
    with ml.Experiment("strict", base_dir=exps, redirect_console=False, strict=True) as exp:
        yield exp


def stored(exp: ml.Experiment) -> list[Row]:
    """The rows of a run, read from the commit log and once more, published, from Parquet."""
    assert exp.flush().wait()
    before = read_rows(exp.run_dir)
    assert exp.flush(publish=True).wait()
    after = read_rows(exp.run_dir)
    assert sorted((r.key, r.seq, str(r.bits)) for r in before) == sorted(
        (r.key, r.seq, str(r.bits)) for r in after
    )
    return after


def by_key(exp: ml.Experiment) -> dict[str, Row]:
    return {row.key: row for row in stored(exp)}


def bits(value: object) -> object:
    return Row("", 0, None, 0, 0, value).bits  # type: ignore[arg-type]


def test_every_value_comes_back_exact_and_of_its_type(exp: ml.Experiment) -> None:
    exp.log_metrics(EXACT, step=0)
    rows = by_key(exp)
    assert {key: row.bits for key, row in rows.items()} == {
        key: bits(value) for key, value in EXACT.items()
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.1), 0.1),
        (np.float32(0.1), 0.10000000149011612),
        (np.float16(65504), 65504.0),
        (np.float16("nan"), math.nan),
        (np.int8(-128), -128),
        (np.uint64(2**63 - 1), 2**63 - 1),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.array(0.25), 0.25),
        (np.array(7), 7),
        (np.array([1.5]), 1.5),
        (Decimal("0.1"), 0.1),
        (Fraction(1, 4), 0.25),
    ],
    ids=repr,
)
def test_numbers_of_other_types_become_what_they_stand_for(
    exp: ml.Experiment, value: Any, expected: object
) -> None:
    exp.log_metrics({"x": value}, step=0)
    (row,) = stored(exp)
    assert row.bits == bits(expected)


def test_a_name_whose_type_changes_loses_nothing(exp: ml.Experiment) -> None:
    values: list[Any] = [1.5, 2, True, "three", math.nan, -0.0, 2**53 + 1]
    for step, value in enumerate(values):
        exp.log_metrics({"x": value}, step=step)
    rows = sorted(stored(exp), key=lambda row: row.seq)
    assert [row.bits for row in rows] == [bits(value) for value in values]
    assert [row.step for row in rows] == list(range(len(values)))


def test_steps_of_any_order_sign_and_size_are_kept(exp: ml.Experiment) -> None:
    steps = [5, 3, 3, None, -1, 2**63 - 1, -(2**63), 0, np.int64(9), 4.0]
    for step in steps:
        exp.log_metrics({"x": 1.0}, step=step)  # type: ignore[arg-type]
    rows = sorted(stored(exp), key=lambda row: row.seq)
    assert [row.step for row in rows] == steps


class Hostile:
    """Raises whatever is asked of it."""

    def __float__(self) -> float:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


class Device:
    """As a tensor that lives on an accelerator."""

    device = "cuda:0"

    def item(self) -> float:
        raise AssertionError("a copy from the device stalls training")


REFUSED: list[Any] = [
    None,
    b"bytes",
    [1.0],
    (1.0, 2.0),
    {"nested": 1.0},
    object(),
    Hostile(),
    Device(),
    2**63,
    -(2**63) - 1,
    1j,
    np.array([1.0, 2.0]),
    np.complex64(1),
    "x" * (1 << 20) + "x",
]


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_what_is_no_value_is_counted_and_the_rest_of_its_call_is_kept(
    exp: ml.Experiment, value: Any
) -> None:
    with pytest.warns(RuntimeWarning, match="'bad'"):
        exp.log_metrics({"good": 1.0, "bad": value, "other": 2.0}, step=0)
    exp.log_metrics({"good": 1.0, "bad": value, "other": 2.0}, step=1)  # told once: no warning
    rows = stored(exp)
    assert sorted((row.key, row.step) for row in rows) == [
        ("good", 0),
        ("good", 1),
        ("other", 0),
        ("other", 1),
    ]
    assert sum(exp.stats()["dropped"].values()) == 2


@pytest.mark.parametrize("value", REFUSED[:9], ids=lambda value: type(value).__name__)
def test_a_strict_run_raises_instead(strict: ml.Experiment, value: Any) -> None:
    with pytest.raises(ml.ExpmanError, match="'bad'"):
        strict.log_metrics({"bad": value}, step=0)


@pytest.mark.parametrize(
    "name",
    [
        "step",
        "rank",
        "timestamp",
        "key",
        "value",
        "a/b",
        "../../etc/passwd",
        "nul\0in it",
        "cr\rlf\n",
        "\u202egnp.exe",
        "Loss",
        " ",
        "x" * 1024,
        "\U0001f600",
        "null",
        "1e3",
    ],
    ids=lambda name: repr(name)[:20],
)
def test_any_name_comes_back_and_none_clashes_with_a_column(exp: ml.Experiment, name: str) -> None:
    exp.log_metrics({name: 1.0, "loss": 2.0, "rank\0": 3.0}, step=4)
    exp.log_scalar(name, 5)
    rows = by_key(exp)
    assert rows[name].bits == bits(1.0)
    assert (rows[name].rank, rows[name].step) == (0, 4)
    assert len(rows) == 3


def test_names_that_differ_only_in_case_stay_apart(exp: ml.Experiment) -> None:
    exp.log_metrics({"loss": 1.0, "Loss": 2.0, "LOSS": 3.0})
    rows = by_key(exp)
    assert [rows[name].value for name in ("loss", "Loss", "LOSS")] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("name", ["", "x" * 1025, "x" * (1 << 20), 7, None, b"bytes"])
def test_a_name_that_is_none_is_refused_and_the_rest_of_its_call_is_kept(
    exp: ml.Experiment, name: Any
) -> None:
    with pytest.warns(RuntimeWarning, match="name"):
        exp.log_metrics({name: 1.0, "loss": 2.0})
    assert [row.key for row in stored(exp)] == ["loss"]


def test_a_name_without_utf8_form_is_shown_not_lost(exp: ml.Experiment) -> None:
    exp.log_metrics({"lone \ud800 half": 1.0, "loss": 2.0})
    exp.log_scalar("\ud800", 1)
    exp.info("half \ud800")
    exp.log_params({"\ud800": "\ud800"})
    assert len(stored(exp)) == 2


def test_ten_thousand_names_in_one_call_are_kept_and_more_are_counted(
    exp: ml.Experiment,
) -> None:
    with pytest.warns(RuntimeWarning, match="too many"):
        exp.log_metrics({f"m{n}": float(n) for n in range(10_001)})
    rows = by_key(exp)
    assert len(rows) == 10_000
    assert rows["m9999"].value == 9999.0
    assert sum(exp.stats()["dropped"].values()) == 1


def test_no_row_is_lost_or_mixed_when_sixty_four_threads_log(exp: ml.Experiment) -> None:
    start = threading.Barrier(64)

    def log(thread: int) -> None:
        start.wait()
        for step in range(50):
            exp.log_metrics({f"t{thread}": float(step), "shared": thread}, step=step)

    threads = [threading.Thread(target=log, args=(n,)) for n in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert exp.flush().wait().rows == 64 * 50 * 2
    rows = read_rows(exp.run_dir)
    for n in range(64):
        mine = [row for row in rows if row.key == f"t{n}"]
        assert [row.value for row in mine] == [float(step) for step in range(50)]
    assert len({row.seq for row in rows}) == 64 * 50


def test_a_value_that_logs_while_it_is_logged_is_two_whole_calls(exp: ml.Experiment) -> None:
    class Nested:
        def __float__(self) -> float:
            exp.log_metrics({"inner": 1.0, "more": 2.0}, step=1)
            return 3.0

    exp.log_metrics({"a": 0.5, "outer": Nested(), "z": 4.0}, step=0)
    assert {row.key: (row.step, row.value) for row in stored(exp)} == {
        "inner": (1, 1.0),
        "more": (1, 2.0),
        "a": (0, 0.5),
        "outer": (0, 3.0),
        "z": (0, 4.0),
    }


def test_a_dict_that_changes_while_it_is_logged_does_no_harm(exp: ml.Experiment) -> None:
    metrics: dict[str, Any] = {}

    class Grows:
        def __float__(self) -> float:
            for n in range(100):
                metrics[f"new{n}"] = float(n)
            return 1.0

    class Shrinks:
        def __float__(self) -> float:
            metrics.clear()
            return 2.0

    metrics.update(a=0.5, grows=Grows(), z=1.0)
    exp.log_metrics(metrics, step=0)
    metrics.update(a=0.5, shrinks=Shrinks(), z=1.0)
    exp.log_metrics(metrics, step=1)
    kept = {(row.key, row.step): row.value for row in stored(exp)}
    assert kept["a", 0] == kept["a", 1] == 0.5
    assert kept["grows", 0] == 1.0
    assert kept["shrinks", 1] == 2.0
    assert kept["z", 0] == 1.0


def test_a_value_that_logs_from_its_finaliser_does_no_harm(exp: ml.Experiment) -> None:
    class Parting:
        def __del__(self) -> None:
            exp.log_metrics({"parting": 1.0})

    for _ in range(10):
        Parting()
    assert [row.key for row in stored(exp)] == ["parting"] * 10


def test_a_warning_that_is_an_error_is_not_raised_into_training(exp: ml.Experiment) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exp.log_metrics({"bad": None, "good": 1.0})
    assert [row.key for row in stored(exp)] == ["good"]


def test_scalars_keep_their_latest_value_and_type(exp: ml.Experiment) -> None:
    for value in (1, 0.5, True, "on", math.inf, -0.0, 2**63 - 1):
        exp.log_scalar("s", 0)
        exp.log_scalar("s", value)
        exp.log_scalar(f"was {value}", value)
    exp.close()
    record = yaml.safe_load((exp.run_dir / "run.yaml").read_text())
    assert record["scalars"]["s"] == 2**63 - 1
    for value in (1, 0.5, True, "on", math.inf, -0.0, 2**63 - 1):
        kept = record["scalars"][f"was {value}"]
        assert (type(kept), kept) == (type(value), value)
    assert not read_rows(exp.run_dir)
