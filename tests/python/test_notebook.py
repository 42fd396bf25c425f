"""Notebooks, in real kernels: cells flush, what they print is shown once and stored once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from ledger import Message, read_console, read_messages, read_rows
from processes import Programs, environment, owner_of, stop, until

CELL_SECS = 60
"""Longest time that a cell may take."""

LEFT = """
import collections, gc, threading
gc.collect()
def kinds():
    counts = collections.Counter()
    for entry in os.scandir("/proc/self/fd"):
        try:
            counts[os.readlink(entry.path).split("[")[0]] += 1
        except OSError:
            pass  # the folder itself
    # Files, such as that of the history of cells, come and go.
    return {kind: n for kind, n in counts.items() if not kind.startswith("/") or "memfd" in kind}
threads = [open(entry.path + "/comm").read() for entry in os.scandir("/proc/self/task")]
places = sys.stdout, sys.stderr, [os.readlink(f"/proc/self/fd/{n}") for n in (1, 2)]
left = (
    kinds(), threading.active_count(), threads.count("expman-capture\\n"),
    list(get_ipython().events.callbacks["post_run_cell"]),
)
"""
"""What there is in the process; a run that is closed must leave it as it was."""


class Cell:
    """What a cell showed."""

    def __init__(self) -> None:
        self.shown: dict[str, str] = {"stdout": "", "stderr": ""}
        self.error: str | None = None

    def __call__(self, message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "stream":
            self.shown[content["name"]] += content["text"]
        elif message["msg_type"] == "error":
            self.error = content["ename"]

    @property
    def out(self) -> str:
        return self.shown["stdout"]


class Kernel:
    """A real kernel and a client of it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.exps = folder / "exps"
        self.manager = KernelManager()
        env = environment()
        del env["PYTEST_CURRENT_TEST"]  # under which a kernel leaves the descriptors alone
        self._log = (folder / "kernel.out").open("wb")
        self.manager.start_kernel(
            env=env,
            cwd=str(folder),
            stdout=self._log,
            stderr=self._log,
            extra_arguments=list(arguments),
        )
        self._connect()

    def _connect(self) -> None:
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=CELL_SECS)
        self.run(f"import os, subprocess, sys, time; exps = {str(self.exps)!r}")
        self.run("import monarch_like as ml")

    def run(self, code: str, fails: bool = False) -> Cell:
        cell = Cell()
        self.client.execute_interactive(code, timeout=CELL_SECS, output_hook=cell)
        assert (cell.error is not None) == fails, cell.error
        return cell

    def restart(self, now: bool) -> None:
        self.client.stop_channels()
        self.manager.restart_kernel(now=now)
        self._connect()

    @property
    def pid(self) -> int:
        pid = self.manager.provisioner.pid  # type: ignore[union-attr]
        assert pid is not None
        return int(pid)

    def end(self, now: bool = False) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=now)
        self._log.close()


@pytest.fixture
def kernel(no_process_left_behind: None, tmp_path: Path) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path)
    yield kernel
    kernel.end()


def runs(exps: Path) -> list[Path]:
    return sorted(path.parent for path in exps.glob("*/*/run.yaml"))


def status(run_dir: Path) -> str:
    return str(yaml.safe_load((run_dir / "run.yaml").read_text())["status"])


def console(run_dir: Path, stream: str) -> list[str]:
    lines = read_console(run_dir / "console.log")
    return [text.decode() for _, name, text in lines if name == stream]


def messages(run_dir: Path) -> list[Message]:
    return read_messages(run_dir / "run.log")


def test_what_a_cell_and_its_children_write_is_shown_once_and_stored_once(kernel: Kernel) -> None:
    kernel.run("exp = ml.init('nb', base_dir=exps)")
    printed = kernel.run("print('printed'); print('complained', file=sys.stderr)")
    assert printed.shown == {"stdout": "printed\n", "stderr": "complained\n"}
    written = kernel.run(
        """
        os.write(1, b"descriptor\\n")
        subprocess.run(["sh", "-c", "echo child; echo error >&2"])
        time.sleep(0.5)  # the kernel itself reads the descriptors behind the cell's back
        """
    )
    assert written.shown == {"stdout": "descriptor\nchild\n", "stderr": "error\n"}
    (run_dir,) = runs(kernel.exps)
    kernel.run("ml.close()")
    assert kernel.run("print('behind the run')").out == "behind the run\n"
    assert console(run_dir, "out") == ["printed", "descriptor", "child"]
    assert console(run_dir, "err") == ["complained", "error"]


