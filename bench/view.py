"""Measures viewing: listing runs, opening a long metric, and following a run live.

    python bench/view.py VENVS [--exp FILE] [--runs N ...] [--points N ...] [--rounds N]
                         [--clients N ...] [--only NAME] [--all] [--output FILE]

VENVS has an environment for each of expman-mesh, expman-rs, tensorboard and trackio; one that is
not there is left out. FILE of `--exp` is expman-rs's program, built from its crate.

Each server gets the same runs, written by its own library. "First" is asked of a server that has
just started and listens; "again" is the median of later questions. What is asked is what each
one's page asks.
"""

from __future__ import annotations

import argparse
import http.client
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from viewers import ExpmanRs, Failed, Mesh, TensorBoard, Trackio, Viewer

RATE = 1_000
"""Rows a second while clients follow a run."""

LIVE_SECS = 20.0

IDLE_SECS = 10.0

OTHERS_RUNS_MAX = 1_000
OTHERS_POINTS_MAX = 2_000_000
"""What other libraries write within minutes."""

HEAD = """# Viewing

Written by `just bench view --output docs/benchmarks-view.md`, {when}, on {machine}.
Each server gets the same runs, written by its own library; the same questions as its page asks;
medians of {rounds} rounds, least and greatest in brackets. "First" is asked of a server that has
just started and listens. TensorBoard is waited for until it has loaded the last step.

"""

LOGS = """
import json, sys, time
import monarch_like as ml
base, secs, rate = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
with ml.Experiment("live", "l", base_dir=base, redirect_console=False) as exp:
    exp.log_metrics({"loss": 0.0, "at": time.time()}, 0)
    exp.flush().wait()
    print("ready", flush=True)
    sys.stdin.readline()
    start, step = time.monotonic(), 1
    while time.monotonic() - start < secs:
        due = int((time.monotonic() - start) * rate)
        while step <= due:
            exp.log_metrics({"loss": 1 / step, "at": time.time()}, step)
            step += 1
        time.sleep(0.001)
    print(step, flush=True)
"""


CROWD = """
import selectors, socket, sys
port, path, n = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
links = selectors.DefaultSelector()
for _ in range(n):
    link = socket.create_connection(("127.0.0.1", port))
    link.sendall(f"GET {path} HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\n\\r\\n".encode())
    links.register(link, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in links.select():
        if not key.fileobj.recv(1 << 20):
            sys.exit("a stream ended")
"""
"""Clients that read and do nothing, in a process of their own: they must not slow who measures."""


def say(text: str) -> None:
    """To the terminal, beside the table."""
    sys.stderr.write(text + "\n")


def milliseconds(times: list[float]) -> str:
    """The median, and between what the others lie."""
    least, middle, most = min(times) * 1e3, statistics.median(times) * 1e3, max(times) * 1e3
    return f"{middle:,.1f} ms" + (f" ({least:,.1f} to {most:,.1f})" if len(times) > 1 else "")


