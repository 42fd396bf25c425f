"""Both ends of a run's link in our hands: a client that says what it likes, a wire that misbehaves.

Imports nothing that takes long, so that a process under test may use it, too.
"""

from __future__ import annotations

import array
import json
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checksum import crc32c

# --- the link: a client that says what it likes ---------------------------------------------------

# Kinds of frames, as in actors/src/link/frame.rs.
HELLO, WELCOME, REFUSED, DATA, ACK, BARRIER = 1, 2, 3, 4, 5, 6
MARKER, FLUSH, FLUSH_DONE, BYE, FAREWELL, PING, HEALTH, TROUBLE = 7, 8, 9, 10, 11, 12, 13, 14

PREAMBLE = b"\x9d"
"""The byte that carries the ring's descriptor, from protocol 2 on."""


def owner_address(run_dir: Path) -> dict[str, Any]:
    """Where a run's owner is reached."""
    loaded = json.loads((run_dir / ".expman/owner.json").read_text())
    assert isinstance(loaded, dict)
    return loaded


def launch_key(run_dir: Path) -> str:
    """What lets a rank join a run."""
    import yaml

    return str(yaml.safe_load((run_dir / "run.yaml").read_text())["launch_key"])


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
            rings = array.array("i", [] if ring is None else [ring])
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rings)] if rings else []
            self.socket.sendmsg([PREAMBLE], rights)

    def __enter__(self) -> RawLink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def send(self, kind: int, body: bytes | Any = b"") -> None:
        """Sends a frame."""
        self.socket.sendall(frame(kind, body))

    def hello(self, rank: int | None = None, **fields: Any) -> tuple[int, Any]:
        """Introduces itself as a rank of the run's launch; answers with the owner's answer."""
        hello = {
            "protocol": self.protocol,
            "launch_key": launch_key(self.run_dir),
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