@pytest.mark.parametrize(
    "arguments",
    [["--IPKernelApp.capture_fd_output=False", "--no-quiet"], ["--no-quiet"], []],
    ids=["echo, descriptors unwatched", "echo", "descriptors watched"],
)
def test_a_kernel_that_also_writes_to_its_terminal_doubles_no_line(
    no_process_left_behind: None, tmp_path: Path, arguments: list[str]
) -> None:
    arguments = [a.replace("--no-quiet", "--IPKernelApp.quiet=False") for a in arguments]
    kernel = Kernel(tmp_path, *arguments)
    try:
        kernel.run("exp = ml.init('nb', base_dir=exps)")
        assert kernel.run("print('one'); print('two')").out == "one\ntwo\n"
        kernel.run("print('three', file=sys.stderr)")
        kernel.run("ml.close()")
    finally:
        kernel.end()
    (run_dir,) = runs(kernel.exps)
    assert console(run_dir, "out") == ["one", "two"]
    assert console(run_dir, "err") == ["three"]


@pytest.mark.parametrize(
    "log",
    [
        "exp.log_metrics({'loss': 1.0}, step=1)",
        "import asyncio\nasync def work(): exp.log_metrics({'loss': 1.0}, step=1)\nawait work()",
    ],
    ids=["plain", "under a running loop"],
)
def test_what_a_cell_logged_is_durable_when_the_cell_is_done(kernel: Kernel, log: str) -> None:
    kernel.run("exp = ml.init('nb', base_dir=exps, capture='off')")
    for _ in range(5):
        kernel.run(log)
        stats = kernel.run(
            "s = exp.stats(); print(s['accepted_seq'] > 0, s['accepted_seq'] - s['durable_seq'])"
        )
        assert stats.out == "True 0\n"
    (run_dir,) = runs(kernel.exps)
    assert len(read_rows(run_dir)) == 5


def test_a_cell_waits_a_second_at_most_and_says_nothing_of_it(kernel: Kernel) -> None:
    kernel.run("exp = ml.init('nb', base_dir=exps)")
    (run_dir,) = runs(kernel.exps)
    owner = owner_of(run_dir)
    stop(owner)
    try:
        kernel.run("ended = []; started = time.monotonic()")
        cell = kernel.run("exp.log_metrics({'loss': 1.0}); print('cell')")
        assert cell.shown == {"stdout": "cell\n", "stderr": ""}
        waited = float(kernel.run("print(time.monotonic() - started)").out)
        assert 1.0 <= waited < 4.0, "two cells have waited for it"
    finally:
        os.kill(owner, signal.SIGCONT)


def test_an_exception_of_a_cell_is_one_message_with_its_traceback(kernel: Kernel) -> None:
    kernel.run("exp = ml.init('nb', base_dir=exps)")
    kernel.run("def diverge():\n    raise ValueError('it diverged')")
    kernel.run("diverge()", fails=True)
    kernel.run("this is no python", fails=True)
    kernel.run("import warnings; warnings.warn('careful')")
    kernel.run("ml.close()")
    (run_dir,) = runs(kernel.exps)
    assert status(run_dir) == "finished"
    uncaught, warning = messages(run_dir)
    assert (uncaught.level, uncaught.logger) == ("CRITICAL", "uncaught")
    assert uncaught.text.startswith("uncaught in cell ")
    assert "in diverge\n" in uncaught.text
    assert uncaught.text.endswith("\nValueError: it diverged")
    assert (warning.text, warning.logger) == ("UserWarning: careful", "py.warnings")