class Listener(threading.Thread):
    """Follows a run, and notes how old each value is when its event is here."""

    def __init__(self, port: int, path: str) -> None:
        super().__init__(daemon=True)
        self.port, self.path = port, path
        self.ages: list[float] = []
        self.bytes = 0
        self.over = False

    def run(self) -> None:
        """Until it is told that it is over."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        link.request("GET", self.path)
        answer = link.getresponse()
        name = data = b""
        while not self.over:
            line = answer.readline()
            now = time.time()
            if not line:
                return
            self.bytes += len(line)
            if line.startswith(b"event:"):
                name = line[6:].strip()
            elif line.startswith(b"data:"):
                data = line[5:]
            elif not line.strip():
                if name == b"metrics":
                    for series in json.loads(data)["series"]:
                        if series["key"] == "at":
                            self.ages += [now - at for at in series["values"]]
                name = data = b""


class Bench:
    """Measures in a folder of its own."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.rows: list[tuple[str, str, str, str]] = []

    def tell(self, *row: str) -> None:
        """One line of the table, and of the terminal."""
        what, who, figure, note = row
        self.rows.append((what, who, figure, note))
        say(f"{what:<34} {who:<16} {figure:<34} {note}")

    def viewers(self) -> list[Viewer]:
        """Those that are installed."""

        def python(name: str) -> str:
            return str(self.args.venvs / name / "bin/python")

        found: list[Viewer] = [Mesh(python("expman-mesh")), TensorBoard(python("tensorboard"))]
        found.append(Trackio(python("trackio")))
        if self.args.exp:
            found.append(ExpmanRs(python("expman-rs"), str(self.args.exp)))
        wanted = [v for v in found if self.args.only is None or self.args.only in v.name]
        return [v for v in wanted if Path(v.python).exists()]

    def asked(self, viewer: Viewer, base: Path, what: str, kind: str, n: int) -> None:
        """First of a server that has just started, then again."""
        first, again, size, rss = [], [], 0, 0
        if isinstance(viewer, TensorBoard):
            viewer.expected = n
        for _ in range(self.args.rounds):
            viewer.start(base)
            try:
                ask = viewer.list_question if kind == "runs" else viewer.chart_question
                answer = viewer.ask(ask())
                if kind == "runs" and viewer.runs_in(answer.body) != n:
                    raise Failed(f"{viewer.name} lists {viewer.runs_in(answer.body)} of {n} runs")
                if kind == "points" and not viewer.has_points(answer.body):
                    raise Failed(f"{viewer.name} shows nothing: {answer.body[:100]!r}")
                first.append(answer.secs)
                again += [viewer.ask(ask()).secs for _ in range(5)]
                size, rss = answer.size, viewer.rss_bytes()
            finally:
                viewer.stop()
        note = f"{size / 1e3:,.0f} kB sent, {rss / 1e6:,.0f} MB resident"
        note += f"; {viewer.note}" if viewer.note and kind == "points" else ""
        self.tell(f"{what}, first", viewer.name, milliseconds(first), note)
        self.tell(f"{what}, again", viewer.name, milliseconds(again), "")

    def still(self) -> None:
        """Runs that are over."""
        points = [*self.args.points, *([100_000_000] if self.args.all else [])]
        wanted = [("runs", n) for n in self.args.runs] + [("points", n) for n in points]
        for kind, n in wanted:
            name = f"list {n:,} runs" if kind == "runs" else f"chart of {n:,} points"
            most = OTHERS_RUNS_MAX if kind == "runs" else OTHERS_POINTS_MAX
            too_many = n > (10 * most if self.args.all else most)
            for viewer in self.viewers():
                if too_many and not isinstance(viewer, Mesh):
                    self.tell(name, viewer.name, "not measured", "writing them takes too long")
                    continue
                base = self.folder / f"{viewer.name.split()[0]}-{kind}-{n}"
                try:
                    begun = time.monotonic()
                    viewer.write(base, kind, n)
                    took = time.monotonic() - begun
                    say(f"  {viewer.name} wrote in {took:.1f} s")
                    self.asked(viewer, base, name, kind, n)
                    if kind == "runs":
                        self.idle(viewer, base, n)
                except (Failed, OSError, subprocess.SubprocessError) as e:
                    self.tell(name, viewer.name, "failed", " ".join(str(e).split())[-160:])

    def idle(self, viewer: Viewer, base: Path, n: int) -> None:
        """What a server costs that has listed its runs, and is asked nothing more."""
        viewer.start(base)
        try:
            viewer.ask(viewer.list_question())
            cpu, begun = viewer.cpu_secs(), time.monotonic()
            time.sleep(IDLE_SECS)
            cores = (viewer.cpu_secs() - cpu) / (time.monotonic() - begun)
        finally:
            viewer.stop()
        self.tell(f"{n:,} runs, nothing asked", viewer.name, f"{cores:.4f} cores", "")

    @staticmethod
    def crowd(port: int, path: str, n: int) -> subprocess.Popen[str] | None:
        """So many clients more."""
        if n == 0:
            return None
        command = [sys.executable, "-c", CROWD, str(port), path, str(n)]
        crowd = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert crowd.stdout is not None
        assert crowd.stdout.readline().strip() == "ready"
        return crowd

    def live(self) -> None:
        """Clients that follow a run of a thousand rows a second; only ours, and its own ages."""
        for viewer in self.viewers():
            if not isinstance(viewer, Mesh):
                continue
            for clients in self.args.clients:
                base = self.folder / f"live-{clients}"
                command = [viewer.python, "-c", LOGS, str(base), str(LIVE_SECS), str(RATE)]
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
                with subprocess.Popen(command, **pipes) as writer:
                    assert writer.stdin is not None
                    assert writer.stdout is not None
                    assert writer.stdout.readline().strip() == "ready"
                    viewer.start(base)
                    key = json.loads(viewer.ask(("/api/runs", None)).body)[0]["key"]
                    path = f"/api/runs/{key}/stream?topics=metrics,state"
                    listener = Listener(viewer.port, path)
                    listener.start()
                    crowd = self.crowd(viewer.port, path, clients - 1)
                    time.sleep(1)
                    cpu, begun = viewer.cpu_secs(), time.monotonic()
                    writer.stdin.write("go\n")
                    writer.stdin.flush()
                    time.sleep(LIVE_SECS)
                    cores = (viewer.cpu_secs() - cpu) / (time.monotonic() - begun)
                    rss = viewer.rss_bytes()
                    written = int(writer.stdout.readline())
                    time.sleep(1)
                    listener.over = True
                    ages = sorted(listener.ages)
                    stayed = crowd is None or crowd.poll() is None
                    if crowd is not None:
                        crowd.terminate()
                        crowd.wait()
                    viewer.stop()
                if not stayed:
                    raise Failed("the server ended a stream")
                if len(ages) < written * 0.99:
                    raise Failed(f"{len(ages)} of {written} rows came")
                name = f"{clients} clients, {RATE:,} rows/s"
                rate = listener.bytes / LIVE_SECS / 1e3
                note = f"{rss / 1e6:,.0f} MB resident, {rate:,.0f} kB/s to each"
                self.tell(name, viewer.name, f"{cores:.2f} cores", note)
                p50, p99 = ages[len(ages) // 2], ages[len(ages) * 99 // 100]
                figure = f"p50 {p50 * 1e3:,.0f} ms, p99 {p99 * 1e3:,.0f} ms"
                self.tell(
                    f"log to event, {clients} clients", viewer.name, figure, f"{len(ages):,} rows"
                )


def main() -> None:
    """Measures and tells."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("venvs", type=Path)
    parser.add_argument("--exp", type=Path)
    parser.add_argument("--runs", type=int, nargs="*", default=[1_000, 10_000])
    parser.add_argument("--points", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 50, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only")
    parser.add_argument("--all", action="store_true", help="also what takes hours to write")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        bench.still()
        bench.live()
    head = "| what | server | figure | |\n|---|---|---:|---|\n"
    table = head + "".join(f"| {' | '.join(row)} |\n" for row in bench.rows)
    if args.output:
        when = time.strftime("%Y-%m-%d")
        machine = f"{platform.machine()}, {platform.system()} {platform.release().split('-')[0]}"
        args.output.write_text(HEAD.format(when=when, machine=machine, rounds=args.rounds) + table)
    else:
        sys.stdout.write(table)


if __name__ == "__main__":
    main()
