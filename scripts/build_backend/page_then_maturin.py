"""Build backend of `pip install .`: builds the page when npm is there; maturin does the rest.

The Rust build itself never runs npm; without the page the server says that it was not built.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import maturin
from maturin import (
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

_ROOT = Path(__file__).resolve().parents[2]


def _page() -> None:
    script = _ROOT / "scripts" / "build-dashboard.sh"
    if not script.exists() or shutil.which("npm") is None or shutil.which("bash") is None:
        print("expman-mesh: no npm here, so `expman serve` will have no page", file=sys.stderr)
        return
    subprocess.run(["bash", str(script)], check=True, cwd=_ROOT, stdout=sys.stderr)


def build_wheel(*args: Any, **options: Any) -> str:
    _page()
    name: str = maturin.build_wheel(*args, **options)
    return name


def build_editable(*args: Any, **options: Any) -> str:
    _page()
    name: str = maturin.build_editable(*args, **options)
    return name


def build_sdist(*args: Any, **options: Any) -> str:
    _page()
    name: str = maturin.build_sdist(*args, **options)
    return name
