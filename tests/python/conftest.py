"""Fixtures of all tests of the Python face."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import monarch_like as ml
from monarch_like import _page
from processes import MARK, Programs, marked

LAUNCHERS = ("EXPMAN_", "MPI_", "OMPI_", "PALS_", "PMI", "RAY_", "SLURM_", "TORCHELASTIC_")
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

GRACE_SECS = 15.0
"""How long processes of a test may take to end behind it: an owner gives up on a rank that was
killed at once, on one that never came after its lease."""


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """The plug-in for torchrun can't be imported without torch, and has no examples."""
    return True if collection_path.name == "_torchrun.py" else None


@pytest.fixture(autouse=True)
def no_process_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test runs as if no launcher stood above it, and leaves nothing running."""
    for name in list(os.environ):
        if name.startswith(LAUNCHERS) or name in LAUNCHED:
            monkeypatch.delenv(name)
    monkeypatch.setenv(MARK, str(tmp_path))
    yield
    deadline = time.monotonic() + GRACE_SECS
    while (left := marked(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.01)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "these processes were left behind"


@pytest.fixture
def programs(no_process_left_behind: None, tmp_path: Path) -> Iterator[Programs]:
    """Starts ranks and programs; what still runs at the end is killed."""
    programs = Programs(tmp_path)
    yield programs
    programs.end()


@pytest.fixture
def exps(tmp_path: Path) -> Path:
    """Where experiments are kept."""
    return tmp_path / "exps"


@pytest.fixture
def exp(no_process_left_behind: None, exps: Path) -> Iterator[ml.Experiment]:
    """A run of this very process."""
    with ml.Experiment("exp", base_dir=exps, redirect_console=False) as exp:
        yield exp
    # The server of `exp.show()` would go on until this process ends.
    _page._end_all()


@pytest.fixture(scope="session")
def expman() -> list[str]:
    """The `expman` command of the installed package."""
    named = os.environ.get("EXPMAN")
    if named:
        return [named]
    beside = shutil.which("expman", path=str(Path(sys.executable).parent))
    if beside:
        return [beside]
    return [sys.executable, "-c", "from monarch_like._cli import main; main()"]
