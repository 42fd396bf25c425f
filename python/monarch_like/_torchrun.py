"""`torchrun --logs-specs monarch_like train.py`: each worker's output in a run, without its doing.

torchrun finds this by the entry point group `torchrun.logs_specs`; nothing else imports it, since
it needs torch. The launcher's process joins the run once for each of its workers, so a line
carries the rank of who wrote it; it is shown as before. A worker that logs by itself joins the
same run, as a further incarnation of its rank, and leaves its output to the launcher.

The experiment is named by the variable `EXPMAN_EXPERIMENT`, or after the script; it is kept in
`EXPMAN_DIR`, or `experiments`.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, LogsDest, Std

from ._core import ExpmanError
from ._launch import Host
from ._workers import End, Workers

_ENDS_BY_SIGNAL = {"SIGTERM": "preempted", "SIGINT": "interrupted"}


class RunLogs(DefaultLogsSpecs):  # type: ignore[misc]
    """Where workers' output goes: as torchrun has it by default, and into a run.

    Args:
        log_dir: where torchrun keeps what it was asked to write to files.
        redirects: streams that are written to files instead of being shown.
        tee: streams that are written to files and shown.
        local_ranks_filter: ranks of this host that are shown; all are captured.
        **more: what later versions of torchrun add.
    """

    def __init__(
        self,
        log_dir: str | None = None,
        redirects: Any = Std.NONE,
        tee: Any = Std.NONE,
        local_ranks_filter: set[int] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(log_dir, redirects, tee, local_ranks_filter, **more)
        self._workers: Workers | None = None

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """The files of each worker; called when a group of workers is about to be started."""
        dest = super().reify(envs)
        try:
            self._capture(envs, dest)
        except (ExpmanError, OSError, ValueError, KeyError) as error:
            # A launch is worth more than its log.
            print(f"monarch_like: output is not captured: {error}", file=sys.stderr)  # noqa: T201
        return dest

    def _capture(self, envs: dict[int, dict[str, str]], dest: LogsDest) -> None:
        workers = self._workers
        if workers is None:
            workers = self._workers = _workers(self.root_log_dir, next(iter(envs.values()), {}))
            atexit.register(_end, workers)
        workers.settle()
        joined = {}
        for local_rank, env in envs.items():
            is_here = env.get("GROUP_WORLD_SIZE", "1") == "1"  # else others have their own run
            size = int(env["WORLD_SIZE"]) if is_here else None
            joined[local_rank] = workers.join(int(env["RANK"]), size)
        for local_rank, env in envs.items():
            rank, attempt = int(env["RANK"]), env.get("TORCHELASTIC_RESTART_COUNT", "0")
            for stream, files, number in (("out", dest.stdouts, 1), ("err", dest.stderrs, 2)):
                path, show = files[local_rank], None
                if path in ("", os.devnull):
                    show = number if path == "" else None
                    path = workers.scratch(attempt, rank, stream)
                workers.follow(rank, stream, path, show)
                files[local_rank] = path
            env.update(joined[local_rank])


def _workers(log_dir: str, env: dict[str, str]) -> Workers:
    host = Host()
    launch = ["torchrun", env.get("TORCHELASTIC_RUN_ID"), host.name, host.pid]
    key = json.dumps([*launch, host.started(host.pid), len(_made)])
    base_dir = os.environ.get("EXPMAN_DIR") or "experiments"
    scratch = log_dir if os.path.isdir(log_dir) else None
    workers = Workers(_experiment(), base_dir, key, "torchrun", scratch)
    _made.append(workers)
    return workers


_made: list[Workers] = []


def _experiment() -> str:
    """The experiment that was named, or the script's name."""
    named = os.environ.get("EXPMAN_EXPERIMENT")
    if named:
        return named
    scripts = (Path(argument).stem for argument in sys.argv[1:] if argument.endswith(".py"))
    return next(scripts, "torchrun")


def _end(workers: Workers) -> None:
    """At the end of the launcher, which knows what became of its workers."""
    error = getattr(sys, "last_value", None)
    failures = getattr(error, "failures", None)
    if isinstance(failures, dict) and failures:
        workers.end(_ends(failures), "cancelled")
    elif error is None:
        workers.end({}, "finished")
    else:
        told = getattr(getattr(error, "sigval", None), "name", "")
        workers.end({}, _ENDS_BY_SIGNAL.get(told, "cancelled"))


def _ends(failures: dict[int, Any]) -> dict[int, End]:
    """By rank, from what torchrun says of those that failed, and of those it ended for it."""
    codes = {rank: getattr(failure, "exitcode", None) for rank, failure in failures.items()}
    is_told = any(code != -signal.SIGTERM for code in codes.values())
    ends = {}
    for rank, code in codes.items():
        if code == -signal.SIGTERM and is_told:
            ends[rank] = End("cancelled")
        elif isinstance(code, int) and code < 0:
            ends[rank] = End("crashed", f"the worker was ended by signal {-code}")
        else:
            ends[rank] = _failed(code, failures[rank])
    return ends


def _failed(code: object, failure: Any) -> End:
    """Why a worker failed: what torch's `record` left in its error file, where it is used."""
    message = getattr(failure, "message", None)
    if not os.path.isfile(str(getattr(failure, "error_file", ""))):
        message = None  # then the message only tells of that decorator
    if isinstance(message, dict):
        extra = message.get("extraInfo")
        trace = extra.get("py_callstack") if isinstance(extra, dict) else None
        return End("failed", str(message.get("message")), str(trace or ""))
    return End("failed", str(message) if message else f"exit code {code}")
