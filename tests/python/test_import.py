"""What a program imports before it can log: nothing that takes long, unless it is used."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import monarch_like as ml
from processes import Programs, environment

DEAR = {
    "ast",
    "asyncio",
    "concurrent.futures",
    "contextlib",
    "dataclasses",
    "dis",
    "enum",
    "inspect",
    "json",
    "logging",
    "pathlib",
    "pickle",
    "queue",
    "re",
    "signal",
    "socket",
    "subprocess",
    "tokenize",
    "traceback",
    "typing",
    "urllib",
    "weakref",
}
"""Modules that take a good part of a millisecond each, or import such."""

AT_IMPORT = {
    "__future__": "the annotations of all our files are texts",
    "_signal": "a built-in: what `signal` is made of",
    "_thread": "a built-in: what `threading` is made of",
    "_weakref": "a built-in: what `weakref` is made of",
    "atexit": "a built-in",
    "time": "a built-in",
}
"""Everything else that the import of the package may bring."""

SHOW = "import sys; print(*sys.modules)"

RUN = """
import sys
import monarch_like
exp = monarch_like.init("exp", base_dir=sys.argv[1])
exp.log_metrics({"loss": 0.5}, step=1)
assert exp.close()
print(*sys.modules)
"""


def imported(programs: Programs, code: str) -> set[str]:
    """The modules behind a program that a bare interpreter has not, ours left out."""

    def modules(code: str) -> set[str]:
        done = programs.run(code)
        assert done.returncode == 0, done.stderr
        return set(done.stdout.split())

    found = modules(code) - modules(SHOW)
    assert "monarch_like._core" in found
    return {name for name in found if not name.startswith("monarch_like")}


def test_the_import_alone_brings_nothing_but_ours(programs: Programs) -> None:
    assert imported(programs, f"import monarch_like\n{SHOW}") <= set(AT_IMPORT)


def test_a_run_with_nothing_special_imports_nothing_dear(programs: Programs) -> None:
    found = imported(programs, RUN)
    assert "threading" in found, "its hook is taken"
    assert not found & DEAR


def test_each_name_of_the_package_is_there_and_a_star_brings_all_of_them() -> None:
    # In a process of its own: here others have asked for all of them before.
    code = """
import json
from monarch_like import *
import monarch_like
got = {name: name in globals() and globals()[name] is getattr(monarch_like, name)
       for name in monarch_like.__all__}
print(json.dumps([got, dir(monarch_like)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment())
    assert done.returncode == 0, done.stderr
    got, listed = json.loads(done.stdout)
    assert list(got) == ml.__all__
    assert all(got.values()), got
    assert set(ml.__all__) <= set(listed)


def test_names_that_are_imported_late_are_like_the_others(exps: Path) -> None:
    for name in ("FlushHandle", "FlushReport", "RankOutcome"):
        code = f"import monarch_like; assert {name!r} in dir(monarch_like); "
        code += f"assert {name!r} not in vars(monarch_like); "
        code += f"from monarch_like import {name}; assert {name} is monarch_like.{name}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment())
        assert done.returncode == 0, done.stderr
    outcome = ml.RankOutcome("durable", 3, None, 0.0)
    assert pickle.loads(pickle.dumps(outcome)) == outcome
    with pytest.raises(AttributeError, match="module 'monarch_like' has no attribute 'flus'"):
        _ = ml.flus  # type: ignore[attr-defined]
