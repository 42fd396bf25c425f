"""What a launcher's workers write: read from files, shown as before, and lines of a run.

Each worker writes into files of its own, so whatever becomes of the launcher, nobody of them ever
waits for it or loses its output. The launcher joins the run once for each worker's rank, reads
behind the workers, and gives back the room of what it has read.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from . import _summary
from ._core import CoreRun, ExpmanError, forked, interpreter_ends, write_console
from ._options import CAPTURED_BY_LAUNCHER, ENDS_IN, core_options

LOOK_SECS = 0.05
"""How often the files are looked at while nothing comes."""

READ_BYTES = 1 << 18
"""Bytes read at once."""

QUEUED_BYTES_MAX = 4 << 20
"""As long as more waits in a rank's queue, its files are left to themselves: nothing is dropped."""

PUNCH_BYTES = 8 << 20
"""Every so many bytes that were read are given back to the disk."""

END_TIMEOUT_SECS = 5.0
"""Longest time that the end of the launcher waits until all ranks have left the run …"""

STALL_SECS = 5.0
"""… before that for what the workers left unread, as long as it gets ahead …"""

SETTLE_SECS = 60.0
"""… and at most."""

_FREE_RANGE = 0x01 | 0x02
"""`FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE` of Linux."""


class End(NamedTuple):
    """How a worker ended, as far as its launcher knows."""

    status: str
    message: str = ""
    traceback: str = ""


class Workers:
    """The ranks that a launcher speaks for.

    Args:
        name: the experiment.
        base_dir: where experiments are kept.
        key: a text that no other launch has.
        launcher: what it calls itself.
        scratch: where files that nobody else asked for are kept; None for the temporary folder.
    """

    def __init__(self, name: str, base_dir: str, key: str, launcher: str, scratch: str | None):
        self._name, self._base_dir, self._key = name, base_dir, key
        self._launcher = launcher
        self.folder = Path(tempfile.mkdtemp(prefix="monarch_like_", dir=scratch))
        self._cores: dict[int, CoreRun] = {}
        self._ends: dict[int, Path] = {}
        self._files: list[_File] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        os.register_at_fork(after_in_child=self._forked)

    def join(self, rank: int, world_size: int | None) -> dict[str, str]:
        """Joins the run as this rank, unless it is joined; what its worker needs to join it, too.

        Args:
            rank: the worker's rank.
            world_size: how many ranks the run has; None when others of the launch are elsewhere.

        Raises:
            ExpmanError: the run can't be joined.
        """
        core = self._cores.get(rank)
        if core is None:
            options = core_options(
                name=self._name,
                run_name=None,
                base_dir=self._base_dir,
                rank=rank,
                world_size=rank + 1 if world_size is None else world_size,
                group=self._key,
                resume=False,
                tags=(),
                description=None,
                flush_interval_ms=20.0,
                on_full="drop",
                block_timeout=0.0,
                timeout=10.0,
            )
            options["world_size"] = world_size
            options["launcher"] = self._launcher
            options["handle"] = os.environ.get("EXPMAN_HANDLE") or None
            core = CoreRun(options, _say_refused, _say)
            self._cores[rank] = core
        end = self.folder / f"end_{rank}"
        end.unlink(missing_ok=True)
        self._ends[rank] = end
        return {
            "EXPMAN_HANDLE": core.handle(),
            "EXPMAN_RANK": str(rank),
            CAPTURED_BY_LAUNCHER: core.handle(),
            ENDS_IN: str(end),
        }

    def scratch(self, attempt: str, rank: int, stream: str) -> str:
        """A new file for a stream that nobody else wants in one."""
        folder = self.folder / f"attempt_{attempt}"
        folder.mkdir(exist_ok=True)
        return str(folder / f"{rank}.{stream}")

    def follow(self, rank: int, stream: str, path: str, show: int | None) -> None:
        """Reads a worker's file from now on.

        Args:
            rank: the worker's rank.
            stream: `"out"` or `"err"`.
            path: the file; it is made now, the worker writes it from its beginning.
            show: the descriptor on which all of it is shown, if any.
        """
        file = _File(self._cores[rank], stream, path, show, self.folder in Path(path).parents)
        with self._lock:
            self._files.append(file)
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, name="expman-workers", daemon=True)
            self._thread.start()

    def settle(self) -> bool:
        """Those that were followed are gone: reads what they left, and follows them no more.

        Returns:
            Whether everything was read in time.
        """
        if not self._lock.acquire(timeout=STALL_SECS):
            return False  # whoever looks at what is shown stands still; it is read later
        try:
            files, self._files = self._files, []
        finally:
            self._lock.release()
        last, limit = time.monotonic(), time.monotonic() + SETTLE_SECS
        while any(file.left() for file in files):
            came, now = [file.read() for file in files], time.monotonic()
            if any(came):
                last = now
            elif now - last > STALL_SECS:
                break
            else:
                time.sleep(0.001)  # until there is room in a queue
            if now > limit:
                break
        is_read = not any(file.left() for file in files)
        for file in files:
            file.shut()
        return is_read

    def _read(self) -> None:
        while not self._over.is_set():
            with self._lock:
                came = [file.read() for file in self._files]
            if not any(came):
                self._over.wait(LOOK_SECS)

    def end(self, ends: Mapping[int, End], otherwise: str) -> None:
        """Everything is over: what is left is read, and every rank leaves the run.

        Args:
            ends: how those ended that the launcher knows of.
            otherwise: how the others did, unless they have said it themselves.
        """
        if os.getpid() != self._pid:
            return
        self._over.set()
        thread = self._thread
        if thread is not None:
            thread.join(STALL_SECS)
        is_read = (thread is None or not thread.is_alive()) and self.settle()
        deadline = time.monotonic() + END_TIMEOUT_SECS
        for rank, core in self._cores.items():
            end, said = ends.get(rank), self._said(rank)
            if end is None:
                end = End(said or otherwise)
            elif said not in (None, "finished"):
                end = end._replace(status=said or "")
            try:
                if end.message and end.status == "failed":
                    core.log_failure(end.message, end.traceback)
                elif end.message:
                    core.log_message(50, end.message, self._launcher)
                core.close(end.status, max(deadline - time.monotonic(), 0.1))
            except ExpmanError as error:
                _say(str(error))
            _summary.tell(core)
        if is_read:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            _say(f"not all output could be read in time, the rest is in {self.folder}")
        interpreter_ends(1.0)

    def _said(self, rank: int) -> str | None:
        """How a worker ended in its own words, when it was a rank of the run itself."""
        with contextlib.suppress(OSError, KeyError):
            return self._ends[rank].read_text() or None
        return None

    def _forked(self) -> None:
        """A forked child of the launcher has no part in this."""
        forked()
        for core in self._cores.values():
            core.leak()
        self._files = []


