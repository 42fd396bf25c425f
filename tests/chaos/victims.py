"""Processes that are started within milliseconds, to be killed: forks of one that has imported.

The zygote imports the package but opens no run, so that a victim is a process like any other: it
joins, logs, and leaves through the end of its interpreter unless something happens to it.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

ORDER_BYTES_MAX = 1 << 20


JOIN = """
import os, signal, sys, threading, time
from known import KEYS, value_of
exp = ml.init("exp", base_dir=exps, **{"redirect_console": False, "group": "g", **options})
def call(step):
    return {key: value_of(exp.rank, step, key) for key in KEYS}
"""
"""Joins the run that `exps` and `options` say."""

TALLIED = (
    JOIN
    + """
tally = Tally(tally_path)
def log(step, values):
    exp.log_metrics(values, step=step)
    tally.accepted(step)
def pour(pause=0.0, first=0):
    for step in range(first, len(tally)):
        log(step, call(step))
        if pause:
            time.sleep(pause)
say([exp.rank, exp.attempt, str(exp.run_dir), os.getpid()])
"""
)
"""Also keeps a tally, at `tally_path`, of the steps that it logs in turn; says who it is."""


class Tally:
    """When each step was accepted, in a file that outlives its process.

    A rank writes the clock behind every `log_*` that returned, without any system call, so that
    what was accepted by when is known to the nanosecond however the process ends.
    """

    def __init__(self, path: Path, steps: int = 0) -> None:
        flags = os.O_RDWR | (os.O_CREAT if steps else 0)
        file = os.open(path, flags, 0o600)
        try:
            if steps:
                os.ftruncate(file, 8 * steps)
            self._map = mmap.mmap(file, os.fstat(file).st_size)
        finally:
            os.close(file)
        self._stamps = memoryview(self._map).cast("Q")

    def __len__(self) -> int:
        return len(self._stamps)

    def accepted(self, step: int) -> None:
        """`log_*` of this step returned just now."""
        self._stamps[step] = time.monotonic_ns()

    def count(self, until_ns: int | None = None) -> int:
        """How many steps were accepted, all in all or until then; they are made in turn."""
        n = 0
        for stamp in self._stamps:
            if stamp == 0 or (until_ns is not None and stamp > until_ns):
                break
            n += 1
        return n


class Stopwatch:
    """How long calls took in the thread that made this.

    What the callee answers for is the time on a CPU and the time in which it slept or waited for
    a lock. Taken off is the time in which the thread could run and the kernel ran somebody else on
    its CPU, as the kernel itself counts it; and, for a call that never slept, what is left beyond
    its time on a CPU: then a hypervisor had the CPU. What took less than `least` nanoseconds is
    not kept. `slow` tells of the calls beyond 0.2 ms where their time went.
    """

    def __init__(self, least: int = 0) -> None:
        self.times: list[int] = []
        self.slow: list[dict[str, float]] = []
        self._least = least
        self._file = -1
        if os.path.exists("/proc/thread-self/schedstat"):
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)

    def _delayed_ns(self) -> int:
        return int(os.pread(self._file, 100, 0).split()[1]) if self._file >= 0 else 0

    def call(self, what: Callable[..., object], *args: object) -> None:
        """Makes a call and notes its time."""
        before, used = self._delayed_ns(), resource.getrusage(resource.RUSAGE_THREAD)
        cpu, start = time.thread_time_ns(), time.perf_counter_ns()
        what(*args)
        wall = time.perf_counter_ns() - start
        took, cpu = wall, time.thread_time_ns() - cpu
        if took > 200_000:
            now = resource.getrusage(resource.RUSAGE_THREAD)
            delayed, sleeps = self._delayed_ns() - before, now.ru_nvcsw - used.ru_nvcsw
            took -= delayed
            if not sleeps:
                took = min(took, cpu)
            self.slow.append(
                {
                    "ms": took / 1e6,
                    "wall_ms": wall / 1e6,
                    "cpu_ms": cpu / 1e6,
                    "delayed_ms": delayed / 1e6,
                    "sleeps": sleeps,
                    "faults": now.ru_minflt - used.ru_minflt,
                }
            )
        if took >= self._least:
            self.times.append(took)


class Victim:
    """A process that runs a program given as text; see `run_victim` for what it finds there."""

    def __init__(self, zygote: Zygote, pid: int, talk: socket.socket, output: Path) -> None:
        self._zygote = zygote
        self.pid = pid
        self.output = output
        self._socket = talk
        self._lines = talk.makefile("r", encoding="utf-8")
        self.code: int | None = None
        self.rank = self.attempt = -1
        self.run_dir = Path()
        self.tally: Tally | None = None

    def tell(self, thing: object = None) -> None:
        """What the victim's `hear()` returns."""
        self._socket.sendall(json.dumps(thing).encode() + b"\n")

    def hear(self, within: float = 60.0) -> Any:
        """What the victim's `say()` was given."""
        self._socket.settimeout(within)
        line = self._lines.readline()
        if not line:
            raise EOFError(f"the victim ended: {self.text()}")
        return json.loads(line)

    def text(self) -> str:
        """What it wrote to its standard output and error."""
        return self.output.read_text(errors="replace")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def joined(self) -> Victim:
        """Takes what a program that begins with `TALLIED` says first."""
        self.rank, self.attempt, run_dir, pid = self.hear()
        self.run_dir = Path(run_dir)
        assert pid == self.pid
        return self

    def wait(self, within: float = 60.0) -> int:
        """Its exit code, as `subprocess` has it."""
        if self.code is None:
            self.code = self._zygote.wait(self.pid, within)
            self._lines.close()
            self._socket.close()
        return self.code


