"""Fixtures, markers and the seed of all chaos tests."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# The fixtures of the Python tests hold here as well.
from conftest import exp, expman, exps, no_process_left_behind, programs  # noqa: F401

from . import oracles
from .victims import Zygote

MARKERS = (
    "row(number): which rows of the fault matrix a test shows",
    "slice: a short case, which `just test` runs as well",
    "long: takes many minutes",
)

TIMEOUT_SECS = 120
"""Of a test that says nothing else."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="seed of all chaos, to do it again")


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if config.getoption("--seed", default=None) is None:
        config.option.seed = random.SystemRandom().randrange(1 << 32)


def pytest_report_header(config: pytest.Config) -> str:
    return f"chaos: --seed {config.getoption('--seed')}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that takes too long fails like any other, so that its processes are ended, too."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            given = item.get_closest_marker("timeout")
            seconds = given.args[0] if given is not None else TIMEOUT_SECS
            item.add_marker(pytest.mark.timeout(seconds, method="signal"), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:
        seed = item.config.getoption("--seed")
        again = f"{sys.executable} -m pytest '{item.nodeid}' --seed {seed}"
        report.sections.append(("to do it again", again))
    return report


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this test: other for each, the same for the same --seed."""
    whole = f"{request.config.getoption('--seed')}/{request.node.nodeid}"
    return random.Random(whole).randrange(1 << 32)


@pytest.fixture
def rng(seed: int) -> random.Random:
    """All chance in a test comes from here."""
    return random.Random(seed)


@pytest.fixture(autouse=True)
def sockets(
    no_process_left_behind: None,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """A folder for the sockets of this test alone; its path is short, as those of sockets are."""
    runtime = Path(tempfile.mkdtemp(prefix="xm-", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    yield runtime / "expman-mesh"
    shutil.rmtree(runtime)


@pytest.fixture(autouse=True)
def no_panic(sockets: Path, tmp_path: Path) -> Iterator[None]:
    """H: whatever happened, nothing panicked, in an owner or in a rank."""
    yield
    while oracles.OPEN:
        oracles.OPEN.pop().close()
    oracles.no_panic(tmp_path)


@pytest.fixture
def zygote(no_panic: None, tmp_path: Path) -> Iterator[Zygote]:
    """Starts victims within milliseconds."""
    with Zygote(tmp_path) as zygote:
        yield zygote


@pytest.fixture
def as_root() -> None:
    """Skips where the injectors may not do what they do."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it mounts, traces or limits other processes")
