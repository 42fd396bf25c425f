"""The command `expman`, as a person would run it after something went wrong."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def run(expman: Sequence[str], *args: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs it to its end; whatever it was given, it does not panic."""
    done = subprocess.run(
        [*expman, *map(str, args)], capture_output=True, text=True, timeout=300, check=False
    )
    assert "panicked" not in done.stderr, done.stderr
    assert done.returncode >= 0, f"{args} died of signal {-done.returncode}"
    return done


def recover(expman: Sequence[str], run_dir: Path) -> None:
    """`expman recover`, which must succeed."""
    done = run(expman, "recover", run_dir)
    assert done.returncode == 0, done.stdout + done.stderr


def inspect(expman: Sequence[str], run_dir: Path) -> Any:
    """`expman inspect --json`, which must succeed."""
    done = run(expman, "inspect", run_dir, "--json")
    assert done.returncode in (0, 4), done.stdout + done.stderr
    return json.loads(done.stdout)
