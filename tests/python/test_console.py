"""Captured output: all of it, whoever writes it, and the terminal sees it as before."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import monarch_like as ml
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


# --- capture="sys" ------------------------------------------------------------------------------


def console(exps: Path, name: str = "exp") -> list[tuple[str, bytes]]:
    (path,) = exps.glob(f"{name}/*/console.log")
    return [(stream, text) for _, stream, text in read_console(path)]


def test_what_python_writes_to_its_streams_is_captured_and_still_written(
    programs: Programs, exps: Path, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    done = programs.run(
        r"""
        import os, sys
        import monarch_like as ml
        os.dup2(os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT), 1)
        before = sys.stdout, sys.stderr
        targets = [os.readlink(f"/proc/self/fd/{n}") for n in (1, 2)]
        with ml.init("exp", base_dir=sys.argv[1], capture="sys"):
            print("two words", 2, end="\n\n")
            print("no newline", end="", flush=True)
            print(" until now", file=sys.stdout)
            sys.stdout.writelines(["a\n", "b\n"])
            sys.stdout.write("\udcff\udcfe raw\n")
            sys.stdout.flush()
            sys.stdout.buffer.write(b"\xc3 bytes\n")
            sys.stdout.buffer.flush()
            print("x" * 200_000, file=sys.stderr)
            sys.stdout.flush()
            os.write(1, b"not of python\n")
            assert [os.readlink(f"/proc/self/fd/{n}") for n in (1, 2)] == targets
            print("left open", end="")
        assert (sys.stdout, sys.stderr) == before
        print()
        print("behind the run")
        """,
        seen,
        PYTHONIOENCODING="utf-8:surrogateescape",
    )
    assert done.returncode == 0, done.stderr
    kept = console(exps)
    shown = b"\n".join(text for stream, text in kept if stream == "out")
    shown = shown.replace(b"left open", b"not of python\nleft open\nbehind the run\n")
    assert seen.read_bytes() == shown
    assert [text for stream, text in kept if stream == "out"] == [
        b"two words 2",
        b"",
        b"no newline until now",
        b"a",
        b"b",
        b"\xff\xfe raw",
        b"\xc3 bytes",
        b"left open",
    ]
    assert [text for stream, text in kept if stream == "err"] == [b"x" * 200_000]


def test_a_tee_is_to_a_program_what_the_stream_was(programs: Programs, exps: Path) -> None:
    done = programs.run(
        """
        import io, sys
        import monarch_like as ml
        def looks(stream):
            return (stream.isatty(), stream.fileno(), stream.encoding, stream.errors,
                    stream.name, stream.mode, stream.line_buffering, stream.closed,
                    stream.writable(), stream.readable(), stream.newlines)
        before = looks(sys.stdout), looks(sys.stderr)
        with ml.init("exp", base_dir=sys.argv[1], capture="sys"):
            assert (looks(sys.stdout), looks(sys.stderr)) == before
            sys.stdout.reconfigure(line_buffering=True)
            assert sys.stdout.line_buffering
            for wrong in (b"bytes", 5, None):
                try:
                    sys.stdout.write(wrong)
                except TypeError:
                    continue
                raise AssertionError(wrong)
            try:
                sys.stdout.buffer.write("text")
            except TypeError:
                print("as before")
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "as before\n"
    assert console(exps) == [("out", b"as before")]


