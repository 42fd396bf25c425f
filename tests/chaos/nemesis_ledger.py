"""Whether the books of the ranks balance with what is on disk after the nemesis.

logged = present + gaps + unacknowledged tail, incarnation by incarnation. What may be missing, and
where, follows from what was done to it:

- Nobody is missing anything but in gaps, exactly counted, when it left by itself or was killed
  while an owner lived; and without a full disk there are no gaps.
- When the owner died about the same time, what was accepted in its last moments may be missing,
  from the end only.
- When the disk was full as well, so that nothing could be spooled, all that no flush called durable
  may be missing, from the end only.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from .nemesis_rank import GOLDEN, MANTISSA, salt_of
from .oracles import StreamReader, events, gaps, record

SECOND = 1_000_000_000

OWNERLESS_NS = 15 * SECOND
"""A rank that dies this near to a death of the owner may die with it: its ring may be nowhere."""

TAIL_NS = SECOND
"""What was accepted this long before a rank and the owner die together is on disk. The promise is
50 ms of a process that gets to run; here many times more processes than cores want to."""

FULL_BYTES = 1 << 20
"""A disk with less room than this is full to somebody."""

AFTERMATH_NS = 6 * SECOND
"""Behind a full disk an owner tries again after at most 5 s."""

Ints = npt.NDArray[np.uint64]


@dataclass
class Life:
    """One incarnation, as the nemesis saw it from outside."""

    number: int
    end_ns: int = 0
    how: str = ""
    stops: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class History:
    """What was done to whom, and when."""

    lives: dict[str, Life] = field(default_factory=dict)
    owner_deaths: list[int] = field(default_factory=list)
    full: list[tuple[int, int]] = field(default_factory=list)
    owners: list[tuple[int, int | None]] = field(default_factory=list)
    """From when on which process was the owner."""
    _full_since: int | None = None
    _tight_since: int | None = None

    def born(self, name: str, number: int) -> None:
        self.lives[name] = Life(number)

    def died(self, name: str, at_ns: int, how: str) -> None:
        life = self.lives[name]
        life.end_ns, life.how = at_ns, how

    def left(self, name: str) -> None:
        self.died(name, time.monotonic_ns(), "close")

    def stopped(self, name: str, since_ns: int) -> None:
        self.lives[name].stops.append((since_ns, time.monotonic_ns()))

    def owner_died(self) -> None:
        self.owner_deaths.append(time.monotonic_ns())

    def owner_is(self, pid: int | None) -> None:
        if not self.owners or self.owners[-1][1] != pid:
            self.owners.append((time.monotonic_ns(), pid))

    def write(self, path: Path) -> None:
        """For whoever looks for what went wrong."""
        path.write_text(json.dumps(asdict(self), indent=1))

    def disk_full(self) -> None:
        self._full_since = time.monotonic_ns()

    def disk_free(self) -> None:
        if self._full_since is not None:
            self.full.append((self._full_since, time.monotonic_ns()))
        self._full_since = None

    def is_full(self) -> bool:
        return self._full_since is not None

    def look(self, free: int) -> None:
        """The disk may also have been filled by the run itself."""
        if free < FULL_BYTES:
            self._tight_since = self._tight_since or time.monotonic_ns()
        elif self._tight_since is not None:
            self.full.append((self._tight_since, time.monotonic_ns()))
            self._tight_since = None

    def owner_died_near(self, at_ns: int) -> bool:
        return any(abs(death - at_ns) < OWNERLESS_NS for death in self.owner_deaths)

    def full_near(self, from_ns: int, to_ns: int) -> bool:
        return any(lo <= to_ns and from_ns <= hi + AFTERMATH_NS for lo, hi in self.full)


@dataclass
class Book:
    """What an incarnation wrote down about itself."""

    name: str
    rank: int
    attempt: int | None = None
    accepted: list[int] = field(default_factory=list)
    """When 1, 2, 3 … were accepted, in nanoseconds."""
    at_most: int = 0
    slow_us: list[int] = field(default_factory=list)
    flushes: list[dict[str, Any]] = field(default_factory=list)
    closed: dict[str, Any] | None = None
    ended_ns: int | None = None
    errors: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Book:
        name = path.stem
        book = cls(name, int(name[1:].split(".")[0]))
        text = path.read_bytes().decode()
        for line in text[: text.rfind("\n") + 1].splitlines():
            kind, rest = line[0], line[2:]
            if kind == "A":
                n, at = rest.split()
                book.accepted.append(int(at))
                assert int(n) == len(book.accepted), f"{path}: {line}"
            elif kind == "B":
                book.at_most = int(rest.split()[1])
            elif kind == "S":
                book.slow_us.append(int(rest.split()[1]))
            elif kind == "J":
                book.attempt = int(rest)
            elif kind == "F":
                book.flushes.append(json.loads(rest))
            elif kind == "C":
                book.closed = json.loads(rest)
            elif kind == "D":
                book.ended_ns = int(rest)
            elif kind == "E":
                book.errors.append(rest)
        return book

    @property
    def logged(self) -> int:
        """How many calls have certainly returned."""
        return len(self.accepted)

    def accepted_before(self, at_ns: int) -> int:
        return int(np.searchsorted(np.array(self.accepted, dtype=np.int64), at_ns))


@dataclass
class Totals:
    """What the books amount to."""

    incarnations: int = 0
    logged: int = 0
    present: int = 0
    in_gaps: int = 0
    tail: int = 0
    flushes: int = 0
    complete: int = 0
    streamed: int = 0
    resets: int = 0
    slow_share: float = 0.0
    longest_tail_ms: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.logged} logged by {self.incarnations} = {self.present} present + "
            f"{self.in_gaps} in gaps + {self.tail} lost with their owner "
            f"(the oldest {self.longest_tail_ms:.0f} ms before the end); "
            f"{self.complete} of {self.flushes} flushes complete; {self.streamed} points streamed, "
            f"{self.resets} resets; {self.slow_share:.4%} of calls above 1 ms"
        )


def prove(run_dir: Path, books: Path, history: History, reader: StreamReader | None) -> Totals:
    """Balances the books; an `AssertionError` says whose does not, and by what."""
    stored = Stored(run_dir)
    all_books = [Book.read(path) for path in sorted(books.glob("*.book"))]
    by_name = {book.name: book for book in all_books}
    told = gaps(run_dir)
    meta = record(run_dir)
    totals = Totals(incarnations=len(all_books))
    foreign = set(stored.steps) - set(by_name)
    assert not foreign, f"nobody logged {sorted(foreign)}"
    problems: list[str] = []
    for book in all_books:
        try:
            _balance(book, stored, history, told[book.rank], meta, totals)
        except AssertionError as error:
            problems.append(f"{book.name}: {error}")
    in_gaps = sum(e["count"] for e in events(run_dir, "gap"))
    assert meta["dropped"] == in_gaps, f"run.yaml: {meta['dropped']} dropped, gaps: {in_gaps}"
    slow = sum(len(book.slow_us) for book in all_books)
    totals.slow_share = slow / max(totals.logged, 1)
    if reader is not None:
        _stream(reader, stored, totals)
    assert not problems, "\n".join(problems)
    return totals


class Stored:
    """All rows of a closed run, by incarnation: its metric's name is its own."""

    def __init__(self, run_dir: Path) -> None:
        columns = ["key", "rank", "step", "attempt", "seq", "value", "kind"]
        table = pq.read_table(run_dir / "metrics.parquet", columns=columns)
        assert not table.filter(table["kind"].to_numpy() != 0).num_rows, "only floats were logged"
        keys = table["key"].to_numpy(zero_copy_only=False)
        get = {name: table[name].to_numpy() for name in ("rank", "step", "attempt", "seq", "value")}
        self.steps: dict[str, Ints] = {}
        self.seqs: dict[str, npt.NDArray[np.int64]] = {}
        self.whose: dict[str, tuple[int, int]] = {}
        order = np.lexsort((get["seq"], keys.astype(str)))
        keys = keys[order]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else []
        for lo, hi in zip(starts, [*starts[1:], len(keys)]):
            mine, name = order[lo:hi], str(keys[lo])
            step = get["step"][mine].astype(np.uint64)
            whose = {*zip(get["rank"][mine].tolist(), get["attempt"][mine].tolist())}
            assert len(whose) == 1, f"{name} is stored as {whose}"
            (self.whose[name],) = whose
            assert (np.diff(get["seq"][mine]) > 0).all(), f"{name}: a number twice"
            assert (np.diff(step.astype(np.int64)) > 0).all(), f"{name}: twice, or out of order"
            ahead = get["seq"][mine] - step.astype(np.int64)
            # The record that tells a gap has a number of its own.
            assert (np.diff(np.r_[0, ahead]) >= 0).all(), f"{name}: numbers and steps"
            self.seqs[name] = get["seq"][mine]
            mantissa = (step * np.uint64(GOLDEN) + np.uint64(salt_of(name))) & np.uint64(MANTISSA)
            assert (get["value"][mine] == mantissa.astype(np.float64)).all(), f"{name}: values"
            self.steps[name] = step


