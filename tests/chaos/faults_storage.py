"""Injectors of storage faults: full, slow, failing and vanishing disks, and power cuts.

All of them work on real file systems and real processes, and undo what they did, also on failure.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

UMOUNT_WITHIN_SECS = 20.0
"""How long a file system may stay busy behind its test: as long as an owner may take to leave."""

ATTACH_WITHIN_SECS = 20.0

CHUNK = 1 << 20


def call(*command: str | Path) -> str:
    """Runs a command of the system to its end; its error is the exception's text."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode != 0:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


# --- file systems -----------------------------------------------------------------------------


def unmount(at: Path) -> None:
    """Takes a file system away when nobody uses it any more; whoever still does is an error."""
    deadline = time.monotonic() + UMOUNT_WITHIN_SECS
    while True:
        try:
            call("umount", at)
            return
        except OSError:
            if time.monotonic() > deadline:
                call("umount", "-l", at)
                raise
            time.sleep(0.05)


@contextmanager
def mounted(what: str | Path, at: Path, *options: str) -> Iterator[Path]:
    """Mounts something, and takes it away."""
    at.mkdir(parents=True, exist_ok=True)
    call("mount", *options, what, at)
    try:
        yield at
    finally:
        unmount(at)


@contextmanager
def small_tmpfs(at: Path, mib: int) -> Iterator[Path]:
    """A file system in memory that is full after that many MiB."""
    with mounted("none", at, "-t", "tmpfs", "-o", f"size={mib}m,mode=755"):
        yield at


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The folder is read only for everybody, root too, as after an error of its file system."""
    call("mount", "--bind", folder, folder)
    try:
        call("mount", "-o", "remount,bind,ro", folder)
        yield
    finally:
        call("umount", "-l", folder)


def free_bytes(folder: Path) -> int:
    """What can still be written there."""
    fs = os.statvfs(folder)
    return fs.f_bavail * fs.f_frsize


class Ballast:
    """A file that takes up what is left of a file system."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Nobody can write more than `leave` bytes from now on."""
        with self.path.open("ab", buffering=0) as file:
            try:
                while (left := free_bytes(self.path.parent) - leave) > 0:
                    if file.write(bytes(min(left, CHUNK))) == 0:
                        break
                    os.fsync(file.fileno())
            except OSError as error:
                if error.errno != 28:
                    raise

    def free(self) -> None:
        """There is room again."""
        self.path.unlink(missing_ok=True)


# --- power cuts -------------------------------------------------------------------------------


class TornCopyError(Exception):
    """The disk was written to while it was copied, again and again."""


class Disk:
    """An ext4 file system in a file, whose power can be cut.

    What a process has written and not synced is in the kernel's memory only, not in the file; a
    copy of the file is therefore what a disk holds after the power went.
    """

    def __init__(self, image: Path, at: Path) -> None:
        self.image = image
        self.at = at
        self._cuts = 0

    def cut(self, within: float = 20.0) -> Path:
        """The disk as it is at one instant, as an image of its own.

        A copy takes time in which the disk may be written to. One that is still equal to the disk
        when it is finished is what the disk was at the instant between copying and comparing.
        """
        self._cuts += 1
        copy = self.image.with_name(f"{self.image.stem}-cut-{self._cuts}.img")
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            shutil.copyfile(self.image, copy)
            if self._equals(copy):
                return copy
        raise TornCopyError(f"no still instant of {self.image} within {within} s")

    def _equals(self, copy: Path) -> bool:
        with self.image.open("rb") as ours, copy.open("rb") as theirs:
            while True:
                a, b = ours.read(CHUNK), theirs.read(CHUNK)
                if a != b:
                    return False
                if not a:
                    return True


