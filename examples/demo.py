"""What `just demo` runs: four ranks train, the page shows them, and a table sums it up.

    python examples/demo.py [--base-dir experiments] [--ranks 4] [--epochs 60]

With a terminal the page stays up until Ctrl-C; without one, or with CI set, this ends by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

HERE = Path(__file__).resolve().parent
SERVE_START_SECS = 15.0
STOP_SECS = 10.0
INSPECT_SECS = 30.0

LISTENING = re.compile(r"listening on (http://\S+)")
PROGRESS = re.compile(
    r"\[0\] epoch (?P<epoch>\d+)/(?P<epochs>\d+) step (?P<step>\d+) loss (?P<loss>\S+) "
    r"accuracy (?P<accuracy>\S+) held-out (?P<held>\S+)"
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Train on four ranks and watch the page.")
    parser.add_argument("--base-dir", type=Path, default=Path("experiments"))
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()

    need("numpy", "sklearn", "monarch_like")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda n, _frame: sys.exit(128 + n))
    stays = sys.stdout.isatty() and not os.environ.get("CI")
    base: Path = args.base_dir.resolve()
    base.mkdir(parents=True, exist_ok=True)

    try:
        with serving(base) as url:
            print(f"page: {url}  (live while it trains)", flush=True)
            run_dir, flush_report = training(base, args.ranks, args.epochs)
            summary(url, run_dir, flush_report)
            if stays:
                print("\nThe page stays up; Ctrl-C ends it.", flush=True)
                signal.pause()
    except KeyboardInterrupt:
        print("\nstopped")
        return 0 if stays else 130
    return 0


def need(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        fail(f"missing: {', '.join(missing)}", "run `just demo`, which installs what it needs")


def fail(what: str, hint: str | None = None) -> NoReturn:
    print(f"demo: {what}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    sys.exit(1)


# --- the children -----------------------------------------------------------------------------


def expman() -> str:
    """The command of this Python's installation, else the one on the path."""
    beside = Path(sys.executable).with_name("expman")
    found = str(beside) if beside.exists() else shutil.which("expman")
    return found or fail("no `expman` command", "run `just demo`, which installs it")


@contextlib.contextmanager
def child(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own, stopped with all it started however this is left."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECS)
        out(process).close()


def out(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


@contextlib.contextmanager
def serving(base: Path) -> Iterator[str]:
    with child(expman(), "serve", str(base), "--port", "0") as server:
        ready, _, _ = select.select([out(server)], [], [], SERVE_START_SECS)
        first = out(server).readline() if ready else ""
        match = LISTENING.search(first)
        if match is None:
            fail(f"`expman serve` did not say where it listens, but: {first.strip()!r}")
        yield match.group(1)


def training(base: Path, ranks: int, epochs: int) -> tuple[Path, str]:
    """Trains; the run's folder, and what the last flush reported."""
    command = [sys.executable, str(HERE / "digits_ddp.py"), "--base-dir", str(base)]
    command += ["--ranks", str(ranks), "--epochs", str(epochs)]
    began = time.monotonic()
    run_dir, report = None, "none"
    print(f"starting {ranks} ranks", flush=True)
    with child(*command) as trainer:
        for line in out(trainer):
            if line.startswith("run: "):
                run_dir = Path(line[5:].strip())
            elif line.startswith("flush: "):
                report = line[7:].strip()
            elif match := PROGRESS.match(line):
                show_progress(match, time.monotonic() - began)
        code = trainer.wait(STOP_SECS)
    if code != 0 or run_dir is None:
        fail(f"training ended with exit code {code}")
    return run_dir, report


def show_progress(match: re.Match[str], elapsed_secs: float) -> None:
    epoch, epochs = int(match["epoch"]), int(match["epochs"])
    filled = 24 * epoch // epochs
    line = (
        f"[{'#' * filled}{'.' * (24 - filled)}] step {match['step']:>4}  loss {match['loss']}  "
        f"accuracy {match['accuracy']}  held-out {match['held']}  {elapsed_secs:4.0f} s"
    )
    if sys.stdout.isatty():
        print(f"\r{line}", end="\n" if epoch == epochs else "", flush=True)
    elif epoch == epochs or epoch % 5 == 0:
        print(line, flush=True)


# --- the summary ------------------------------------------------------------------------------


def summary(url: str, run_dir: Path, flush_report: str) -> None:
    found = subprocess.run(
        [expman(), "inspect", str(run_dir), "--json"],
        stdout=subprocess.PIPE,
        check=True,
        timeout=INSPECT_SECS,
    )
    run = json.loads(found.stdout)["meta"]
    key = key_of(url, run_dir)
    step_times = mean_by_rank(url, key, "step_time_ms") if key else {}

    print(f"\nrun:        {run_dir}  ({run['status']})")
    print(f"last flush: {flush_report}")
    print(f"\n{'rank':>4}  {'state':<6}  {'last step':>9}  {'rows durable':>12}  {'ms/step':>8}")
    for rank, incarnations in sorted(run["ranks"].items(), key=lambda item: int(item[0])):
        now = incarnations[-1]
        mean = step_times.get(int(rank))
        print(
            f"{rank:>4}  {now['state']:<6}  {now['last_step']:>9}  {now['rows']:>12}  "
            f"{'-' if mean is None else format(mean, '.1f'):>8}"
        )
    print(f"\npage:       {url}" + (f"/#/run/{key}" if key else ""))


def ask(url: str, path: str, **query: str) -> Any:
    where = f"{url}/api/{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    with urllib.request.urlopen(where, timeout=INSPECT_SECS) as answer:
        return json.load(answer)


def key_of(url: str, run_dir: Path) -> str | None:
    """The page's name for the run."""
    runs = ask(url, "runs", experiment=run_dir.parent.name)
    return next((str(run["key"]) for run in runs if run["name"] == run_dir.name), None)


def mean_by_rank(url: str, key: str, metric: str) -> dict[int, float]:
    series = ask(url, f"runs/{key}/metrics", keys=metric)["series"]
    return {int(s["rank"]): sum(s["values"]) / len(s["values"]) for s in series if s["values"]}


if __name__ == "__main__":
    sys.exit(main())
