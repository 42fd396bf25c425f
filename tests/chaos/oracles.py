"""What must hold whatever happens: A ledger, L bounded, M memory, H hygiene, S stream.

Each oracle is written once and looks from outside: at files, at `/proc`, at the clock, at bytes on
a socket. None of them asks the package how it fared, except where its own word is what is proved.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from ledger import KEYS, Ledger, Row, in_order, read_rows, value_of
from processes import MARK, is_alive, until

# --- what a run says of itself --------------------------------------------------------------------


def record(run_dir: Path) -> dict[str, Any]:
    """run.yaml."""
    loaded = yaml.safe_load((run_dir / "run.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def events(run_dir: Path, *kinds: str) -> list[dict[str, Any]]:
    """events.jsonl, or those events of these types; the last line may still be half written."""
    text = (run_dir / "events.jsonl").read_text()
    found = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [event for event in found if not kinds or event["type"] in kinds]


def the_run(exps: Path) -> Path:
    """The only run there is."""
    (found,) = (path.parent for path in exps.glob("*/*/run.yaml"))
    return found


def ended(run_dir: Path, within: float = 30.0) -> dict[str, Any]:
    """The record of a run, once it has ended by itself."""
    return until(
        lambda: (r := record(run_dir))["status"] != "running" and r, within, f"end of {run_dir}"
    )


# --- A: the ledger --------------------------------------------------------------------------------


@dataclass
class Balance:
    """Where the accepted rows of a run are."""

    present: int = 0
    in_gaps: int = 0
    tail: int = 0


def balance(
    run_dir: Path, ledger: Ledger, lost_tail: Iterable[int] = (), strict: bool = True
) -> Balance:
    """A: logged = present + gaps + unacknowledged tail; what is present is there once and exact.

    Args:
        run_dir: where to look.
        ledger: what was logged.
        lost_tail: ranks whose processes died such that what they logged last may be missing, but
            only from the end.
        strict: nothing else may be there; `False` where a run holds rows that the ledger does not.
    """
    rows = read_rows(run_dir)
    once(rows)
    in_order(rows)
    last: dict[tuple[int, int], int] = defaultdict(int)
    seen = set()
    for row in rows:
        entry = row.rank, row.attempt, row.seq, row.key
        expected = ledger.entries.get(entry)
        if expected is None:
            assert not strict, f"nobody logged {row}"
            continue
        assert (row.step, row.bits) == (expected.step, expected.bits), f"{row} is not {expected}"
        seen.add(entry)
        writer = row.rank, row.attempt
        last[writer] = max(last[writer], row.seq)
    told = gaps(run_dir)
    book = Balance(present=len(seen))
    tails = set(lost_tail)
    for entry, row in ledger.entries.items():
        if entry in seen:
            continue
        if any(lo <= row.seq <= hi for lo, hi in told[row.rank]):
            book.in_gaps += 1
        elif row.rank in tails and row.seq > last[row.rank, row.attempt]:
            book.tail += 1
        else:
            raise AssertionError(f"{row} is missing; gaps told of its rank: {told[row.rank]}")
    return book


def once(rows: Sequence[Row]) -> None:
    """No row is there twice."""
    seen = Counter((row.rank, row.attempt, row.seq, row.key) for row in rows)
    twice = [entry for entry, n in seen.items() if n > 1]
    assert not twice, f"{len(twice)} rows are present twice, the first is {twice[0]}"


def gaps(run_dir: Path) -> dict[int, list[tuple[int, int]]]:
    """By rank, the ranges of numbers that the run says are missing."""
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for event in events(run_dir, "gap"):
        found[event["rank"]].append((event["from_seq"], event["to_seq"]))
    return found


def rows_of(rows: Iterable[Row], rank: int, attempt: int = 0, key: str | None = None) -> list[Row]:
    """The rows of one writer, or those of its rows that are of one metric."""
    mine = (row for row in rows if (row.rank, row.attempt) == (rank, attempt))
    return [row for row in mine if key is None or row.key == key]


def prefix(rows: Sequence[Row], rank: int, attempt: int, at_least: int, at_most: int) -> int:
    """A: of the calls `log_metrics(value_of at step 0, 1, 2 …)` of a writer a prefix is there.

    Args:
        rows: all of the run.
        rank: the writer's.
        attempt: the writer's.
        at_least: how many calls must be there, since they were accepted in time.
        at_most: how many calls there were at most.

    Returns:
        How many are there.
    """
    mine = rows_of(rows, rank, attempt)
    once(mine)
    in_order(mine)
    by_step: dict[int | None, dict[str, Row]] = defaultdict(dict)
    for row in mine:
        by_step[row.step][row.key] = row
    n = len(by_step)
    assert sorted(by_step, key=lambda step: -1 if step is None else step) == list(range(n)), (
        f"rank {rank}.{attempt}: the steps present are no prefix: {holes(by_step)}"
    )
    for step, points in by_step.items():
        assert step is not None
        values = {key: row.value for key, row in points.items()}
        assert values == {key: value_of(rank, step, key) for key in KEYS}
    assert at_least <= n <= at_most, (
        f"rank {rank}.{attempt}: {n} calls are there, of {at_least} to {at_most}"
    )
    return n


def holes(steps: Iterable[int | None]) -> str:
    """The ranges that are there, for a message."""
    there = sorted(step for step in steps if step is not None)
    ranges: list[list[int]] = []
    for step in there:
        if ranges and ranges[-1][1] == step - 1:
            ranges[-1][1] = step
        else:
            ranges.append([step, step])
    return ", ".join(f"{lo}…{hi}" for lo, hi in ranges[:10]) or "none"


# --- L: bounded time ------------------------------------------------------------------------------


@contextmanager
def within(seconds: float, what: str = "") -> Iterator[None]:
    """L: what is done inside takes at most this long by a clock that nobody sets."""
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    assert took <= seconds, f"{what or 'it'} took {took:.2f} s of at most {seconds} s"


def p999(times_ns: Sequence[int]) -> float:
    """The 99.9th percentile in milliseconds."""
    return sorted(times_ns)[min(len(times_ns) * 999 // 1000, len(times_ns) - 1)] / 1e6


LOG_P999_MS = 1.0
"""`log_*` returns within this in 99.9 of 100 calls, whatever happens elsewhere."""


def fast_calls(
    times_ns: Sequence[int],
    what: str = "log_metrics",
    slow: Sequence[dict[str, float]] = (),
) -> None:
    """L: the promise on `log_*`, for at least a thousand calls; `slow` says where the time went."""
    assert len(times_ns) >= 1000, "too few calls for a 99.9th percentile"
    found = p999(times_ns)
    worst = sorted(slow, key=lambda call: -call["ms"])[:5]
    assert found <= LOG_P999_MS, (
        f"{what}: p99.9 is {found:.3f} ms, median {sorted(times_ns)[len(times_ns) // 2] / 1e6:.4f} "
        f"ms, worst {max(times_ns) / 1e6:.1f} ms" + "".join(f"\n  {call}" for call in worst)
    )


# --- M: bounded memory ----------------------------------------------------------------------------

RANK_GROWTH_BYTES = 96 << 20
"""What logging may add to a rank's process: the ring of 16 MiB, frames on the wire (8 MiB of
credit, twice while they are built), what is read back from the spool, the allocator's slack."""

