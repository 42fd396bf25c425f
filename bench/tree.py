"""A command and everything it leaves behind: its CPU time and its memory."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
SAMPLE_SECS = 0.02
LEFT_BEHIND_SECS = 30.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Failed(RuntimeError):
    """The command did not end with 0, or left processes behind that do not end."""


@dataclass(frozen=True)
class Cost:
    """What a command cost.

    Attributes:
        out: what it wrote to stdout.
        cpu_secs: user and system time of it and all its descendants, daemons included.
        peak_rss_bytes: the largest sum of their resident memory; shared pages count in each.
    """

    out: str
    cpu_secs: float
    peak_rss_bytes: int


def adopt_orphans() -> None:
    """Makes daemons of our commands our children, so that their CPU time can be known."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def run(command: list[str], timeout_secs: float) -> Cost:
    """Runs a command and waits for it and all it has started."""
    sampler = Sampler()
    sampler.start()
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert process.stdout is not None
        killer = threading.Timer(timeout_secs, process.kill)
        killer.start()
        out = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        killer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        cpu = usage.ru_utime + usage.ru_stime + left_behind()
    finally:
        sampler.ended.set()
        sampler.join()
    if process.returncode != 0:
        raise Failed(f"{' '.join(command)} ended with {process.returncode}")
    return Cost(out, cpu, sampler.peak)


def left_behind() -> float:
    """CPU seconds of the daemons, once they have ended."""
    deadline = time.monotonic() + LEFT_BEHIND_SECS
    cpu = 0.0
    while True:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return cpu
        if pid:
            cpu += usage.ru_utime + usage.ru_stime
        elif time.monotonic() > deadline:
            raise Failed(f"processes are left after {LEFT_BEHIND_SECS:.0f} s: {descendants()}")
        else:
            time.sleep(0.005)


def descendants(of: int | None = None) -> set[int]:
    """All descendants of a process, of this one when none is said."""
    found: set[int] = set()
    waiting = [of or os.getpid()]
    while waiting:
        pid = waiting.pop()
        for task in tasks(pid):
            try:
                children = task.joinpath("children").read_text().split()
            except OSError:
                continue
            waiting += [int(child) for child in children]
            found.update(int(child) for child in children)
    return found


def tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def clear() -> None:
    """Ends what a failed measurement left behind: only what descends from this process."""
    for pid in descendants():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    left_behind()


def cpu_ns(pid: int) -> int:
    """What a process has used, all its threads that ended included; 0 when it is gone."""
    try:
        return time.clock_gettime_ns(~pid << 3 | 2)  # as clock_getcpuclockid(3) makes it
    except OSError:
        return 0


def thread_cpu_ns(pid: int, thread: int) -> int:
    """What one thread has used; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
    except (OSError, IndexError):
        return 0


def rss_bytes(pids: set[int]) -> int:
    """The sum of their resident memory; pages that they share count in each."""
    pages = 0
    for pid in pids:
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
    return pages * PAGE_BYTES


class Sampler(threading.Thread):
    """Looks at the memory of all descendants, but for one, until `ended` is set."""

    def __init__(self, without: int | None = None) -> None:
        super().__init__(name="bench-sampler", daemon=True)
        self.ended = threading.Event()
        self.peak = 0
        self.without = {without}

    def run(self) -> None:
        while not self.ended.wait(SAMPLE_SECS):
            self.peak = max(self.peak, rss_bytes(descendants() - self.without))


if sys.platform != "linux":
    raise SystemExit("the benchmark reads /proc and needs Linux")
