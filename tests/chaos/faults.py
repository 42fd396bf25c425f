"""The injectors: how each fault of the matrix is done to real processes, and undone.

All are context managers where there is something to undo. What needs root, or a kernel feature that
is missing, skips the test with the reason.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from processes import is_alive, stop, until

# --- processes that stop, and system calls that fail or kill ------------------------------------


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process stands still inside."""
    stop(pid)
    try:
        yield
    finally:
        if is_alive(pid):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def traced(pid: int, *inject: str, threads: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """A process under strace, which does to its system calls what `inject` says.

    Each is what strace takes behind `-e inject=`, as `fsync:error=EIO:when=3`,
    `all:signal=SIGKILL:when=7` or `fdatasync:delay_exit=500000`. strace counts for every thread by
    itself.

    Args:
        pid: of the process, or of one of its threads.
        inject: what to inject.
        threads: also into all its threads, and those and the processes that it starts.
    """
    needs("strace")
    calls = ",".join(sorted({what.split(":")[0] for what in inject}))
    options = [f"--inject={what}" for what in inject] + [f"--trace={calls}"]
    command = ["strace", "-qqq", "-o", "/dev/null", *options, "-p", str(pid)]
    tracer = subprocess.Popen(
        [*command, "-f"] if threads else command,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    try:
        until(
            lambda: is_traced(pid, threads) or tracer.poll() is not None,
            within=20,
            what=f"strace of {pid}",
        )
        if tracer.poll() is not None and is_alive(pid):
            assert tracer.stderr is not None
            raise RuntimeError(f"strace: {tracer.stderr.read().decode()}")
        yield tracer
    finally:
        tracer.terminate()
        try:
            tracer.wait(5)
        except subprocess.TimeoutExpired:
            tracer.kill()  # it waits for a thread that is gone; the kernel lets go of the others
            tracer.wait(20)
        assert tracer.stderr is not None
        tracer.stderr.close()


def is_traced(pid: int, threads: bool) -> bool:
    """Whether somebody traces a process, all its threads if they shall be."""
    tasks = Path(f"/proc/{pid}/task").glob("*/status") if threads else [Path(f"/proc/{pid}/status")]
    try:
        return all("TracerPid:\t0\n" not in path.read_text() for path in tasks)
    except OSError:
        return False


def thread_of(pid: int, name: str) -> int:
    """The id of a process's first thread whose name begins so."""
    for task in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name)):
        if (task / "comm").read_text().startswith(name):
            return int(task.name)
    raise LookupError(f"process {pid} has no thread {name!r}")


def needs(command: str) -> None:
    """Skips the test on a machine without a command."""
    if shutil.which(command) is None:
        pytest.skip(f"needs {command}, which is not installed here")


def limit(pid: int, what: int, soft: int) -> None:
    """Lowers a limit of a process, as `ulimit` would have."""
    _, hard = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (soft, hard))


# --- memory ---------------------------------------------------------------------------------------


@contextmanager
def memory_cgroup(name: str, limit_bytes: int) -> Iterator[Callable[[int], None]]:
    """A cgroup with a limit; what is yielded moves a process into it."""
    v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    group = (v1 if v1.is_dir() else v2) / f"expman-chaos-{os.getpid()}-{name}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        bound = group / ("memory.limit_in_bytes" if v1.is_dir() else "memory.max")
        if not bound.exists():
            pytest.skip(f"{group} has no memory controller")
        bound.write_text(str(limit_bytes))

        def move(pid: int) -> None:
            (group / "cgroup.procs").write_text(str(pid))

        yield move
    finally:
        until(
            lambda: not (group / "cgroup.procs").read_text().split(), 20, f"end of all in {group}"
        )
        group.rmdir()


# --- disks ----------------------------------------------------------------------------------------


@contextmanager
def mounted(at: Path, *options: str) -> Iterator[Path]:
    """Whatever `mount OPTIONS at` gives."""
    at.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *options, str(at)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mount {' '.join(options)}: {done.stderr.strip()}")
    try:
        yield at
    finally:
        # Lazily: whoever still has a file open there keeps it, and the place is free.
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def small_disk(at: Path, size_bytes: int) -> Any:
    """A context: an empty file system in memory of a size, to be filled."""
    return mounted(at, "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs")


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """The file system of a folder has no byte left inside."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    try:
        yield
    finally:
        ballast.unlink(missing_ok=True)


# --- storage: CHAOS of files and disks has its own injectors from here on -------------------------
