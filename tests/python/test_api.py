"""The API does what its description says, whatever it is asked: schemathesis over a real server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from processes import Programs, environment

pytest.importorskip("schemathesis", reason="it wants Python 3.10")

EXAMPLES = os.environ.get("EXPMAN_API_EXAMPLES", "10")
"""Questions for each path; more of them find more."""

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)

SEED = os.environ.get("EXPMAN_API_SEED", "1")


@pytest.fixture
def server(programs: Programs, expman: list[str], exps: Path) -> Iterator[str]:
    """Serves a good run, a failed one and a broken one."""
    for failing in (False, True):
        done = programs.run(
            """
            import sys
            import monarch_like as ml
            name = "failed" if sys.argv[2] == "True" else "good"
            with ml.init("exp", name, base_dir=sys.argv[1]) as exp:
                exp.log_params({"lr": 0.1, "opt": {"name": "adam"}})
                for step in range(50):
                    exp.log_metrics({"loss": 1 / (step + 1), "a, b": float("nan"), "t": "x"}, step)
                    print("line", step)
                exp.info("a message")
                exp.save_artifact(__file__)
                if sys.argv[2] == "True":
                    raise ValueError("boom")
            """,
            failing,
        )
        assert done.returncode == int(failing), done.stderr
    (exps / "exp/broken/.expman").mkdir(parents=True)
    (exps / "exp/broken/run.yaml").write_text("format: [1")
    command = [*expman, "serve", str(exps), "--port", "0", "--json"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
        process.terminate()
        assert process.wait(10) == 0


def ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("run", ["good", "failed", "broken"])
def test_no_question_brings_an_answer_that_is_not_described(
    server: str, tmp_path: Path, run: str
) -> None:
    (key,) = (found["key"] for found in ask(f"{server}/api/runs") if found["name"] == run)
    files = [file["key"] for file in ask(f"{server}/api/runs/{key}/artifacts")]
    assert len(files) == (run != "broken")
    # With real names the questions get beyond the first door.
    known = {"path.key": key, "path.artifact": (files or ["none"])[0], "path.name": "exp"}
    lines = [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in known.items()]
    (tmp_path / "schemathesis.toml").write_text("\n".join(["[parameters]", *lines]))
    # Streams do not end: they have tests of their own.
    options = {
        "--exclude-path-regex": "stream$",
        # That a file can't be read is the server's trouble, and described.
        "--checks": ",".join(CHECKS[run == "broken" :]),
        "--max-examples": EXAMPLES,
        "--seed": SEED,
        "--phases": "examples,coverage,fuzzing",
        "-H": "x-expman: 1",
        "--request-timeout": "20",
    }
    described = f"{server}/api/openapi.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            described,
            "--no-color",
            *sum(options.items(), ()),
        ],
        cwd=tmp_path,
        env={k: v for k, v in environment().items() if not k.lower().endswith("_proxy")},
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
    )
    told = done.stdout[-6000:] + done.stderr[-2000:]
    assert done.returncode == 0, f"seed {SEED}:\n{told}"
    passed = re.search(r"(\d+) generated, (\d+) passed", told)
    assert passed, told
    assert int(passed[1]) == int(passed[2]) > 100, told