OWNER_HIGH_WATER_BYTES = 512 << 20
"""What an owner may ever take: 64 MiB between links and log, 64 MiB of an open log and its rows,
one segment being sorted and encoded, the merge of a run of at most 5,000,000 points at its end."""

SERVER_HIGH_WATER_BYTES = 512 << 20
"""What a server may ever take for the runs of these tests."""


def texts(run_dir: Path, name: str) -> Iterator[bytes]:
    """A text of a run, piece by piece: what was rolled and packed, then the file itself."""
    for piece in sorted(run_dir.glob(f"{name}-*.log*")):
        if piece.suffix == ".zst":
            with pa.OSFile(str(piece)) as packed, pa.CompressedInputStream(packed, "zstd") as file:
                yield file.read()
        else:
            yield piece.read_bytes()
    yield (run_dir / f"{name}.log").read_bytes()


def exit_summary(output: Path) -> bytes:
    """What a program said at its end of what was left out: its last line, if it said anything."""
    with output.open("rb") as file:
        file.seek(max(0, output.stat().st_size - 4096))
        last = file.read().rstrip(b"\n").rpartition(b"\n")[2] + b"\n"
    return last if last.startswith(b"monarch_like: ") else b""


def high_water(pid: int) -> int:
    """The most memory that a process ever had, in bytes, shared pages included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"process {pid} is gone")


def bounded_memory(pid: int, bound: int, what: str, before: int = 0) -> None:
    """M: a process's high-water mark is at most `bound` above what it was before."""
    grown = high_water(pid) - before
    assert grown <= bound, f"{what} took {grown >> 20} MiB of at most {bound >> 20} MiB"


# --- H: hygiene -----------------------------------------------------------------------------------


def no_panic(folder: Path) -> None:
    """H: no process of a test panicked, as far as anybody wrote down what it said."""
    said = [*folder.glob("*.out"), *folder.rglob("owner.log")]
    for path in said:
        text = path.read_text(errors="replace")
        assert "panicked" not in text, f"{path}:\n{text[-2000:]}"


def descriptors(pid: int) -> Counter[str]:
    """What a process has open, numbers of pipes and sockets left out."""
    found: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[re.sub(r"\d+", "N", os.readlink(entry))] += 1
        except OSError:
            continue
    return found


def no_temp_files(run_dir: Path) -> None:
    """H: a run that ended holds nothing that is half made, and no spool of anybody."""
    left = [
        path
        for path in run_dir.rglob("*")
        if path.is_file() and (path.suffix in (".tmp", ".spool") or path.name.startswith(".tmp"))
    ]
    assert not left, f"left behind: {[str(path.relative_to(run_dir)) for path in left]}"