@contextmanager
def disk(folder: Path, mib: int = 16) -> Iterator[Disk]:
    """A disk of its own, mounted below the folder."""
    image, at = folder / "disk.img", folder / "disk"
    with image.open("wb") as file:
        file.truncate(mib << 20)
    call("mkfs.ext4", "-q", "-F", "-J", "size=4", image)
    with mounted(image, at, "-o", "loop"):
        yield Disk(image, at)


@contextmanager
def after_power_cut(cut: Path) -> Iterator[Path]:
    """The file system of a disk whose power was cut, mounted: its journal is played back first."""
    at = cut.with_suffix("")
    with mounted(cut, at, "-o", "loop"):
        yield at


# --- system calls -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Traced:
    """System calls of a process that are meddled with."""

    log: Path

    def calls(self) -> list[str]:
        """The calls so far, with the paths of their descriptors."""
        return self.log.read_text(errors="replace").splitlines()

    def injected(self) -> int:
        """How many calls were meddled with so far."""
        return sum(line.endswith(("(INJECTED)", "(DELAYED)")) for line in self.calls())


@contextmanager
def meddled(
    pid: int, inject: Sequence[str], folder: Path, paths: Sequence[Path] = ()
) -> Iterator[Traced]:
    """Meddles with the system calls of a living process, all its threads, as strace does.

    Args:
        pid: the process.
        inject: what to do, for example `fdatasync:error=EIO:when=3`.
        folder: where the log of the calls goes.
        paths: only calls on these files count.
    """
    names = {name for what in inject for name in what.split(":")[0].split(",")}
    log = folder / f"strace-{pid}-{time.monotonic_ns()}.log"
    command = ["strace", "-f", "-y", "-p", str(pid), "-o", str(log)]
    command += ["-e", f"trace={','.join(sorted(names))}", "-e", "signal=none"]
    for what in inject:
        command += ["-e", f"inject={what}"]
    for path in paths:
        command += ["-P", str(path)]
    strace = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        _attached(strace, pid)
        yield Traced(log)
    finally:
        let_go(strace)


def _attached(strace: subprocess.Popen[bytes], pid: int) -> None:
    """Waits until every thread is traced."""
    deadline = time.monotonic() + ATTACH_WITHIN_SECS
    while time.monotonic() < deadline and strace.poll() is None:
        tracers = []
        for task in Path(f"/proc/{pid}/task").iterdir():
            status = (task / "status").read_text()
            tracer = re.search(r"TracerPid:\t(\d+)", status)
            tracers.append(tracer is not None and int(tracer[1]) == strace.pid)
        if tracers and all(tracers):
            return
        time.sleep(0.01)
    assert strace.stderr is not None
    strace.kill()
    raise OSError(f"strace of {pid}: {strace.stderr.read().decode(errors='replace')}")


def let_go(strace: subprocess.Popen[bytes]) -> None:
    """Detaches, so that the process goes on as if nothing had been."""
    assert strace.stderr is not None
    strace.send_signal(signal.SIGINT)
    try:
        strace.wait(10)
    except subprocess.TimeoutExpired:
        strace.kill()
        strace.wait()
    strace.stderr.close()


def slow_disk(pid: int, folder: Path, ms: int = 500) -> object:
    """Each sync of a process takes this much longer."""
    return meddled(pid, [f"fdatasync,fsync:delay_exit={ms * 1000}"], folder)


def limit(pid: int, resource: str, value: int | str) -> None:
    """Sets a limit of a living process, as `prlimit` names it."""
    call("prlimit", "--pid", str(pid), f"--{resource}={value}:")


# --- people -----------------------------------------------------------------------------------

NOBODY = 65534


def as_nobody(command: Sequence[str]) -> list[str]:
    """The command as run by a user without any rights."""
    return [
        "setpriv",
        "--reuid",
        str(NOBODY),
        "--regid",
        str(NOBODY),
        "--clear-groups",
        "--",
        *command,
    ]


# --- memory -----------------------------------------------------------------------------------


def high_water_kib(pid: int) -> int:
    """The most memory a process ever had resident, shared pages included."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) if found else 0