class _File:
    """One stream of one worker."""

    def __init__(self, core: CoreRun, stream: str, path: str, show: int | None, is_ours: bool):
        self._core, self._stream, self._show = core, stream, show
        self._is_ours = is_ours
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._read = self._freed = 0

    def left(self) -> bool:
        """Whether there is more to read."""
        return os.fstat(self._file).st_size > self._read

    def read(self) -> bool:
        """Reads a piece, if there is one and the queue has room for it."""
        if self._core.stats()["queued_bytes"] > QUEUED_BYTES_MAX:
            return False
        data = os.pread(self._file, READ_BYTES, self._read)
        if not data:
            return False
        self._read += len(data)
        self._shown(data)
        write_console(self._core, self._stream, data, True)
        if self._is_ours and self._read - self._freed >= PUNCH_BYTES:
            self._free()
        return True

    def _shown(self, data: bytes) -> None:
        rest = memoryview(data)
        while self._show is not None and rest:
            try:
                rest = rest[os.write(self._show, rest) :]
            except BlockingIOError:
                select.select([], [self._show], [], 1.0)
            except OSError:
                self._show = None  # nobody looks any more

    def _free(self) -> None:
        """Gives the room of what was read back to the disk, where the file system can."""
        length = self._read - self._freed
        with contextlib.suppress(AttributeError, OSError):
            libc = ctypes.CDLL(None, use_errno=True)
            offset, size = ctypes.c_int64(self._freed), ctypes.c_int64(length)
            libc.fallocate64(self._file, _FREE_RANGE, offset, size)
        self._freed = self._read

    def shut(self) -> None:
        """Gives the descriptor back."""
        os.close(self._file)


def _say(text: str) -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError):
        print(f"monarch_like: {text}", file=sys.stderr)  # noqa: T201


def _say_refused(name: str, reason: str) -> None:
    _say(f"left out {name}: {reason}")
