"""What `torchrun` does, in the place of torch: loads the plug-in, starts workers, watches them.

usage: torchrun_standin.py WORKERS RESTARTS OPTIONS SCRIPT [ARGUMENT …]; OPTIONS is JSON of what
torchrun passes to the plug-in.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from torch.distributed.elastic.multiprocessing import Std


@dataclass
class ProcessFailure:
    local_rank: int
    pid: int
    exitcode: int
    error_file: str
    message: Any = "To enable traceback see: …"

    def __post_init__(self) -> None:
        if os.path.isfile(self.error_file):
            with open(self.error_file, encoding="utf-8") as file:
                self.message = json.load(file)["message"]
        else:
            self.error_file = "<N/A>"


class ChildFailedError(Exception):
    def __init__(self, name: str, failures: dict[int, ProcessFailure]) -> None:
        super().__init__(f"{name} FAILED")
        self.failures = failures


class SignalException(Exception):
    def __init__(self, message: str, sigval: signal.Signals) -> None:
        super().__init__(message)
        self.sigval = sigval


def stop(number: int, frame: Any) -> None:
    raise SignalException(f"Process {os.getpid()} got signal: {number}", signal.Signals(number))


def environments(workers: int, restart: int, restarts: int) -> dict[int, dict[str, str]]:
    common = {
        "GROUP_RANK": "0",
        "ROLE_NAME": "default",
        "LOCAL_WORLD_SIZE": str(workers),
        "WORLD_SIZE": str(workers),
        "GROUP_WORLD_SIZE": "1",
        "ROLE_WORLD_SIZE": str(workers),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_RESTART_COUNT": str(restart),
        "TORCHELASTIC_MAX_RESTARTS": str(restarts),
        "TORCHELASTIC_RUN_ID": "none",
    }
    ranks = {rank: {"LOCAL_RANK": str(rank), "RANK": str(rank)} for rank in range(workers)}
    return {rank: {**own, "ROLE_RANK": str(rank), **common} for rank, own in ranks.items()}


def run(specs: Any, envs: dict[int, dict[str, str]], command: list[str]) -> dict[int, Any]:
    """Starts a group of workers and waits until all have finished or one has failed."""
    dest = specs.reify(envs)
    assert set(dest.stdouts) == set(dest.stderrs) == set(envs)
    workers: dict[int, subprocess.Popen[bytes]] = {}
    opened = []

    def target(path: str) -> Any:
        if not path:
            return None
        opened.append(open(path, "w"))  # noqa: SIM115
        return opened[-1]

    try:
        for rank, env in envs.items():
            workers[rank] = subprocess.Popen(
                command,
                env={**os.environ, **env},
                stdout=target(dest.stdouts[rank]),
                stderr=target(dest.stderrs[rank]),
                start_new_session=True,
            )
        while all(worker.poll() in (None, 0) for worker in workers.values()):
            if all(worker.poll() == 0 for worker in workers.values()):
                return {}
            time.sleep(0.01)
        # Those that are ended for the failure of another one are told of as failed, too.
        stop_all(workers)
        return {
            rank: ProcessFailure(rank, worker.pid, worker.returncode, dest.error_files[rank])
            for rank, worker in workers.items()
            if worker.returncode
        }
    finally:
        stop_all(workers)
        for file in opened:
            file.close()


def stop_all(workers: dict[int, subprocess.Popen[bytes]]) -> None:
    for worker in workers.values():
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGTERM)
    for worker in workers.values():
        worker.wait()


def main() -> None:
    workers, restarts = int(sys.argv[1]), int(sys.argv[2])
    options = json.loads(sys.argv[3])
    found = metadata.entry_points().select(group="torchrun.logs_specs")
    specs = found["monarch_like"].load()(
        log_dir=options.get("log_dir"),
        redirects=Std(options.get("redirects", 0)),
        tee=Std(options.get("tee", 0)),
        local_ranks_filter=set(options["filter"]) if "filter" in options else None,
    )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, stop)
    for restart in range(restarts + 1):
        envs = environments(workers, restart, restarts)
        failures = run(specs, envs, [sys.executable, "-u", *sys.argv[4:]])
        if not failures:
            return
    raise ChildFailedError(sys.argv[4], failures)


if __name__ == "__main__":
    main()