@pytest.mark.parametrize("capture", ["fd", "sys", "off"])
def test_a_cell_that_is_run_again_leaves_nothing_of_the_run_before(
    kernel: Kernel, capture: str
) -> None:
    cell = f"exp = ml.init('nb', base_dir=exps, capture={capture!r}, logging='INFO')"
    # What is made once for the process: the runtime's threads, and its descriptors.
    kernel.run(f"{cell}; print('first'); ml.close()")
    kernel.run(f"{LEFT}\nbefore = left, places")
    kernel.run(cell)
    kernel.run(f"{LEFT}\nduring = left")
    for n in range(3):
        kernel.run(cell)
        assert kernel.run(f"print('again {n}')").out == f"again {n}\n"
    kernel.run(LEFT)
    assert kernel.run("print(left == during or (left, during))").out == "True\n"
    assert kernel.run("print(left[2], len(left[3]))").out == f"{int(capture == 'fd')} 1\n"
    kernel.run("ml.close()")
    kernel.run(LEFT)
    assert kernel.run("print((left, places) == before or (left, places, before))").out == "True\n"
    stored = [console(run_dir, "out") for run_dir in runs(kernel.exps)]
    assert [lines[0] for lines in stored if lines] == (
        ["first", "again 0", "again 1", "again 2"] if capture != "off" else []
    )


@pytest.mark.parametrize(("now", "ends"), [(False, "finished"), (True, "crashed")])
def test_a_kernel_that_is_restarted_ends_its_run(kernel: Kernel, now: bool, ends: str) -> None:
    kernel.run("exp = ml.init('nb', base_dir=exps)")
    kernel.run("exp.log_metrics({'loss': 1.0}); print('before')")
    kernel.restart(now)
    (first,) = runs(kernel.exps)
    assert until(lambda: status(first) != "running" and status(first)) == ends
    assert len(read_rows(first)) == 1
    assert console(first, "out") == ["before"]
    kernel.run("exp = ml.init('nb', base_dir=exps)")
    assert kernel.run("print('after')").out == "after\n"
    kernel.run("ml.close()")
    (second,) = set(runs(kernel.exps)) - {first}
    assert console(second, "out") == ["after"]


def test_a_kernel_that_is_killed_leaves_a_crashed_run_and_no_process(kernel: Kernel) -> None:
    kernel.run("exp = ml.init('nb', base_dir=exps)")
    kernel.run("exp.log_metrics({'loss': 1.0})")
    os.kill(kernel.pid, signal.SIGKILL)
    (run_dir,) = runs(kernel.exps)
    until(lambda: status(run_dir) == "crashed", what="the end of the run")
    assert len(read_rows(run_dir)) == 1


def test_ipython_in_a_terminal_stores_each_line_once(programs: Programs) -> None:
    done = programs.run(
        """
        import sys
        from IPython import start_ipython
        cells = [
            "import monarch_like as ml",
            f"exp = ml.init('nb', base_dir={sys.argv[1]!r})",
            "print('printed')",
            "!echo child",
            "_ = ml.close()",
            "print(get_ipython().events.callbacks['post_run_cell'])",
        ]
        sys.stdin = open("/dev/null")
        program = "".join(f"_ = get_ipython().run_cell({cell!r});" for cell in cells)
        start_ipython(["--no-banner", "--HistoryManager.enabled=0", "-c", program])
        """,
        PYTHONUNBUFFERED="1",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["printed", "child", "[]"]
    (run_dir,) = runs(programs.exps)
    assert console(run_dir, "out") == ["printed", "child"]


def test_a_notebook_that_is_run_to_its_end_has_its_output_and_a_finished_run(
    no_process_left_behind: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    cells = [
        "import monarch_like as ml",
        "exp = ml.init('nb')",
        "for step in range(3):\n    exp.log_metrics({'loss': 1.0}, step=step)\n    print(step)",
        "report = await exp.flush()\nprint(report.complete)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment())
    shown = [[output["text"] for output in cell["outputs"]] for cell in notebook["cells"]]
    assert ["".join(texts) for texts in shown] == ["", "", "0\n1\n2\n", "True\n"]
    (run_dir,) = runs(tmp_path / "experiments")
    assert until(lambda: status(run_dir) != "running" and status(run_dir)) == "finished"
    assert console(run_dir, "out") == ["0", "1", "2", "True"]
    assert len(read_rows(run_dir)) == 3
