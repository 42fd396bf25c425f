"""One run under the nemesis: its ranks, its faults, and how each of them is undone."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from processes import is_alive, marked, owner_of, until

from . import oracles
from .faults_storage import Ballast, free_bytes, let_go
from .nemesis_ledger import History
from .serving import Server

END_WITHIN_SECS = 90.0
"""How long processes may take to end behind their run: a lease, and what is to be imported."""


@dataclass
class Rank:
    """A living incarnation of a rank."""

    name: str
    number: int
    process: subprocess.Popen[bytes]
    stopped_at: int | None = None

    def order(self, what: str) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.write(what.encode() + b"\n")
            self.process.stdin.flush()


@dataclass
class Later:
    """Something to be undone at a time."""

    at: float
    undo: Callable[[], None]


class Client:
    """Follows a run's stream from its first row on, through all restarts of the server."""

    def __init__(self, server: Server, run_dir: Path) -> None:
        self.server = server
        self.run_dir = run_dir
        self.reader: oracles.StreamReader | None = None
        self._leaving = False
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        while not self._leaving:
            time.sleep(0.05)
            try:
                if self.reader is None:
                    key = self.server.key(self.run_dir)
                    epoch = self.server.get(f"runs/{key}/metrics")["cursor"].split("-")[0]
                    reader = oracles.StreamReader(self.server.port, key, cursor=f"{epoch}-0-0-0")
                    self.reader = reader.open().read()
                elif self.reader.ended.is_set():
                    self.reader.resume()
            except (OSError, ValueError, IndexError, TimeoutError):
                if self.reader is not None:
                    self.reader.ended.set()  # nobody listens yet: again

    def leave(self) -> None:
        self._leaving = True
        self._thread.join(30)
        if self.reader is not None:
            self.reader.close()


