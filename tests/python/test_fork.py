"""Forked children, multiprocessing, subprocesses: nothing lost, nothing stuck, nothing doubled."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from ledger import read_rows
from processes import Programs

START = """
import json, multiprocessing, os, signal, subprocess, sys, threading, time
import monarch_like as ml
exp = ml.init("exp", base_dir=sys.argv[1], redirect_console=False)
def log(name, n=50):
    for step in range(n):
        exp.log_metrics({name: float(step)}, step=step)
"""


def run_of(exps: Path) -> tuple[Path, dict[str, Any]]:
    (path,) = exps.glob("*/*/run.yaml")
    return path.parent, yaml.safe_load(path.read_text())


def counts(run_dir: Path) -> Counter[tuple[str, int, int]]:
    """Rows by (name, rank, attempt); none of them twice."""
    rows = read_rows(run_dir)
    assert len({(r.key, r.rank, r.attempt, r.seq) for r in rows}) == len(rows)
    return Counter((row.key, row.rank, row.attempt) for row in rows)


@pytest.mark.parametrize(
    "leave", ["exp.close(); os._exit(0)", "sys.exit(0)", "exp.flush().wait(); os._exit(0)"]
)
def test_a_forked_child_logs_as_another_attempt_of_its_rank(
    programs: Programs, exps: Path, leave: str
) -> None:
    done = programs.run(
        f"""
{START}
log("before")
pid = os.fork()
if pid == 0:
    log("child")
    {leave}
log("after")
assert os.waitpid(pid, 0)[1] == 0
log("later")
exp.close()
"""
    )
    assert done.returncode == 0, done.stderr
    run_dir, run = run_of(exps)
    assert counts(run_dir) == {
        ("before", 0, 0): 50,
        ("child", 0, 1): 50,
        ("after", 0, 0): 50,
        ("later", 0, 0): 50,
    }
    assert run["status"] == "finished", "the parent was there last and speaks for its rank"
    assert len(run["ranks"][0]) == 2
    assert done.stderr == ""


def test_a_child_that_uses_nothing_joins_nothing(programs: Programs, exps: Path) -> None:
    done = programs.run(
        f"""
{START}
for leave in ("exit", "_exit", "kill", "fork"):
    pid = os.fork()
    if pid == 0:
        if leave == "exit":
            sys.exit(0)
        if leave == "kill":
            os.kill(os.getpid(), signal.SIGTERM)
        if leave == "fork" and (grandchild := os.fork()):
            os.waitpid(grandchild, 0)
        os._exit(0)
    os.waitpid(pid, 0)
    log(leave)
exp.close()
"""
    )
    assert done.returncode == 0, done.stderr
    run_dir, run = run_of(exps)
    assert sum(counts(run_dir).values()) == 200
    assert len(run["ranks"][0]) == 1


def test_a_grandchild_joins_even_when_its_parent_did_not(programs: Programs, exps: Path) -> None:
    done = programs.run(
        f"""
{START}
child = os.fork()
if child == 0:
    grandchild = os.fork()
    if grandchild == 0:
        log("grandchild")
        exp.close()
        os._exit(0)
    os._exit(os.waitpid(grandchild, 0)[1] and 1)
