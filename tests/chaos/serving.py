"""`expman serve` as a process, and clients that speak HTTP by themselves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processes import until

from .oracles import Event, StreamReader


class Server:
    """A server on a folder; it can be killed and started again on its port."""

    def __init__(self, expman: Sequence[str], folder: Path, *options: str) -> None:
        self._command = [*expman, "serve", str(folder), "--host", "127.0.0.1", *options]
        self.port = 0
        self.process: subprocess.Popen[str]

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> Server:
        """Starts it, on the port that it had."""
        self.process = subprocess.Popen(
            [*self._command, "--port", str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.process.stdout.readline())
        assert found, "it does not say where it listens"
        self.port = int(found[1])
        return self

    def kill(self) -> None:
        """SIGKILL: no stream is ended in good order."""
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.process.communicate(timeout=20)

    def get(self, path: str) -> Any:
        """The JSON at an API path."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/{path}", timeout=20) as got:
            return json.load(got)

    def key(self, run_dir: Path) -> str:
        """By what a run is asked for."""

        def look() -> str:
            runs = self.get("runs")
            runs = runs["runs"] if isinstance(runs, dict) else runs
            wanted = f"{run_dir.parent.name}/{run_dir.name}"
            return next((run["key"] for run in runs if run["id"] == wanted), "")

        return until(look, 20, f"{run_dir} in the list of the server")

    def stream(self, run_dir: Path, **options: Any) -> StreamReader:
        """A reader of a run's stream, not yet connected."""
        return StreamReader(self.port, self.key(run_dir), **options)


class Follower:
    """A client as the page is one: fetches, follows, and fetches anew when it is told to."""

    def __init__(self, server: Server, key: str, topics: str = "metrics") -> None:
        self.resets = 0
        self._server, self._key, self._topics = server, key, topics
        self._fetch()

    def _fetch(self) -> None:
        got = self._server.get(f"runs/{self._key}/metrics")
        fetched = [Event("metrics", got["cursor"], got)]
        self.reader = StreamReader(self._server.port, self._key, self._topics, got["cursor"])
        self.reader.seen = fetched
        self.reader.open().read()

    def go_on(self) -> None:
        """Connects again behind a cut."""
        self.reader.resume()

    def sees(self, step: int, name: str = "x", within: float = 20.0) -> list[Any]:
        """Follows until it has seen a step of rank 0; answers with all that it has seen of it."""

        def look() -> list[Any]:
            if self.reader.ended.is_set() and self.reader.seen[-1].kind == "reset":
                self.resets += 1
                self._fetch()
            points = self.reader.points(name)[0]
            return points if points and points[-1][0] == step else []

        try:
            return until(look, within)
        except TimeoutError:
            reader = self.reader
            raise AssertionError(
                f"step {step} was not seen, but {reader.points(name)[0][-1:]}; status "
                f"{reader.status}, ended: {reader.ended.is_set()}, {reader.error}; "
                f"{[f'{event.kind} {event.id}' for event in reader.seen[-5:]]}"
            ) from None


def statuses(expman: Sequence[str], run_dir: Path, server: Server | None = None) -> set[str]:
    """What list, inspect and the API say of a run: one word, if they agree."""

    def said(*command: str) -> Any:
        done = subprocess.run(
            [*expman, *command, "--json"], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    (listed,) = (
        run for run in said("list", str(run_dir.parents[1])) if run["path"] == str(run_dir)
    )
    words = {listed["status"], said("inspect", str(run_dir))["meta"]["status"]}
    if server is not None:
        key = server.key(run_dir)
        detail = server.get(f"runs/{key}")
        runs = server.get("runs")
        runs = runs["runs"] if isinstance(runs, dict) else runs
        words.add((detail.get("summary") or detail)["status"])
        words.add(next(run["status"] for run in runs if run["key"] == key))
    return words
