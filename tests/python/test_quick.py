"""Calls that look like an earlier one: served by the short way, stored as by the long one."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import monarch_like as ml
from ledger import Row, read_rows

NAMES = ("loss", "train/loss", "rate", "a", "ü")

VALUES = st.one_of(
    st.floats(allow_nan=False),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.text(max_size=3),
    st.floats(allow_nan=False).map(np.float64),
    st.floats(allow_nan=False, width=32).map(np.float32),
    st.just(2**70),
)


class Name(str):
    """A text of another class."""

    __slots__ = ()


def as_given(name: str, how: int) -> str:
    """The same name: the very object, another object, or one of another class."""
    if how == 1:
        return "".join(list(name)) if len(name) > 1 else name
    return Name(name) if how == 2 else name


CALLS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 2), VALUES), max_size=4),
        st.none() | st.integers(-5, 5),
        st.integers(1, 3),
    ),
    max_size=12,
)


def kept(value: object) -> Any:
    """What of a value is stored; None when it is refused."""
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else None
    return float(value)  # type: ignore[arg-type]


def told(row: Row) -> tuple[str, int | None, str]:
    return row.key, row.step, f"{type(row.value).__name__} {row.value!r}"


@pytest.fixture
def exp(exps: Path) -> Any:
    with ml.Experiment("quick", base_dir=exps, redirect_console=False) as exp:
        yield exp


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(calls=CALLS)
@pytest.mark.filterwarnings("ignore:monarch_like left out")
def test_whatever_is_logged_again_and_again_is_stored_as_it_was(
    exp: ml.Experiment, calls: list[Any]
) -> None:
    expected = []
    before = {row.seq for row in read_rows(exp.run_dir)} if exp.stats()["durable_seq"] else set()
    for entries, step, times in calls:
        metrics = {as_given(name, how): value for name, how, value in entries}
        for turn in range(times):
            if turn % 2:
                exp.log_metrics(metrics, step=step)
            else:
                exp.log_metrics(metrics, step)
            for name, value in metrics.items():
                if kept(value) is not None:
                    expected.append(
                        (str(name), step, f"{type(kept(value)).__name__} {kept(value)!r}")
                    )
    assert exp.flush().wait()
    found = [told(row) for row in read_rows(exp.run_dir) if row.seq not in before]
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_a_dict_that_changes_between_calls_is_seen_as_it_is(exp: ml.Experiment) -> None:
    metrics: dict[str, Any] = {"a": 1.0, "b": 2.0, "c": 3.0}
    for _ in range(3):
        exp.log_metrics(metrics, 0)
    del metrics["b"]
    exp.log_metrics(metrics, 1)
    metrics["b"] = 4
    exp.log_metrics(metrics, 2)
    metrics["b"] = "text"
    exp.log_metrics(metrics, 3)
    assert exp.flush().wait()
    found = sorted((row.step, row.key, row.value) for row in read_rows(exp.run_dir))
    first = [(0, key, value) for key, value in (("a", 1.0), ("b", 2.0), ("c", 3.0)) for _ in "123"]
    assert found == [
        *first,
        (1, "a", 1.0),
        (1, "c", 3.0),
        *((2, key, value) for key, value in (("a", 1.0), ("b", 4), ("c", 3.0))),
        *((3, key, value) for key, value in (("a", 1.0), ("b", "text"), ("c", 3.0))),
    ]


def test_threads_that_log_at_once_mix_nothing(exp: ml.Experiment) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:

        def work(number: int) -> None:
            metrics = {"thread": number, "twice": 2.0 * number}
            for step in range(500):
                exp.log_metrics(metrics, step)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert exp.flush().wait()
    calls: dict[int, dict[str, Any]] = {}
    for row in read_rows(exp.run_dir):
        calls.setdefault(row.seq, {"step": row.step})[row.key] = row.value
    assert len(calls) == 2000
    assert all(call["twice"] == 2 * call["thread"] for call in calls.values())
    assert sorted((call["thread"], call["step"]) for call in calls.values()) == [
        (number, step) for number in range(4) for step in range(500)
    ]


def test_what_is_no_call_is_told_as_of_any_function(exp: ml.Experiment) -> None:
    for wrong in (
        lambda: exp.log_metrics(),  # type: ignore[call-arg]
        lambda: exp.log_metrics({"a": 1.0}, 1, 2),  # type: ignore[call-arg]
        lambda: exp.log_metrics({"a": 1.0}, stop=1),  # type: ignore[call-arg]
    ):
        with pytest.raises(TypeError, match="log_metrics"):
            wrong()


def test_a_run_that_is_closed_takes_nothing_by_the_short_way(exp: ml.Experiment) -> None:
    metrics = {"a": 1.0}
    for step in range(4):
        exp.log_metrics(metrics, step)
    log = exp.log_metrics
    exp.close()
    with pytest.warns(RuntimeWarning, match="the run is closed"):
        log(metrics, 4)
    assert len(read_rows(exp.run_dir)) == 4
