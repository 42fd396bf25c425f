"""The injectors: how each fault of the matrix is done to real processes, and undone.

All are context managers where there is something to undo. What needs root, or a kernel feature that
is missing, skips the test with the reason.
"""

from __future__ import annotations

import array
import json
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ledger import crc32c
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


# --- the link: a client that says what it likes ---------------------------------------------------

# Kinds of frames, as in actors/src/link/frame.rs.
HELLO, WELCOME, REFUSED, DATA, ACK, BARRIER = 1, 2, 3, 4, 5, 6
MARKER, FLUSH, FLUSH_DONE, BYE, FAREWELL, PING = 7, 8, 9, 10, 11, 12

PREAMBLE = b"\x01"
"""The byte that carries the ring's descriptor, from protocol 2 on."""


def owner_address(run_dir: Path) -> dict[str, Any]:
    """Where a run's owner is reached."""
    loaded = json.loads((run_dir / ".expman/owner.json").read_text())
    assert isinstance(loaded, dict)
    return loaded


def frame(kind: int, body: bytes | Any = b"") -> bytes:
    """A frame's bytes; what is not bytes is written as JSON."""
    payload = bytes([kind]) + (body if isinstance(body, bytes) else json.dumps(body).encode())
    return struct.pack("<II", len(payload), crc32c(payload)) + payload


def metrics_record(seq: int, points: dict[str, float], step: int | None) -> bytes:
    """The bytes of one `log_metrics` call of floats, as in model/src/record.rs."""
    body = struct.pack("<Bqi", step is not None, step or 0, len(points))
    for key, value in points.items():
        name = key.encode()
        body += struct.pack("<I", len(name)) + name + struct.pack("<Bd", 0, value)
    head = struct.pack("<BQq", 1, seq, time.time_ns() // 1000)
    return struct.pack("<I", len(head) + len(body)) + head + body


def data_frame(first_seq: int, last_seq: int, records: bytes) -> bytes:
    """A frame of records."""
    return frame(DATA, struct.pack("<QQ", first_seq, last_seq) + records)


class RawLink:
    """A client of a run's owner that speaks the protocol by hand, well or badly.

    This is the one place that knows what comes in front of the frames.
    """

    def __init__(self, run_dir: Path, ring: int | None = None, preamble: bool = True) -> None:
        owner = owner_address(run_dir)
        self.run_dir = run_dir
        self.protocol = int(owner["protocol"])
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(owner["address"])
        if self.protocol >= 2 and preamble:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [ring]))]
            self.socket.sendmsg([PREAMBLE], rights if ring is not None else [])

    def __enter__(self) -> RawLink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def send(self, kind: int, body: bytes | Any = b"") -> None:
        """Sends a frame."""
        self.socket.sendall(frame(kind, body))

    def hello(self, rank: int | None = None, **fields: Any) -> tuple[int, Any]:
        """Introduces itself as a rank of the run's launch; answers with the owner's answer."""
        from .oracles import record

        hello = {
            "protocol": self.protocol,
            "launch_key": record(self.run_dir)["launch_key"],
            "resume": False,
            "rank": rank,
            "world_size": None,
            "incarnation": f"{random.getrandbits(64):016x}",
            "host": os.uname().nodename,
            "pid": os.getpid(),
            **fields,
        }
        self.send(HELLO, hello)
        return self.receive()

    def receive(self, within: float = 30.0) -> tuple[int, Any]:
        """The next frame: kind and body, JSON decoded; `EOFError` when the owner hung up."""
        self.socket.settimeout(within)
        length, crc = struct.unpack("<II", self._exactly(8))
        payload = self._exactly(length)
        assert crc32c(payload) == crc, "the owner sent a bad checksum"
        kind, body = payload[0], payload[1:]
        if kind == ACK:
            return kind, struct.unpack(f"<{len(body) // 8}Q", body)[0]
        return kind, json.loads(body) if body else None

    def receive_until(self, kind: int, within: float = 30.0) -> Any:
        """The body of the next frame of a kind; others are left out."""
        deadline = time.monotonic() + within
        while True:
            found, body = self.receive(max(deadline - time.monotonic(), 0.01))
            if found == kind:
                return body

    def acknowledged(self, seq: int, within: float = 30.0) -> None:
        """Waits until everything up to a number is durable."""
        while self.receive_until(ACK, within) < seq:
            pass

    def _exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            more = self.socket.recv(n - len(data))
            if not more:
                raise EOFError("the owner hung up")
            data += more
        return data