@dataclass
class Round:
    """One run under the nemesis."""

    folder: Path
    disk: Path
    world: int
    rng: random.Random
    counts: Counter[str]
    can_fill: bool
    history: History = field(default_factory=History)
    ranks: dict[int, Rank] = field(default_factory=dict)
    laters: list[Later] = field(default_factory=list)
    dead: list[subprocess.Popen[bytes]] = field(default_factory=list)
    strace: subprocess.Popen[bytes] | None = None
    owner_stopped: int | None = None
    owner_memory: int = 0
    rank_memory: int = 0
    born: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.books = self.folder / "books"
        self.books.mkdir()
        self.base = self.disk / "exps"
        self.base.mkdir()
        self.run_dir = self.base / "nemesis" / "run"
        self.ballast = Ballast(self.disk)
        self.server = Server(["expman"], self.base)
        self.client: Client | None = None

    # --- ranks ------------------------------------------------------------------------------

    def start_rank(self, number: int) -> None:
        name = f"r{number}.{self.born[number]}"
        self.born[number] += 1
        spec = {
            "seed": self.rng.randrange(1 << 32),
            "books": str(self.books),
            "name": name,
            "base": str(self.base),
            "run": "run",
            "rank": number,
            "world": self.world,
        }
        program = Path(__file__).with_name("nemesis_rank.py")
        with (self.folder / f"{name}.out").open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, str(program), json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.ranks[number] = Rank(name, number, process)
        self.history.born(name, number)

    def kill_rank(self, number: int) -> None:
        rank = self.ranks.pop(number)
        with suppress(OSError, AssertionError):
            self.rank_memory = max(self.rank_memory, oracles.high_water(rank.process.pid))
        if rank.stopped_at is not None:
            self.history.stopped(rank.name, rank.stopped_at)
        before = time.monotonic_ns()
        rank.process.kill()
        rank.process.wait()
        self.history.died(rank.name, before, "kill")
        self._bury(rank)

    def _bury(self, rank: Rank) -> None:
        assert rank.process.stdin is not None
        with suppress(OSError):
            rank.process.stdin.close()

    def continue_rank(self, rank: Rank) -> None:
        if rank.stopped_at is not None and rank.process.poll() is None:
            os.kill(rank.process.pid, signal.SIGCONT)
            self.history.stopped(rank.name, rank.stopped_at)
        rank.stopped_at = None

    # --- the owner --------------------------------------------------------------------------

    def owner(self) -> int | None:
        try:
            pid = owner_of(self.run_dir)
        except (OSError, ValueError):
            return None
        return pid if is_alive(pid) else None

    def look(self) -> None:
        """What happens by itself: a disk that runs full, an owner that comes or goes."""
        self.history.look(free_bytes(self.disk))
        self.history.owner_is(self.owner())

    def kill_owner(self) -> bool:
        pid = self.owner()
        if pid is None:
            return False
        self.history.owner_died()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.owner_stopped = None
        return True

    def continue_owner(self) -> None:
        if self.owner_stopped is not None:
            with suppress(ProcessLookupError):
                os.kill(self.owner_stopped, signal.SIGCONT)
        self.owner_stopped = None

    # --- faults -----------------------------------------------------------------------------

    def later(self, seconds: float, undo: Callable[[], None]) -> None:
        self.laters.append(Later(time.monotonic() + seconds, undo))

    def fault_kill_rank(self) -> bool:
        number = self.rng.choice(sorted(self.ranks) or [-1])
        if number < 0:
            return False
        self.kill_rank(number)
        self.later(self.rng.uniform(0.0, 1.5), lambda: self.start_rank(number))
        return True

    def fault_leave_and_return(self) -> bool:
        number = self.rng.choice(sorted(self.ranks) or [-1])
        if number < 0 or self.ranks[number].stopped_at is not None:
            return False
        rank = self.ranks.pop(number)
        rank.order("close")
        self.history.left(rank.name)
        self.dead.append(rank.process)
        self.later(self.rng.uniform(0.0, 1.5), lambda: self.start_rank(number))
        return True

    def fault_stop_rank(self) -> bool:
        rank = self.ranks.get(self.rng.choice(sorted(self.ranks) or [-1]))
        if rank is None or rank.stopped_at is not None:
            return False
        os.kill(rank.process.pid, signal.SIGSTOP)
        rank.stopped_at = time.monotonic_ns()
        self.later(self._pause(), lambda: self.continue_rank(rank))
        return True

    def _pause(self) -> float:
        """Now and then longer than a link may be silent."""
        return self.rng.uniform(16.0, 19.0) if self.rng.random() < 0.02 else self.rng.uniform(0, 3)

    def fault_stop_owner(self) -> bool:
        pid = self.owner()
        if pid is None or self.owner_stopped is not None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        self.owner_stopped = pid
        self.later(self._pause(), self.continue_owner)
        return True

    def fault_kill_owner(self) -> bool:
        return self.kill_owner()

    def fault_kill_owner_and_rank(self) -> bool:
        number = self.rng.choice(sorted(self.ranks) or [-1])
        if number < 0 or not self.kill_owner():
            return False
        self.kill_rank(number)
        self.later(self.rng.uniform(0.0, 1.5), lambda: self.start_rank(number))
        return True

    def fault_fork(self) -> bool:
        return self._order("fork")

    def fault_flood(self) -> bool:
        return self._order("flood")

    def _order(self, what: str) -> bool:
        rank = self.ranks.get(self.rng.choice(sorted(self.ranks) or [-1]))
        if rank is None:
            return False
        rank.order(what)
        return True

    def fault_fill_disk(self) -> bool:
        if not self.can_fill or self.history.is_full():
            return False
        self.history.disk_full()
        self.ballast.fill(self.rng.choice([0, 0, 4096, 1 << 20]))
        self.later(self.rng.uniform(0.2, 3.0), self.free_disk)
        return True

    def free_disk(self) -> None:
        self.ballast.free()
        self.history.disk_free()

    def fault_slow_disk(self) -> bool:
        pid = self.owner()
        if pid is None or self.strace is not None or shutil.which("strace") is None:
            return False
        delay = self.rng.choice([20, 100, 500]) * 1000
        self.strace = subprocess.Popen(
            [
                *("strace", "-f", "-qqq", "-o", "/dev/null", "-p", str(pid), "--signal=none"),
                *("--trace=fdatasync,fsync", f"--inject=fdatasync,fsync:delay_exit={delay}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.later(self.rng.uniform(0.5, 3.0), self.fast_disk)
        return True

    def fast_disk(self) -> None:
        if self.strace is not None:
            let_go(self.strace)
            self.strace = None

    def fault_restart_server(self) -> bool:
        self.server.kill()
        self.server.start()
        return True

    def follow(self) -> None:
        """From now on a client watches."""
        self.client = Client(self.server, self.run_dir)

    FAULTS = (
        ("kill_rank", 10),
        ("leave_and_return", 4),
        ("stop_rank", 8),
        ("stop_owner", 5),
        ("kill_owner", 6),
        ("kill_owner_and_rank", 3),
        ("fork", 12),
        ("flood", 4),
        ("fill_disk", 4),
        ("slow_disk", 4),
        ("restart_server", 4),
    )

    # --- the course of a round ----------------------------------------------------------------

    def torment(self, seconds: float) -> None:
        """Faults at random until the time is over; then nothing stands in anybody's way."""
        names, weights = zip(*self.FAULTS)
        end = time.monotonic() + seconds
        next_fault = time.monotonic() + 0.5
        while time.monotonic() < end:
            time.sleep(0.01)
            self.look()
            self._undo(time.monotonic())
            if time.monotonic() >= next_fault:
                name = self.rng.choices(names, weights)[0]
                if (owner := self.owner()) is not None:
                    with suppress(OSError, AssertionError):
                        self.owner_memory = max(self.owner_memory, oracles.high_water(owner))
                if getattr(self, f"fault_{name}")():
                    self.counts[name] += 1
                next_fault = time.monotonic() + self.rng.expovariate(1 / 0.25)
        self.calm()

    def _undo(self, upto: float) -> None:
        due = [later for later in self.laters if later.at <= upto]
        self.laters = [later for later in self.laters if later.at > upto]
        for later in due:
            later.undo()

    def calm(self) -> None:
        self._undo(float("inf"))
        self.fast_disk()
        self.continue_owner()
        if self.history.is_full():
            self.free_disk()

    def end(self) -> str:
        """Ends the run in one of the ways in which runs end; answers which."""
        how = self.rng.choice(["close", "close", "kill the ranks", "kill everything"])
        if how == "close":
            for rank in self.ranks.values():
                rank.order("close")
            for rank in self.ranks.values():
                # A rank may have to wait for the lease of one that is gone, or for its own flush.
                code = rank.process.wait(END_WITHIN_SECS)
                assert code == 0, f"{rank.name} ended with {code}"
                self.history.left(rank.name)
        else:
            if how == "kill everything":
                # Nobody sees the others die, so nobody starts another owner.
                for rank in self.ranks.values():
                    os.kill(rank.process.pid, signal.SIGSTOP)
                    rank.stopped_at = rank.stopped_at or time.monotonic_ns()
                self.kill_owner()
            for number in sorted(self.ranks):
                self.kill_rank(number)
        for process in self.dead:
            assert process.wait(END_WITHIN_SECS) == 0
        until(lambda: not self.processes(), END_WITHIN_SECS, f"end of all processes after {how!r}")
        return how

    def processes(self) -> dict[int, str]:
        """What still runs, but the server."""
        mine = self.server.pid
        return {pid: what for pid, what in marked(self.folder.parent).items() if pid != mine}

    def no_more_views(self) -> None:
        """The client goes, then the server."""
        if self.client is not None:
            self.client.leave()
        if self.server.process.poll() is None:
            self.server.kill()

    def clean_up(self, kind: object, *error: object) -> None:
        """Whatever happened: nothing of this round is left running; what failed is kept."""
        if kind is not None:
            shutil.copytree(self.base, self.folder / "kept", ignore_dangling_symlinks=True)
            self.history.write(self.folder / "history.json")
        for later in self.laters:
            if later.undo == self.free_disk:
                later.undo()
        self.fast_disk()
        self.continue_owner()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in [*self.dead, *(rank.process for rank in self.ranks.values())]:
            process.wait(30)
        self.no_more_views()
