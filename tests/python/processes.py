"""Real processes under a test: ranks that take orders, programs that run to their end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from ledger import Ledger

HERE = Path(__file__).parent
DEADLINE_SECS = 60.0
"""Longest time that anything here is waited for, unless a test says otherwise."""

MARK = "EXPMAN_TEST_FOLDER"
"""Environment variable that all processes of one test carry, owners included."""

T = TypeVar("T")


class RankError(Exception):
    """An order failed in the rank; `kind` names the exception."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


def until(look: Callable[[], T], within: float = DEADLINE_SECS, what: str = "") -> T:
    """Looks again and again until there is something."""
    deadline = time.monotonic() + within
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within} s: {what or look}")
        time.sleep(0.01)
    return seen


def environment(**more: str) -> dict[str, str]:
    """The environment of a child: ours, and a place to import the helpers from."""
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "", **more}


class Rank:
    """A process that runs `rank_program.py`."""

    def __init__(self, output: Path, **env: str) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(DEADLINE_SECS)
        self.output = output
        with output.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "rank_program.py"), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment(**env),
            )
        theirs.close()
        self._orders = ours.makefile("rw", encoding="utf-8")
        ours.close()
        self.rank = self.attempt = -1
        self.run_dir = Path()

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, do: str, **args: Any) -> None:
        """Gives an order without waiting for its answer."""
        self._orders.write(json.dumps({"do": do, **args}) + "\n")
        self._orders.flush()

    def answer(self) -> Any:
        """The answer to the oldest order."""
        line = self._orders.readline()
        if not line:
            raise EOFError(f"the rank ended: {self.output.read_text(errors='replace')}")
        answer = json.loads(line)
        if "error" in answer:
            raise RankError(*answer["error"])
        return answer["answer"]

    def ask(self, do: str, **args: Any) -> Any:
        self.tell(do, **args)
        return self.answer()

    def joined(self) -> Rank:
        """Takes the answer to `init`."""
        who = self.answer()
        self.rank, self.attempt, self.run_dir = who["rank"], who["attempt"], Path(who["run_dir"])
        return self

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self, within: float = DEADLINE_SECS) -> int:
        """Closes the orders, so that the program returns; answers with its exit code."""
        self._orders.close()
        return self.process.wait(within)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE_SECS)
        self._orders.close()


class Ranks(list[Rank]):
    """Ranks of one launch and the ledger of what they logged."""

    def __init__(self, ranks: Iterable[Rank], ledger: Ledger) -> None:
        super().__init__(ranks)
        self.ledger = ledger

    @property
    def run_dir(self) -> Path:
        (run_dir,) = {rank.run_dir for rank in self}
        return run_dir

    def ask(self, do: str, **args: Any) -> list[Any]:
        """Gives all ranks one order at the same time."""
        for rank in self:
            rank.tell(do, **args)
        return [rank.answer() for rank in self]

    def log(self, n: int) -> None:
        for rank, done in zip(self, self.ask("log", n=n)):
            self.note(rank, done)

    def note(self, rank: Rank, done: dict[str, int]) -> None:
        steps = range(done["start"], done["stop"])
        self.ledger.logged(rank.rank, rank.attempt, done["first_seq"], steps)

    def close(self) -> None:
        """Closes all ranks; the last one that does so closes the run."""
        assert sum(self.ask("close")) == 1
        assert [rank.end() for rank in self] == [0] * len(self)


class Programs:
    """Starts the processes of one test and ends what is left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.exps = folder / "exps"
        self._ranks: list[Rank] = []
        self._written = 0

    def rank(self, **env: str) -> Rank:
        """A rank that has not been told to join anything."""
        rank = Rank(self.folder / f"rank-{len(self._ranks)}.out", **env)
        self._ranks.append(rank)
        return rank

    def ranks(self, n: int, group: str = "g", **options: Any) -> Ranks:
        """A launch of `n` ranks that have all joined one run."""
        options = {"redirect_console": False, "world_size": n, **options}
        ranks = [self.rank() for _ in range(n)]
        for number, rank in enumerate(ranks):
            rank.tell("init", **self.options(rank=number, group=group, **options))
        return Ranks([rank.joined() for rank in ranks], Ledger())

    def options(self, **options: Any) -> dict[str, Any]:
        """Arguments of `Experiment` as JSON has them."""
        return {"name": "exp", "base_dir": str(self.exps), **options}

    def run(
        self, code: str, *args: object, within: float = DEADLINE_SECS, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program to its end; `exps` is its first argument."""
        return subprocess.run(
            self._command(code, args),
            env=environment(**env),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )

    def start(
        self, code: str, *args: object, stdin: bool = False, **env: str
    ) -> subprocess.Popen[str]:
        """Starts a program whose output is read by the test, and its input written if asked for."""
        return subprocess.Popen(
            self._command(code, args),
            env=environment(**env),
            cwd=self.folder,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _command(self, code: str, args: Iterable[object]) -> list[str]:
        """A file of its own, since `spawn` and `forkserver` import the program again."""
        self._written += 1
        program = self.folder / f"program_{self._written}.py"
        program.write_text(textwrap.dedent(code), encoding="utf-8")
        return [sys.executable, str(program), str(self.exps), *map(str, args)]

    def end(self) -> None:
        for rank in self._ranks:
            rank.kill()


def owner_of(run_dir: Path) -> int:
    """Process id of the run's owner."""
    return int(json.loads((run_dir / ".expman/owner.json").read_text())["pid"])


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def stop(pid: int) -> None:
    """Stops a process; returns when none of its threads runs any more."""
    os.kill(pid, signal.SIGSTOP)

    def is_stopped() -> bool:
        stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

    until(is_stopped, what=f"stop of process {pid}")


def kill_owner(run_dir: Path) -> int:
    """Kills the run's owner as the kernel would when memory is short; answers with its pid."""
    pid = owner_of(run_dir)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid), what=f"end of owner {pid}")
    return pid


def marked(folder: Path) -> dict[int, str]:
    """Living processes of a test, by id with their command line."""
    mark = f"{MARK}={folder}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0") and is_alive(int(entry.name)):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(entry.name)] = command.decode(errors="replace")[:200]
        except OSError:
            continue
    return found