assert os.waitpid(child, 0)[1] == 0
exp.close()
"""
    )
    assert done.returncode == 0, done.stderr
    assert counts(run_of(exps)[0]) == {("grandchild", 0, 1): 50}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_lose_no_row(
    programs: Programs, exps: Path, tmp_path: Path, method: str
) -> None:
    done = programs.run(
        """
        import multiprocessing, sys
        import monarch_like as ml

        def work():
            try:
                exp = ml.current()
            except ml.ConfigError:  # not forked: the environment says where
                exp = ml.init("exp", base_dir="elsewhere", redirect_console=False)
            for step in range(25):
                exp.log_metrics({"work": float(step)}, step=step)

        if __name__ == "__main__":
            exp = ml.init("exp", base_dir=sys.argv[1], redirect_console=False)
            exp.log_metrics({"parent": 1.0})
            context = multiprocessing.get_context(sys.argv[2])
            workers = [context.Process(target=work) for _ in range(3)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join(30)
                assert worker.exitcode == 0, worker.exitcode
            assert ml.close()
        """,
        method,
    )
    assert done.returncode == 0, done.stderr
    run_dir, run = run_of(exps)
    found = counts(run_dir)
    assert sum(n for (key, _, _), n in found.items() if key == "work") == 75
    assert len([key for key, _, _ in found if key == "work"]) == 3, "each is a writer of its own"
    assert not (tmp_path / "elsewhere").exists()
    assert run["status"] == "finished"
    ranks = {rank: len(attempts) for rank, attempts in run["ranks"].items()}
    assert ranks == ({0: 4} if method == "fork" else {0: 1, 1: 1, 2: 1, 3: 1})


def test_a_child_joins_by_the_handle_it_is_given(programs: Programs, exps: Path) -> None:
    done = programs.run(
        f"""
{START}
log("parent")
child = '''
import sys
import monarch_like as ml
with ml.init("child", redirect_console=False) as exp:
    exp.log_metrics({{"child": 1.0}})
    print(exp.rank, exp.run_name)
'''
env = {{k: v for k, v in os.environ.items() if not k.startswith("EXPMAN_HANDLE")}}
env["EXPMAN_HANDLE"] = exp.handle()
for rank in (None, "5"):
    if rank:
        env["EXPMAN_RANK"] = rank
    print(subprocess.check_output([sys.executable, "-c", child], env=env, text=True), end="")
print(exp.rank, exp.run_name)
exp.close()
"""
    )
    assert done.returncode == 0, done.stderr
    run_dir, run = run_of(exps)
    name = run["name"]
    assert done.stdout.splitlines() == [f"1 {name}", f"5 {name}", f"0 {name}"]
    assert counts(run_dir) == {("parent", 0, 0): 50, ("child", 1, 0): 1, ("child", 5, 0): 1}


def test_a_child_by_handle_of_a_run_that_was_resumed_may_join(
    programs: Programs, exps: Path
) -> None:
    child = """
import sys
import monarch_like as ml
ml.init("x", redirect_console=False).log_metrics({"child": 1.0})
"""
    for resume in (False, True):
        done = programs.run(
            f"""
import subprocess, sys
import monarch_like as ml
with ml.init("exp", "run", base_dir=sys.argv[1], resume={resume}, redirect_console=False):
    subprocess.run([sys.executable, "-c", {child!r}], check=True)
"""
        )
        assert done.returncode == 0, done.stderr
    assert counts(exps / "exp/run") == {("child", 1, 0): 1, ("child", 2, 0): 1}


def test_forking_while_threads_log_never_hangs(programs: Programs, exps: Path) -> None:
    done = programs.run(
        f"""
{START}
enough = threading.Event()
logged = [0] * 4
def pour(n):
    while not enough.is_set():
        exp.log_metrics({{"pour": 1.0}}, step=logged[n])
        logged[n] += 1
        if logged[n] % 50 == 0:
            exp.flush(scope="rank").wait()
threads = [threading.Thread(target=pour, args=(n,)) for n in range(4)]
for thread in threads:
    thread.start()
for n in range(40):
    pid = os.fork()
    if pid == 0:
        if n % 10 == 0:
            exp.log_metrics({{"child": float(n)}})
            assert exp.flush(timeout=20).wait()
            exp.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
enough.set()
for thread in threads:
    thread.join()
exp.close()
print(json.dumps(logged))
"""
    )
    assert done.returncode == 0, done.stderr
    found = counts(run_of(exps)[0])
    assert found["pour", 0, 0] == sum(json.loads(done.stdout))
    assert sum(n for (key, _, _), n in found.items() if key == "child") == 4


def test_a_worker_that_is_terminated_does_not_decide_how_the_run_ends(
    programs: Programs, exps: Path
) -> None:
    done = programs.run(
        f"""
{START}
for number in (signal.SIGTERM, signal.SIGKILL):
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        log("worker")
        exp.flush().wait()
        os.write(tell, b"x")
        time.sleep(60)
    os.read(ready, 1)
    os.kill(pid, number)
    os.waitpid(pid, 0)
log("parent")
exp.close()
"""
    )
    assert done.returncode == 0, done.stderr
    run_dir, run = run_of(exps)
    assert [attempt["status"] for attempt in run["ranks"][0]] == [
        "finished",
        "preempted",
        "crashed",
    ]
    assert run["status"] == "finished"
    assert sum(counts(run_dir).values()) == 150


def test_a_fork_under_a_running_capture_keeps_the_childs_lines(
    programs: Programs, exps: Path
) -> None:
    done = programs.run(
        """
import os, sys
import monarch_like as ml
with ml.init("exp", base_dir=sys.argv[1]) as exp:
    print("parent")
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        print("child")
        exp.log_metrics({"child": 1.0})
        sys.stdout.flush()
        exp.close()
        os._exit(0)
    os.waitpid(pid, 0)
    print("later")
print("behind")
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["parent", "child", "later", "behind"]
    console = (run_of(exps)[0] / "console.log").read_text()
    assert [line.split("] ")[-1] for line in console.splitlines()] == ["parent", "child", "later"]
