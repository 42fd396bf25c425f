"""The nemesis: faults of all kinds, mixed by a seed, against real ranks, for as long as asked.

    python -m tests.chaos.nemesis --seed 7 --seconds 60 --ranks 4

Ranks log, flush and fork without end, in one run after the other; meanwhile ranks and owners are
killed, stopped and continued, the disk is filled and freed, made slow and fast, and the server is
restarted under a client. After each run the books that the ranks kept outside must balance with
what is on disk (see `nemesis_ledger`), the doctor must have nothing left to do, no process may be
left, and what the client saw must be a prefix. Exit code 1 when anything is not as promised; the
folder is kept then, and the seed and the command are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import MARK, is_alive, marked, owner_of, until

from . import oracles
from .faults import mounted
from .faults_storage import Ballast, disk, free_bytes, let_go
from .nemesis_ledger import History, prove

ROUND_SECS = 20.0
"""How long one run is tormented."""

DISK_MIB = 192

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


@dataclass
class Server:
    """`expman serve`, and one client that follows the run through its restarts."""

    exps: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    reader: oracles.StreamReader | None = None
    _leaving: bool = False
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["expman", "serve", str(self.exps), "--port", str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        self.port = int(line.rstrip().rsplit(":", 1)[1])

    def follow(self) -> None:
        """Looks for the run, then follows it from its first row on."""
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        while not self._leaving:
            time.sleep(0.05)
            try:
                if self.reader is None:
                    key = self._get("")[0]["key"]
                    epoch = self._get(f"/{key}/metrics")["cursor"].split("-")[0]
                    reader = oracles.StreamReader(self.port, key, cursor=f"{epoch}-0-0-0")
                    self.reader = reader.open().read()
                elif self.reader.ended.is_set():
                    self.reader.resume()
            except (OSError, ValueError, IndexError):
                if self.reader is not None:
                    self.reader.ended.set()  # nobody listens yet: again

    def _get(self, path: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/runs{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)

    def restart(self, rng: random.Random) -> None:
        self.stop(rng.choice([signal.SIGKILL, signal.SIGTERM]))
        self.start()

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def leave(self) -> None:
        """The client goes, then the server."""
        self._leaving = True
        if self._thread is not None:
            self._thread.join(30)
        if self.reader is not None:
            self.reader.close()
        self.stop()


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
    born: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.books = self.folder / "books"
        self.books.mkdir()
        self.base = self.disk / "exps"
        self.base.mkdir()
        self.run_dir = self.base / "nemesis" / "run"
        self.ballast = Ballast(self.disk)
        self.server = Server(self.base)
        self.seen_dead: set[int] = set()

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
        self.server.restart(self.rng)
        return True

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
            self.history.look(free_bytes(self.disk))
            self._undo(time.monotonic())
            if time.monotonic() >= next_fault:
                name = self.rng.choices(names, weights)[0]
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
                self.kill_owner()
            for number in sorted(self.ranks):
                self.kill_rank(number)
        for process in self.dead:
            assert process.wait(END_WITHIN_SECS) == 0
        until(lambda: not self.processes(), END_WITHIN_SECS, f"end of all processes after {how!r}")
        return how

    def processes(self) -> dict[int, str]:
        """What still runs, but the server."""
        mine = self.server.process.pid if self.server.process is not None else 0
        return {pid: what for pid, what in marked(self.folder.parent).items() if pid != mine}

    def clean_up(self, kind: object, *error: object) -> None:
        """Whatever happened: nothing of this round is left running; what failed is kept."""
        if kind is not None:
            shutil.copytree(self.base, self.folder / "kept", ignore_dangling_symlinks=True)
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
        self.server.leave()


@contextmanager
def place(folder: Path, rng: random.Random) -> Iterator[tuple[Path, str]]:
    """A disk of the round's own, that can be filled; a plain folder where that is not allowed."""
    if os.geteuid() != 0:
        (folder / "disk").mkdir()
        yield folder / "disk", "folder"
    elif rng.random() < 0.5:
        with mounted(folder / "disk", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "none") as at:
            yield at, "tmpfs"
    else:
        with disk(folder, DISK_MIB) as ext4:
            yield ext4.at, "ext4"


def expman(*args: str | Path, codes: tuple[int, ...] = (0,)) -> str:
    """A command of the package."""
    command = ["expman", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in codes, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def one_round(folder: Path, seed: int, seconds: float, world: int, counts: Counter[str]) -> str:
    """One run from its first rank to the balance of its books; answers with a line about it."""
    rng = random.Random(seed)
    with ExitStack() as stack:
        where, kind = stack.enter_context(place(folder, rng))
        it = Round(folder, where, world, rng, counts, kind != "folder")
        stack.push(it.clean_up)
        it.server.start()
        for number in range(world):
            it.start_rank(number)
        until(lambda: (it.run_dir / "run.yaml").exists(), 30, "the first rank")
        it.server.follow()
        it.torment(seconds)
        how = it.end()
        if oracles.record(it.run_dir)["status"] == "running":
            expman("recover", it.run_dir)
            how += ", recovered"
        status = oracles.record(it.run_dir)["status"]
        listed = json.loads(expman("list", it.base, "--json"))
        assert status != "running", "the run was closed, or recovered"
        assert f'"{status}"' in json.dumps(listed), f"run.yaml says {status}, list says {listed}"
        time.sleep(1.0)  # two frames of the stream: the client sees the end
        it.server.leave()
        oracles.settles(["expman"], it.base)
        oracles.no_temp_files(it.run_dir)
        oracles.no_panic(folder)
        book = prove(it.run_dir, it.books, it.history, it.server.reader)
        return f"{kind}, {how}, {status}: {book}"


def nemesis(folder: Path, seed: int, seconds: float, world: int) -> Counter[str]:
    """Rounds until the time is over."""
    counts: Counter[str] = Counter()
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 or not counts["runs"]:
        counts["runs"] += 1
        own = folder / f"round-{counts['runs']}"
        own.mkdir()
        length = max(min(ROUND_SECS, left), 1.0)
        told = one_round(own, rng.randrange(1 << 32), length, world, counts)
        print(f"round {counts['runs']}: {told}", flush=True)
        shutil.rmtree(own)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults are made")
    parser.add_argument("--ranks", type=int, default=4)
    args = parser.parse_args()
    again = f"python -m tests.chaos.nemesis --seed {args.seed} --seconds {args.seconds:g} "
    again += f"--ranks {args.ranks}"
    print(again, flush=True)
    for name in list(os.environ):
        if name.startswith("EXPMAN_"):
            del os.environ[name]
    folder = Path(tempfile.mkdtemp(prefix="nemesis-", dir="/tmp"))
    runtime = Path(tempfile.mkdtemp(prefix="xm-", dir="/tmp"))
    os.environ[MARK] = str(folder)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    start = time.monotonic()
    try:
        counts = nemesis(folder, args.seed, args.seconds, args.ranks)
    except BaseException:
        traceback.print_exc()
        print(f"kept: {folder}\nto do it again: {again}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(runtime, ignore_errors=True)
    shutil.rmtree(folder)
    faults: dict[str, Any] = dict(sorted(counts.items()))
    print(f"balanced after {time.monotonic() - start:.0f} s: {json.dumps(faults)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
