"""The oracle: an independent reader of a run's rows, and the book of what they must be.

It shares no code with the package. `read_rows` reads a run folder from its plain files alone:
`metrics.parquet` with pyarrow, then the sealed segments that continue it, then the commit logs,
whose format it knows from their documentation. `Ledger` is told what every rank logged, and proves
that each accepted row is present exactly once, bit for bit, in order.
"""

from __future__ import annotations

import json
import re
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from checksum import crc32c
from known import KEYS, value_of


class Row(NamedTuple):
    """One metric of one call."""

    key: str
    rank: int
    step: int | None
    attempt: int
    seq: int
    value: float | int | bool | str

    @property
    def bits(self) -> object:
        """Equal only for the same value of the same type; NaN equals itself, 0.0 not -0.0."""
        if isinstance(self.value, float):
            return struct.pack("<d", self.value)
        return type(self.value), self.value


# --- reading --------------------------------------------------------------------------------


def read_rows(run_dir: Path, within: float = 10.0) -> list[Row]:
    """Every row of a run, also while it grows; later rows in the order in which they arrived.

    A file that is published or sealed between two looks is looked for again.
    """
    deadline = time.monotonic() + within
    while True:
        try:
            return _read_rows(run_dir)
        except (FileNotFoundError, MissingRowsError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


class MissingRowsError(Exception):
    """Two files of a run do not follow each other."""


def _read_rows(run_dir: Path) -> list[Row]:
    hidden = run_dir / ".expman"
    # The bytes of all files first, as fast as can be: files move under a run that grows.
    at = run_dir / "metrics.parquet"
    version = at.stat()
    published = at.read_bytes()
    segments: dict[int, tuple[int, bytes]] = {}
    for path in hidden.glob("seg-*.parquet"):
        lo, hi = (int(part, 16) for part in path.stem.split("-")[1:])
        segments[lo] = max(segments.get(lo, (0, b"")), (hi, path.read_bytes()))
    logs = [(path, path.read_bytes()) for path in sorted(hidden.glob("wal-*.wal"))]
    again = at.stat()
    if (again.st_ino, again.st_mtime_ns) != (version.st_ino, version.st_mtime_ns):
        raise MissingRowsError(f"{at} was published meanwhile")
    rows, end = _read_parquet(published)
    while end in segments:
        more, end = _read_parquet(segments[end][1])
        rows += more
    starts = [int(path.stem.split("-")[1], 16) for path, _ in logs]
    for (path, log), lo, upto in zip(logs, starts, [*starts[1:], None]):
        if lo < end:
            continue  # its rows are sealed already
        if lo > end:
            raise MissingRowsError(f"{path} begins at row {lo}, the files before it end at {end}")
        # A log that was given up ends where the next one begins: what is behind is there once more.
        more = list(_read_log(log))[: None if upto is None else upto - lo]
        rows += more
        end += len(more)
    return rows


def _read_parquet(file: bytes) -> tuple[list[Row], int]:
    table = pq.read_table(pa.BufferReader(file))
    hi = int(table.schema.metadata[b"expman.hi"])
    return [to_row(r) for r in table.to_pylist()], hi


def to_row(record: dict[str, Any]) -> Row:
    """A row of metrics.parquet by its columns; the value comes from the exact one of the three."""
    value: float | int | bool | str
    kind = record["kind"]
    if kind == 0:
        value = record["value"]
        assert record["int_value"] is None
        assert record["text"] is None
    elif kind in (1, 2):
        value = bool(record["int_value"]) if kind == 2 else record["int_value"]
        exact = record["value"]
        assert exact is None or exact == value
    else:
        assert kind == 3
        value = record["text"]
        assert record["value"] is None
        assert record["int_value"] is None
    return Row(
        record["key"], record["rank"], record["step"], record["attempt"], record["seq"], value
    )


def _read_log(log: bytes) -> Iterator[Row]:
    """Whole frames from the start of a commit log; a torn last one is where it ends.

    When the power goes, what was not synced may be there in part, as zeros, or not at all. Whatever
    is no frame is therefore the end, but no frame may stand behind it.
    """
    names: dict[int, str] = {}
    writers: list[dict[str, Any]] = []
    while (payload := _whole_frame(log)) is not None:
        log = log[12 + len(payload) :]
        kind, body = payload[0], payload[1:]
        if kind == 1:
            writers = json.loads(body)["writers"]
            names = {}
        elif kind == 2:
            writers.append(json.loads(body))
        else:
            assert kind == 4, f"frame of kind {kind}"
            yield from _read_batch(body, names, writers)
    later = [found.start() for found in re.finditer(b"EXPW", log) if found.start()]
    assert all(_whole_frame(log[at:]) is None for at in later), "damage in front of a frame"


def _whole_frame(log: bytes) -> bytes | None:
    """The payload of the frame that begins here, if one does and all of it is there."""
    if len(log) < 12:
        return None
    magic, length, crc = struct.unpack_from("<4sII", log)
    payload = log[12 : 12 + length]
    whole = magic == b"EXPW" and 0 < length == len(payload)
    return payload if whole and crc32c(struct.pack("<I", length) + payload) == crc else None


class _Fields:
    """Reads little-endian fields from the front of bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, form: str) -> Any:
        (value,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value

    def text(self) -> str:
        return str(self.take(f"{self.take('I')}s"), "utf-8")

    def number(self) -> int:
        """An unsigned LEB128."""
        n = shift = 0
        while True:
            byte: int = self.take("B")
            n |= (byte & 0x7F) << shift
            if byte < 0x80:
                return n
            shift += 7

    def difference(self) -> int:
        return _unzigzag(self.number())

    def ended(self) -> bool:
        return self.at == len(self.data)


def _unzigzag(n: int) -> int:
    return n >> 1 ^ -(n & 1)


def _wrapped(n: int) -> int:
    """Differences wrap around, as sums of 64 bits do."""
    return (n + 2**63) % 2**64 - 2**63


def _read_batch(
    body: bytes, names: dict[int, str], writers: Sequence[dict[str, Any]]
) -> Iterator[Row]:
    writer, _upto, _run_log, _console_log, n, length, stored = struct.unpack_from("<IQQQIII", body)
    kept = body[40 : 40 + stored]
    if stored < length:
        kept = pa.decompress(kept, decompressed_size=length, codec="zstd", asbytes=True)
    rest, calls, who = _Fields(kept), _Fields(body[40 + stored :]), writers[writer]
    for _ in range(rest.take("I")):
        number = rest.take("I")
        names[number] = rest.text()
    step = seq = read = 0
    shape: list[tuple[str, int]] = []
    bits: list[int] = []
    while read < n:
        flags = calls.take("B")
        if flags & 1:
            step = _wrapped(step + calls.difference())
        calls.difference()  # of the time
        seq += calls.difference()
        if flags & 2:
            shape, key = [], 0
            for _ in range(calls.number()):
                word = calls.number()
                key += _unzigzag(word >> 2)
                shape.append((names[key], word & 3))
            bits = [0] * len(shape)
        widths = calls.take(f"{(len(shape) + 1) // 2}s")
        for at, (name, kind) in enumerate(shape):
            width = widths[at // 2] >> at % 2 * 4 & 15
            differs = bytes(8 - width) + calls.take(f"{width}s")
            bits[at] ^= int.from_bytes(differs, "big" if kind else "little")
            packed = struct.pack("<Q", bits[at])
            value = rest.text() if kind == 3 else struct.unpack_from("<" + "dq?"[kind], packed)[0]
            yield Row(name, who["rank"], step if flags & 1 else None, who["attempt"], seq, value)
        read += len(shape)
    rest.take(f"{rest.take('I')}s")
    assert read == n
    assert calls.take("B")
    assert calls.ended()
    assert rest.ended()


# --- proving --------------------------------------------------------------------------------


@dataclass
class Ledger:
    """What every rank logged, written down outside the system."""

    entries: dict[tuple[int, int, int, str], Row] = field(default_factory=dict)

    def logged(
        self, rank: int, attempt: int, first_seq: int, steps: range, keys: Sequence[str] = KEYS
    ) -> None:
        """A rank logged `value_of` at each of these steps; the calls were numbered in turn."""
        for seq, step in enumerate(steps, first_seq):
            for key in keys:
                row = Row(key, rank, step, attempt, seq, value_of(rank, step, key))
                assert self.entries.setdefault((rank, attempt, seq, key), row) == row

    def prove(self, run_dir: Path, durable: dict[int, int] | None = None) -> list[Row]:
        """Every entry is present exactly once and exact, and nothing else is.

        Args:
            run_dir: where to look.
            durable: by rank, the sequence number up to which its rows must be present; what is
                beyond may be missing, but only from the end. Ranks that are not named must be
                there entirely.
        """
        rows = read_rows(run_dir)
        seen = Counter((r.rank, r.attempt, r.seq, r.key) for r in rows)
        twice = [key for key, n in seen.items() if n > 1]
        assert not twice, f"{len(twice)} rows are present twice, the first is {twice[0]}"
        for row in rows:
            expected = self.entries.get((row.rank, row.attempt, row.seq, row.key))
            assert expected is not None, f"nobody logged {row}"
            assert (row.step, row.bits) == (expected.step, expected.bits)
        last: dict[tuple[int, int], int] = {}
        for row in rows:
            writer = row.rank, row.attempt
            last[writer] = max(last.get(writer, 0), row.seq)
        for key, row in self.entries.items():
            upto = last.get((row.rank, row.attempt), 0)
            if durable is None or row.rank not in durable:
                assert key in seen, f"{row} is missing"
            elif row.seq <= max(durable[row.rank], upto):
                assert key in seen, f"{row} is missing; durable up to {durable[row.rank]}"
        in_order(rows)
        return rows


def in_order(rows: Sequence[Row]) -> None:
    """Per rank, attempt and metric the calls stand in the order in which they were made."""
    last: dict[tuple[int, int, str], int] = {}
    for row in rows:
        writer = row.rank, row.attempt, row.key
        assert last.get(writer, 0) < row.seq, f"{row} stands behind {last[writer]}"
        last[writer] = row.seq


# --- text -----------------------------------------------------------------------------------

CONSOLE_LINE = re.compile(
    rb"\[(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)\] \[rank (\d+) (out|err) (\d+)(\+?)\] "
)


def read_console(path: Path) -> list[tuple[int, str, bytes]]:
    """(rank, stream, line) of console.log, chunks of long lines joined."""
    return console_lines([path.read_bytes()])


def console_lines(pieces: Iterable[bytes]) -> list[tuple[int, str, bytes]]:
    """(rank, stream, line) of the pieces of a console.log, chunks of long lines joined."""
    lines: list[tuple[int, str, bytes]] = []
    open_lines: dict[tuple[int, str], list[bytes]] = {}
    records = (record for piece in pieces for record in re.split(rb"\n(?!\t)", piece)[:-1])
    for record in records:
        head = CONSOLE_LINE.match(record)
        assert head, f"no record: {record[:80]!r}"
        rank, stream = int(head[2]), head[3].decode()
        pieces = open_lines.setdefault((rank, stream), [])
        pieces.append(record[head.end() :].replace(b"\n\t", b"\n"))
        if not head[5]:
            lines.append((rank, stream, b"".join(open_lines.pop((rank, stream)))))
    assert not open_lines
    return lines


MESSAGE_LINE = re.compile(
    r"\[(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)\] \[(\w+)\] "
    r"\[rank (\d+) (\d+)\.(\d{3})(?: ([^ \]]+))?(?: ([^ \]]+):(\d+))?\] ",
    re.ASCII,
)


class Message(NamedTuple):
    """One record of run.log."""

    level: str
    rank: int
    text: str
    seq: int = 0
    logger: str = ""
    file: str = ""
    line: int = 0


def read_messages(path: Path) -> list[Message]:
    """The records of run.log, with their further lines joined."""
    messages = []
    for record in re.split(r"\n(?!\t)", path.read_bytes().decode())[:-1]:
        head = MESSAGE_LINE.match(record)
        assert head, f"no record: {record[:120]!r}"
        _, level, rank, seq, _, logger, file, line = head.groups()
        messages.append(
            Message(
                level,
                int(rank),
                record[head.end() :].replace("\n\t", "\n"),
                int(seq),
                "" if logger in (None, "-") else unquote(logger),
                unquote(file or ""),
                int(line or 0),
            )
        )
    return messages


def said(run_dir: Path) -> list[tuple[str, int, str]]:
    """(level, rank, text) of run.log."""
    return [message[:3] for message in read_messages(run_dir / "run.log")]