def _balance(
    book: Book,
    stored: Stored,
    history: History,
    told: Iterable[tuple[int, int]],
    meta: dict[str, Any],
    totals: Totals,
) -> None:
    assert not book.errors, book.errors
    n = book.logged
    present = stored.steps.get(book.name, np.zeros(0, dtype=np.uint64))
    totals.logged += n
    totals.present += int((present <= n).sum())
    totals.flushes += len(book.flushes)
    totals.complete += sum(flush["report"]["complete"] for flush in book.flushes)
    if len(present):
        assert int(present[-1]) <= book.at_most, f"{present[-1]} is there, which was never logged"
        assert stored.whose[book.name] == (book.rank, book.attempt)
    dropped = 0
    if book.attempt is not None and n:
        dropped = sum(meta["ranks"][book.rank][book.attempt]["dropped"].values())
    inside = _holes(present, stored.seqs.get(book.name), told)
    assert inside <= dropped, f"{inside} are missing from within, its record counts {dropped}"
    missing = n - int((present <= n).sum())
    in_gaps = min(missing, dropped)
    # What is neither there nor in a gap can only be the last.
    lost = np.arange(n - (missing - in_gaps), n) + 1
    assert len(lost) <= missing - inside
    totals.in_gaps += in_gaps
    totals.tail += len(lost)
    _allowed(book, history, lost, in_gaps, totals)
    _flushes(book, lost, history)
    blocked = [us for us in book.slow_us if us > SECOND // 1000]
    stops = history.lives[book.name].stops if book.name in history.lives else None
    assert stops is None or len(blocked) <= len(stops), f"calls took {blocked} µs"


def _holes(steps: Ints, seqs: npt.NDArray[np.int64] | None, told: Iterable[tuple[int, int]]) -> int:
    """How many steps are missing between those that are there; each hole is told as a gap."""
    if seqs is None:
        return 0
    step, seq = np.r_[0, steps.astype(np.int64)], np.r_[0, seqs]
    total = 0
    for i in np.flatnonzero(np.diff(step) > 1):
        hole = int(step[i + 1] - step[i] - 1)
        total += hole
        covered = {(lo, hi) for lo, hi in told if seq[i] < lo and hi < seq[i + 1]}
        numbers = sum(hi - lo + 1 for lo, hi in covered)
        assert numbers >= hole, f"{step[i] + 1} to {step[i + 1] - 1} are missing, and no gap"
    return total


def _allowed(
    book: Book, history: History, lost: npt.NDArray[np.int64], in_gaps: int, totals: Totals
) -> None:
    """Whether this incarnation may miss what it misses."""
    n = book.logged
    life = history.lives.get(book.name)
    end_ns = book.ended_ns or (book.closed["end"] if book.closed else 0)
    end_ns = end_ns or (life.end_ns if life and life.how else 0)
    end_ns = end_ns or (book.accepted[-1] if n else 0)
    first_ns = book.accepted[0] if n else 0
    full = history.full_near(first_ns, end_ns)
    assert full or not in_gaps or history.owner_died_near(end_ns), (
        f"{in_gaps} of {n} are in gaps, though the disk had room and the owner lived"
    )
    if not len(lost):
        return
    first = int(lost[0])
    assert first + len(lost) - 1 == n, f"missing from within: {lost[:5]} … of {n}"
    age_ns = end_ns - book.accepted[first - 1]
    stops = life.stops if life is not None else []
    age_ns -= sum(min(hi, end_ns) - lo for lo, hi in stops if lo > book.accepted[first - 1])
    totals.longest_tail_ms = max(totals.longest_tail_ms, age_ns / 1e6)
    assert history.owner_died_near(end_ns), (
        f"the last {len(lost)} of {n} are missing, though an owner lived when it died"
    )
    assert full or age_ns <= TAIL_NS, (
        f"the last {len(lost)} of {n} are missing, accepted {age_ns / 1e6:.0f} ms before its end"
    )


def _flushes(book: Book, lost: npt.NDArray[np.int64], history: History) -> None:
    """Nothing is missing that a flush called durable; no flush took longer than it may."""
    safe = int(lost[0]) - 1 if len(lost) else book.logged
    stops = history.lives[book.name].stops if book.name in history.lives else []
    for flush in book.flushes:
        report = flush["report"]
        if report["complete"]:
            assert flush["accepted"] <= safe, (
                f"flush {report['version']} called {flush['accepted']} durable, {safe} are there"
            )
        asleep = sum(max(0, min(hi, flush["end"]) - max(lo, flush["start"])) for lo, hi in stops)
        took = (flush["end"] - flush["start"] - asleep) / 1e9
        assert took <= flush["timeout"] + 1.0, f"a flush of {flush['timeout']} s took {took:.2f} s"


def _stream(reader: StreamReader, stored: Stored, totals: Totals) -> None:
    """What a client saw of each incarnation has no hole; where it is told to fetch anew, it does.

    A client that was never told so saw everything from the first row on.
    """
    pieces: list[dict[str, list[int]]] = [defaultdict(list)]
    for event in list(reader.seen):
        if event.kind == "reset":
            pieces.append(defaultdict(list))
        elif event.kind == "metrics":
            for series in event.data["series"]:
                pieces[-1][series["key"]] += series["steps"]
    totals.resets = len(pieces) - 1
    upto: dict[str, int] = defaultdict(int)
    for piece, seen in enumerate(pieces):
        for name, steps in seen.items():
            there = stored.steps.get(name, np.zeros(0, dtype=np.uint64))
            first = 0 if piece == 0 else int(np.searchsorted(there, steps[0]))
            same = there[first : first + len(steps)].tolist() == steps
            assert same, f"the client saw of {name} {steps[:5]} … {steps[-5:]}, with a hole"
            assert first >= upto[name], f"the client saw {name} {steps[0]} again"
            upto[name] = first + len(steps)
            totals.streamed += len(steps)