# --- the link: a wire that behaves badly ----------------------------------------------------------


@dataclass
class Wire:
    """What a proxy does to its connections; it may be changed at any time.

    Attributes:
        up: whether bytes from ranks to the owner pass.
        down: whether bytes from the owner to ranks pass.
        bytes_per_second: how many pass each way at most, of each connection.
        cut_after: bytes from a rank after which its connection is cut, wherever in a frame that is;
            chosen anew for each connection.
    """

    up: bool = True
    down: bool = True
    bytes_per_second: float | None = None
    cut_after: Callable[[], int | None] = field(default=lambda: None)


class LinkProxy:
    """Stands between the ranks that connect from now on and the owner; see `Wire`.

    It takes the place of the owner's socket, so ranks find it without knowing. Descriptors that
    come with the bytes are passed on. The owner sees this process as its peer.
    """

    def __init__(self, run_dir: Path) -> None:
        self.wire = Wire()
        self.cuts = 0
        self.connections = 0
        self._address = Path(owner_address(run_dir)["address"])
        self._real = self._address.with_suffix(".real")
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._ending = False

    def __enter__(self) -> LinkProxy:
        self._address.rename(self._real)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._address))
        self._address.chmod(0o600)
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending = True
        self._listener.close()
        self.cut()
        self._address.unlink(missing_ok=True)
        if self._real.exists():
            self._real.rename(self._address)

    def cut(self) -> None:
        """Ends all connections at once, as a crash of the network does."""
        with self._lock:
            ends = list(self._open)
            self._open.clear()
        for end in ends:
            hang_up(end)

    def _accept(self) -> None:
        while not self._ending:
            try:
                rank, _ = self._listener.accept()
            except OSError:
                return
            owner = socket.socket(socket.AF_UNIX)
            try:
                owner.connect(str(self._real))
            except OSError:
                rank.close()
                continue
            with self._lock:
                self._open |= {rank, owner}
                self.connections += 1
            cut_after = self.wire.cut_after()
            for source, target, way, budget in (
                (rank, owner, "up", cut_after),
                (owner, rank, "down", None),
            ):
                threading.Thread(
                    target=self._pump, args=(source, target, way, budget), daemon=True
                ).start()

    def _pump(
        self, source: socket.socket, target: socket.socket, way: str, budget: int | None
    ) -> None:
        try:
            while True:
                rate = self.wire.bytes_per_second
                size = 1 << 16 if rate is None else max(1, int(rate / 20))
                data, rights, _, _ = source.recvmsg(size, socket.CMSG_SPACE(16))
                if not data:
                    break
                while not getattr(self.wire, way) and not self._ending:
                    time.sleep(0.01)
                if budget is not None and len(data) >= budget:
                    target.sendall(data[:budget])
                    self.cuts += 1
                    break
                if budget is not None:
                    budget -= len(data)
                self._pass(target, data, rights)
                if rate is not None:
                    time.sleep(len(data) / rate)
        except OSError:
            pass
        for end in (source, target):
            with self._lock:
                self._open.discard(end)
            hang_up(end)

    @staticmethod
    def _pass(target: socket.socket, data: bytes, rights: list[Any]) -> None:
        sent = target.sendmsg([data], rights)
        for _, kind, fds in rights:
            if kind == socket.SCM_RIGHTS:
                for fd in array.array("i", fds[: len(fds) // 4 * 4]):
                    os.close(fd)
        if sent < len(data):
            target.sendall(data[sent:])


def hang_up(end: socket.socket) -> None:
    """Closes a socket that another thread may be reading."""
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


# --- storage: CHAOS of files and disks has its own injectors from here on -------------------------
