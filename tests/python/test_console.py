"""Captured output: all of it, whoever writes it, and the terminal sees it as before."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ledger import read_console, read_rows
from processes import Programs


def lines(exps: Path) -> list[tuple[int, str, bytes]]:
    (path,) = exps.glob("*/*/console.log")
    return read_console(path)


def test_what_python_a_child_and_the_descriptor_write_is_kept_in_order(
    programs: Programs, exps: Path
) -> None:
    done = programs.run(
        """
        import os, subprocess, sys
        import monarch_like as ml
        with ml.init("exp", base_dir=sys.argv[1]):
            print("from python", flush=True)
            os.write(1, b"from the descriptor\\n")
            subprocess.run(["sh", "-c", "echo from a child; echo its error >&2"])
            print("python's error", file=sys.stderr)
            print("no newline", end="")
        print()
        print("behind the run")
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "from python",
        "from the descriptor",
        "from a child",
        "no newline",
        "behind the run",
    ]
    assert done.stderr.splitlines() == ["its error", "python's error"]
    kept = lines(exps)
    assert [text for _, stream, text in kept if stream == "out"] == [
        b"from python",
        b"from the descriptor",
        b"from a child",
        b"no newline",
    ]
    assert [text for _, stream, text in kept if stream == "err"] == [
        b"its error",
        b"python's error",
    ]


def test_a_flush_makes_the_output_before_it_durable_for_every_rank(programs: Programs) -> None:
    ranks = programs.ranks(3, redirect_console=True)
    for n, rank in enumerate(ranks):
        rank.ask("say", text=f"one from {n}\nand two\n")
        rank.ask("say", text=f"error {n}\n", stream="stderr")
    for rank in ranks:
        rank.ask("flush")  # what Python holds back it hands out when its own rank flushes
    kept = read_console(ranks.run_dir / "console.log")
    for n in range(3):
        mine = [(stream, text) for rank, stream, text in kept if rank == n]
        assert [text for stream, text in mine if stream == "out"] == [
            b"one from %d" % n,
            b"and two",
        ]
        assert [text for stream, text in mine if stream == "err"] == [b"error %d" % n]
    ranks.close()
    for n, rank in enumerate(ranks):
        shown = rank.output.read_text().splitlines()
        assert sorted(shown) == ["and two", f"error {n}", f"one from {n}"]


def test_bytes_that_are_no_text_and_lines_of_any_length_come_back_whole(
    programs: Programs, exps: Path, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    done = programs.run(
        r"""
        import os, sys
        import monarch_like as ml
        os.dup2(os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT), 1)
        out = sys.stdout.buffer
        with ml.init("exp", base_dir=sys.argv[1]):
            out.write(b"\xff\xfe\0\x80 raw\n")
            out.write(b"\r10%\r20%\r100%\n")
            out.write(b"\x1b[31mred\x1b[0m\n\n\t tab\n")
            out.write(b"[2026-01-01T00:00:00.000000Z] [rank 9 out 1] no\n")
            out.write(b"x" * 1_000_000 + b"\n")
            out.flush()
        """,
        seen,
    )
    assert done.returncode == 0, done.stderr
    kept = [text for _, _, text in lines(exps)]
    assert b"\n".join(kept) + b"\n" == seen.read_bytes(), "the terminal saw every byte"
    assert kept == [
        b"\xff\xfe\0\x80 raw",
        b"\r10%\r20%\r100%",
        b"\x1b[31mred\x1b[0m",
        b"",
        b"\t tab",
        b"[2026-01-01T00:00:00.000000Z] [rank 9 out 1] no",
        b"x" * 1_000_000,
    ]


def test_the_descriptors_are_restored_in_whatever_order_runs_are_closed(
    programs: Programs, exps: Path
) -> None:
    done = programs.run(
        """
        import os, sys
        import monarch_like as ml
        before = [os.readlink(f"/proc/self/fd/{n}") for n in (1, 2)]
        runs = [ml.Experiment(f"e{n}", base_dir=sys.argv[1]) for n in range(3)]
        print("to all three", flush=True)
        runs[0].close()
        print("to two", flush=True)
        runs[2].close()
        print("to one", end="", flush=True)
        runs[1].close()
        print(", and none", flush=True)
        assert [os.readlink(f"/proc/self/fd/{n}") for n in (1, 2)] == before
        again = ml.Experiment("again", base_dir=sys.argv[1])
        print("to the last", flush=True)
        again.close()
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "to all three\nto two\nto one, and none\nto the last\n"
    kept = {
        path.parts[-3]: [text.decode() for _, _, text in read_console(path)]
        for path in exps.glob("*/*/console.log")
    }
    assert kept == {
        "e0": ["to all three"],
        "e1": ["to all three", "to two", "to one"],
        "e2": ["to all three", "to two"],
        "again": ["to the last"],
    }


def test_a_run_that_cannot_be_joined_leaves_the_descriptors_as_they_were(
    programs: Programs,
) -> None:
    done = programs.run(
        """
        import os, sys
        import monarch_like as ml
        before = [os.readlink(f"/proc/self/fd/{n}") for n in (1, 2)]
        with ml.Experiment("exp", "run", base_dir=sys.argv[1], redirect_console=False):
            try:
                ml.Experiment("exp", "run", base_dir=sys.argv[1])
            except ml.RunExistsError:
                print("refused")
            assert [os.readlink(f"/proc/self/fd/{n}") for n in (1, 2)] == before
        ml.Experiment("exp", "run", base_dir=sys.argv[1])
        """
    )
    assert done.returncode == 1
    assert done.stdout == "refused\n"
    assert 'RunExistsError: run "run" already exists' in done.stderr


@pytest.mark.parametrize("command", ["sleep 60", "yes"])
def test_a_grandchild_that_keeps_the_output_does_not_hold_up_the_end(
    programs: Programs, command: str
) -> None:
    program = programs.start(
        """
        import subprocess, sys, time
        import monarch_like as ml
        ml.init("exp", base_dir=sys.argv[1])
        child = subprocess.Popen(sys.argv[2].split(), stderr=subprocess.DEVNULL)
        time.sleep(0.2)
        start = time.monotonic()
        ml.close()
        print(child.pid, time.monotonic() - start, file=sys.stderr)
        """,
        command,
    )
    _, said = program.communicate(timeout=30)  # its end would not come if the pipe were kept
    assert program.returncode == 0, said
    pid, took = said.split()
    assert float(took) < 5.0
    if command.startswith("sleep"):
        os.kill(int(pid), signal.SIGKILL)  # it writes nothing, so nothing told it to end


def test_a_flood_of_output_does_not_cost_a_single_metric(programs: Programs, exps: Path) -> None:
    done = programs.run(
        """
        import sys
        import monarch_like as ml
        with ml.init("exp", base_dir=sys.argv[1]) as exp:
            for step in range(200):
                print("y" * 100_000)
                exp.log_metrics({"loss": 0.5}, step=step)
            assert exp.flush().wait(30)
        """
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) == 200 * 100_001
    (run_dir,) = (path.parent for path in exps.glob("*/*/run.yaml"))
    assert len(read_rows(run_dir)) == 200
    assert {len(text) for _, _, text in lines(exps)} == {100_000}
