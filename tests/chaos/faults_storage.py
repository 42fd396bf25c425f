"""Injectors of storage faults: power cuts, system calls that fail, disks that are full or slow.

All of them work on real file systems and real processes, and undo what they did, also on failure.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from processes import until

from .faults import is_traced, mounted, needs

CHUNK = 1 << 20

# --- full disks -------------------------------------------------------------------------------


def free_bytes(folder: Path) -> int:
    """What can still be written there."""
    fs = os.statvfs(folder)
    return fs.f_bavail * fs.f_frsize


class Ballast:
    """A file that takes up what is left of a file system."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Nobody can write more than about `leave` bytes from now on."""
        with self.path.open("ab", buffering=0) as file:
            while (left := free_bytes(self.path.parent) - leave) > 0:
                try:
                    file.write(bytes(min(left, CHUNK)))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    return

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
        self.torn = 0
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
            if same_bytes(self.image, copy):
                return copy
            self.torn += 1
        raise TornCopyError(f"no still instant of {self.image} within {within} s")


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two files are equal."""
    with one.open("rb") as a, other.open("rb") as b:
        while (chunk := a.read(CHUNK)) == b.read(CHUNK):
            if not chunk:
                return True
    return False


@contextmanager
def disk(folder: Path, mib: int = 16) -> Iterator[Disk]:
    """A disk of its own, mounted below the folder."""
    needs("mkfs.ext4")
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(mib << 20)
    make = ["mkfs.ext4", "-q", "-F", "-J", "size=4", str(image)]
    subprocess.run(make, check=True, stdin=subprocess.DEVNULL)
    with mounted(folder / "disk", "-o", "loop", str(image)) as at:
        yield Disk(image, at)


@contextmanager
def after_power_cut(cut: Path) -> Iterator[Path]:
    """The file system of a disk whose power was cut, mounted: its journal is played back first."""
    with mounted(cut.with_suffix(""), "-o", "loop", str(cut)) as at:
        yield at
    cut.unlink()


# --- system calls -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Meddled:
    """System calls of a process that are meddled with."""

    log: Path

    def calls(self) -> list[str]:
        """The calls so far, with the paths of their descriptors."""
        return self.log.read_text(errors="replace").splitlines()

    def injected(self) -> int:
        """How many calls were meddled with so far."""
        return sum(line.endswith(("(INJECTED)", "(DELAYED)")) for line in self.calls())


@contextmanager
def meddled(pid: int, *inject: str, folder: Path, paths: Sequence[Path] = ()) -> Iterator[Meddled]:
    """Meddles with system calls of a living process and all it starts, and writes them down.

    Args:
        pid: the process.
        inject: what to do, as strace takes it: `fdatasync:error=EIO:when=3`.
        folder: where the log of the calls goes.
        paths: only calls on these files count.
    """
    needs("strace")
    log = folder / f"strace-{pid}-{time.monotonic_ns()}.log"
    calls = ",".join(sorted({name for what in inject for name in what.split(":")[0].split(",")}))
    command = ["strace", "-f", "-y", "-p", str(pid), "-o", str(log), f"--trace={calls}"]
    command += ["--signal=none", *(f"--inject={what}" for what in inject)]
    command += [part for path in paths for part in ("-P", str(path))]
    strace = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: is_traced(pid, True) or strace.poll() is not None, 20, f"strace of {pid}")
        assert strace.poll() is None, f"strace can't trace process {pid}"
        until(log.exists, 20)
        yield Meddled(log)
    finally:
        let_go(strace)


def let_go(strace: subprocess.Popen[bytes]) -> None:
    """Detaches, so that the process goes on as if nothing had been."""
    strace.send_signal(signal.SIGINT)
    try:
        strace.wait(20)
    except subprocess.TimeoutExpired:
        strace.kill()
        strace.wait()


# --- people -----------------------------------------------------------------------------------

NOBODY = 65534


def as_nobody(*command: str) -> list[str]:
    """The command as run by a user without any rights."""
    needs("setpriv")
    user = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    return ["setpriv", *user, "--", *command]