def no_sockets(sockets: Path) -> None:
    """H: nobody's socket is left, once all owners have ended by themselves."""
    until(lambda: not list(sockets.glob("*")), 10, f"sockets left: {list(sockets.glob('*'))}")


def doctor(expman: Sequence[str], folder: Path, *options: str) -> tuple[int, Any]:
    """`expman doctor --json`: its exit code and what it found."""
    done = subprocess.run(
        [*expman, "doctor", str(folder), "--json", *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "panicked" not in done.stderr, done.stderr
    assert done.stdout.strip(), f"doctor said nothing, exit code {done.returncode}: {done.stderr}"
    return done.returncode, json.loads(done.stdout)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder: mode and content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def settles(expman: Sequence[str], folder: Path) -> None:
    """H: `doctor --fix` leaves nothing to fix, and when run again changes no byte."""
    doctor(expman, folder, "--fix")
    first = snapshot(folder)
    code, found = doctor(expman, folder, "--fix")
    again = snapshot(folder)
    changed = [name for name in {*first, *again} if first.get(name) != again.get(name)]
    assert not changed, f"the second doctor changed {changed}: {found}"
    assert code == 0, f"the second doctor still finds {found}"


def alone(folder: Path) -> list[int]:
    """Living processes of a test other than its own."""
    mark = f"{MARK}={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0") and is_alive(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


# --- S: streams -----------------------------------------------------------------------------------


@dataclass
class Event:
    """One server-sent event."""

    kind: str
    id: str
    data: Any


OPEN: list[StreamReader] = []
"""All readers that were connected in this test, to be closed behind it."""


@dataclass
class StreamReader:
    """A client of the server's stream: reads bytes of HTTP by itself, keeps what it saw.

    `read` follows the stream in a thread until it ends or `close` is called; `resume` goes on
    behind the last event, as a browser does.
    """

    port: int
    key: str
    topics: str = "metrics"
    cursor: str | None = None
    seen: list[Event] = field(default_factory=list)
    last_id: str | None = None
    status: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    _socket: socket.socket | None = None
    _thread: threading.Thread | None = None

    def open(self, last_event_id: str | None = None) -> StreamReader:
        """Connects and asks; returns when the head of the answer is there."""
        self.close()
        self.ended.clear()
        OPEN.append(self)
        query = f"topics={self.topics}" + (f"&cursor={self.cursor}" if self.cursor else "")
        more = f"Last-Event-ID: {last_event_id}\r\n" if last_event_id is not None else ""
        self._socket = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        self._socket.sendall(
            f"GET /api/runs/{self.key}/stream?{query} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Accept: text/event-stream\r\n{more}\r\n".encode()
        )
        self._file = self._socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        self._chunked = False
        while (line := self._file.readline().strip()) != b"":
            self._chunked |= line.lower() == b"transfer-encoding: chunked"
        return self

    def read(self) -> StreamReader:
        """Follows in the background."""
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def resume(self) -> StreamReader:
        """Goes on behind the last event that was seen whole."""
        return self.open(self.last_id).read()

    def close(self) -> None:
        """Hangs up."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            if self._thread is not None:
                self._thread.join(10)
            self._file.close()
            self._socket.close()
            self._socket = self._thread = None

    def _follow(self) -> None:
        try:
            buffer = b""
            for chunk in self._chunks():
                buffer += chunk
                while b"\n\n" in buffer:
                    block, _, buffer = buffer.partition(b"\n\n")
                    self._take(block)
        except (OSError, ValueError) as error:
            self.error = error  # a cut connection: what was not whole was not seen
        finally:
            self.ended.set()

    def _chunks(self) -> Iterator[bytes]:
        while True:
            if not self._chunked:
                data = self._file.read1(1 << 16)
                if not data:
                    return
                yield data
                continue
            size = int(self._file.readline() or b"0", 16)
            data = self._file.read(size)
            self._file.readline()
            if size == 0 or len(data) < size:
                return
            yield data

    def _take(self, block: bytes) -> None:
        fields: dict[str, str] = {}
        for line in block.decode().splitlines():
            name, _, value = line.partition(":")
            fields[name] = fields.get(name, "") + value.removeprefix(" ")
        if "id" in fields:
            self.last_id = fields["id"]
        if "data" in fields:
            data = json.loads(fields["data"])
            self.seen.append(Event(fields.get("event", "message"), fields.get("id", ""), data))

    def points(self, name: str) -> dict[int, list[tuple[int | None, float]]]:
        """By rank, the points of a metric in the order in which they came."""
        found: dict[int, list[tuple[int | None, float]]] = defaultdict(list)
        for event in list(self.seen):
            if event.kind == "metrics":
                for series in event.data["series"]:
                    if series["key"] == name:
                        found[series["rank"]] += zip(series["steps"], series["values"])
        return found


def gap_free(points: Sequence[tuple[int | None, float]], first: int = 0) -> int:
    """S: what a client saw of one writer is every step from `first` on, each once, in order."""
    steps = [step for step, _ in points]
    expected = list(range(first, first + len(steps)))
    assert steps == expected, f"the client saw {holes(steps)} in {len(steps)} points"
    return first + len(steps)