def test_tees_are_taken_off_in_whatever_order_runs_and_others_end(
    programs: Programs, exps: Path
) -> None:
    done = programs.run(
        """
        import contextlib, io, sys
        import monarch_like as ml
        real = sys.stdout
        def run(name):
            return ml.Experiment(name, base_dir=sys.argv[1], capture="sys")
        one, two = run("one"), run("two")
        print("to both")
        one.close()
        print("to two")
        with contextlib.redirect_stdout(io.StringIO()) as elsewhere:
            print("to nobody")
            two.close()
        print("tee without a run")
        again = run("again")
        print("to again")
        again.close()
        assert sys.stdout is real
        with contextlib.redirect_stdout(io.StringIO()) as elsewhere:
            inner = run("inner")
            print("inner")
        print("not inner")
        inner.close()
        assert sys.stdout is real
        assert elsewhere.getvalue() == "inner\\n"
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [
        "to both",
        "to two",
        "tee without a run",
        "to again",
        "not inner",
    ]
    kept = {name: [text for _, text in console(exps, name)] for name in ("one", "two")}
    assert kept == {"one": [b"to both"], "two": [b"to both", b"to two"]}
    assert console(exps, "again") == [("out", b"to again")]
    assert console(exps, "inner") == [("out", b"inner")]


def test_threads_print_through_a_tee_line_by_line(programs: Programs, exps: Path) -> None:
    done = programs.run(
        """
        import sys, threading
        import monarch_like as ml
        with ml.init("exp", base_dir=sys.argv[1], capture="sys"):
            def work(n):
                for i in range(300):
                    sys.stdout.write(f"{n} {i}\\n")
            threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        """
    )
    assert done.returncode == 0, done.stderr
    kept = Counter(text for _, text in console(exps))
    assert kept == Counter(f"{n} {i}".encode() for n in range(4) for i in range(300))


@pytest.mark.parametrize(
    ("closing", "mode"), [(">&-", "None"), ("2>&-", "None"), (">&- 2>&-", "None"), ("", "'fd'")]
)
def test_closed_streams_break_nothing(
    programs: Programs, exps: Path, tmp_path: Path, closing: str, mode: str
) -> None:
    program = tmp_path / "closed.py"
    program.write_text(
        f"""
import sys
file = open(sys.argv[2], "w+")
import monarch_like as ml
with ml.init("exp", base_dir=sys.argv[1], capture={mode}) as exp:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    exp.log_metrics({{"loss": 1.0}})
file.write("mine")
"""
    )
    seen = tmp_path / "seen"
    done = programs.run(
        "import os, sys; os.execv('/bin/sh', ['sh', '-c', sys.argv[2]])",
        f"exec {sys.executable} {program} {exps} {seen} {closing}",
    )
    assert done.returncode == 0, done.stderr
    assert seen.read_text() == "mine"
    kept = set(console(exps))
    assert (("out", b"to stdout") in kept) == (">&-" not in closing.split())
    assert (("err", b"to stderr") in kept) == ("2>&-" not in closing)


@pytest.mark.parametrize("mode", ["fd", "sys"])
def test_a_reader_of_the_output_who_leaves_costs_no_line_of_it(
    programs: Programs, exps: Path, mode: str
) -> None:
    program = programs.start(
        """
        import sys
        import monarch_like as ml
        with ml.init("exp", base_dir=sys.argv[1], capture=sys.argv[2]) as exp:
            print("first", flush=True)
            sys.stdin.readline()
            for n in range(3):
                try:
                    print("later", n, flush=True)
                except BrokenPipeError:
                    pass
            sys.stdout = None
        """,
        mode,
        stdin=True,
    )
    assert program.stdout is not None
    assert program.stdin is not None
    assert program.stdout.readline() == "first\n"
    program.stdout.close()
    program.stdin.write("\n")
    program.stdin.close()
    assert program.stderr is not None
    with program.stderr:
        said = program.stderr.read()
    assert program.wait(30) == 0, said
    assert [text for _, text in console(exps)][:4] == [
        b"first",
        b"later 0",
        b"later 1",
        b"later 2",
    ]


@pytest.mark.parametrize(("of_pytest", "capture"), [("fd", "fd"), ("sys", "fd"), ("fd", "sys")])
def test_pytest_and_a_capture_do_not_disturb_each_other(
    programs: Programs, exps: Path, tmp_path: Path, capture: str, of_pytest: str
) -> None:
    (tmp_path / "test_inner.py").write_text(
        f"""
import os, sys
import monarch_like as ml

def test_output(capfd):
    with ml.init("exp", base_dir={str(exps)!r}, capture={capture!r}):
        print("printed")
        sys.stdout.flush()
        os.write(1, b"written\\n")
    print("behind")
    assert capfd.readouterr().out == "printed\\nwritten\\nbehind\\n"

def test_failing():
    with ml.init("exp", base_dir={str(exps)!r}, capture={capture!r}):
        print("told of by pytest")
        assert False
"""
    )
    done = programs.run(
        "import sys, pytest; sys.exit(pytest.main(sys.argv[2:]))",
        *("-p", "no:cacheprovider", "-q", f"--capture={of_pytest}", "test_inner.py"),
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
    )
    assert done.returncode == 1, done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert done.stdout.count("told of by pytest\n") == 1
    first, second = sorted(exps.glob("exp/*/console.log"))
    # What is printed goes from sys.stdout to pytest's own file, past the descriptor.
    assert read_console(first)[-1][2] == (b"written" if capture == "fd" else b"printed")
    assert [text for _, _, text in read_console(second)] == (
        [] if capture == "fd" else [b"told of by pytest"]
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"capture": "file"}, r"capture='file' is none of 'fd', 'sys', 'off'"),
        ({"capture": 1}, "capture=1 is none of"),
        ({"redirect_console": "yes"}, "redirect_console='yes' is neither True nor False"),
        (
            {"redirect_console": True, "capture": "off"},
            "redirect_console=True means capture='fd', but capture='off' was given, too",
        ),
        (
            {"redirect_console": False, "capture": "sys"},
            "redirect_console=False means capture='off', but capture='sys' was given, too",
        ),
    ],
)
def test_captures_that_make_no_sense_or_contradict_are_named(
    exps: Path, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ml.ConfigError, match=named):
        ml.Experiment("exp", base_dir=exps, **options)
    assert not exps.exists()
