"""The nemesis for a short while; `just chaos` runs it for as long as you like."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SEED = 20
SECONDS = 6


@pytest.mark.slice
@pytest.mark.row(1, 3, 7, 10, 11, 16, 17, 24)
@pytest.mark.timeout(180)
def test_the_books_balance_after_a_short_nemesis() -> None:
    path = os.pathsep.join(filter(None, [str(ROOT / "tests/python"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.chaos.nemesis"),
            *("--seed", str(SEED), "--seconds", str(SECONDS), "--ranks", "3"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