class Zygote:
    """Starts victims."""

    def __init__(self, folder: Path, **env: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.folder = folder
        self._control = ours
        self._started = 0
        self._victims: list[Victim] = []
        output = folder / "zygote.out"
        tests = Path(__file__).parent.parent
        given = os.environ.get("PYTHONPATH")
        path = os.pathsep.join(filter(None, [str(tests / "python"), str(tests), given]))
        with output.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "", **env},
                cwd=folder,
            )
        theirs.close()

    def __enter__(self) -> Zygote:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for victim in self._victims:
            if victim.code is None:
                try:
                    victim.signal(9)
                    victim.wait()
                except (OSError, TimeoutError):
                    continue
        self._control.close()
        self.process.wait(60)

    def start(self, program: str, **args: Any) -> Victim:
        """Starts a program; `args` are names in it."""
        self._started += 1
        output = self.folder / f"victim-{self._started}.out"
        ours, theirs = socket.socketpair()
        ours.settimeout(60)
        order = {"program": textwrap.dedent(program), "args": args, "output": str(output)}
        socket.send_fds(self._control, [json.dumps(order).encode()], [theirs.fileno()])
        theirs.close()
        victim = Victim(self, int(self._answer()), ours, output)
        self._victims.append(victim)
        return victim

    def tallied(self, program: str, exps: Path, steps: int = 1_000_000, **args: Any) -> Victim:
        """Starts a rank that runs a program behind `TALLIED`; `options` are those of its join."""
        path = self.folder / f"tally-{self._started}"
        tally = Tally(path, steps)
        args = {"options": {}, **args, "exps": str(exps), "tally_path": str(path)}
        victim = self.start(TALLIED + textwrap.dedent(program), **args)
        victim.tally = tally
        return victim

    def wait(self, pid: int, within: float) -> int:
        """Waits for the end of a child; `TimeoutError` when it does not come."""
        self._control.send(json.dumps({"wait": pid, "within": within}).encode())
        code = self._answer()
        if code is None:
            raise TimeoutError(f"process {pid} goes on after {within} s")
        return int(code)

    def _answer(self) -> Any:
        self._control.settimeout(120)
        return json.loads(self._control.recv(ORDER_BYTES_MAX))


# --- the zygote's and the victims' side ---------------------------------------------------------


def run_victim(order: dict[str, Any], talk: socket.socket) -> Callable[[], None]:
    """The program of one victim, which finds `say`, `hear`, `ml`, what is above, its arguments."""
    out = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(out)
    lines = talk.makefile("r", encoding="utf-8")

    def say(thing: object = None) -> None:
        # Without a buffer: a signal's handler may say something in the middle of this.
        talk.sendall(json.dumps(thing).encode() + b"\n")

    def hear() -> Any:
        return json.loads(lines.readline())

    import monarch_like as ml

    names = {"__name__": "__main__", "ml": ml, "say": say, "hear": hear}
    code = compile(order["program"], "<victim>", "exec")
    # As a module of its own: what is global in it lives until the interpreter ends.
    main = sys.modules["__main__"].__dict__
    main.update(names, Tally=Tally, Stopwatch=Stopwatch, **order["args"])
    return lambda: exec(code, main)


def main(control: socket.socket) -> Callable[[], None] | None:
    """Serves orders; in a victim, returns what it has to do."""
    # Whoever runs tests in the background of a shell, or behind nohup, has them ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    while True:
        data, fds, _, _ = socket.recv_fds(control, ORDER_BYTES_MAX, 1)
        if not data:
            return None
        order = json.loads(data)
        if "wait" in order:
            control.send(json.dumps(wait(order["wait"], order["within"])).encode())
            continue
        talk = socket.socket(fileno=fds[0])
        pid = os.fork()
        if pid == 0:
            control.close()
            return run_victim(order, talk)
        talk.close()
        control.send(str(pid).encode())


def wait(pid: int, within: float) -> int | None:
    """The exit code of a child, None when it goes on."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


if __name__ == "__main__":
    import monarch_like  # noqa: F401

    os.set_inheritable(int(sys.argv[1]), False)
    program = main(socket.socket(fileno=int(sys.argv[1])))
    if program is not None:
        program()
