"""The interface of `torch.distributed.elastic.multiprocessing` that torchrun's plug-ins for logs
have to do with, from torch 2.3 to 2.9, in the place of torch, which is too large for a test.

Names, arguments, fields and what is called when are those of torch; the rest is made for the tests.
"""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import IntFlag
from pathlib import Path


class Std(IntFlag):
    NONE = 0
    OUT = 1
    ERR = 2
    ALL = 3


@dataclass
class LogsDest:
    """Paths by local rank; an empty one is the launcher's own stream."""

    stdouts: dict[int, str] = field(default_factory=dict)
    stderrs: dict[int, str] = field(default_factory=dict)
    tee_stdouts: dict[int, str] = field(default_factory=dict)
    tee_stderrs: dict[int, str] = field(default_factory=dict)
    error_files: dict[int, str] = field(default_factory=dict)


class LogsSpecs(ABC):
    def __init__(
        self,
        log_dir: str | None = None,
        redirects: Std | dict[int, Std] = Std.NONE,
        tee: Std | dict[int, Std] = Std.NONE,
        local_ranks_filter: set[int] | None = None,
    ) -> None:
        self._root_log_dir = log_dir
        self._redirects = redirects
        self._tee = tee
        self._local_ranks_filter = local_ranks_filter

    @abstractmethod
    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest: ...

    @property
    @abstractmethod
    def root_log_dir(self) -> str: ...


class DefaultLogsSpecs(LogsSpecs):
    """Folders by attempt and local rank below one of its own in `log_dir`, which is made."""

    def __init__(
        self,
        log_dir: str | None = None,
        redirects: Std | dict[int, Std] = Std.NONE,
        tee: Std | dict[int, Std] = Std.NONE,
        local_ranks_filter: set[int] | None = None,
    ) -> None:
        if log_dir != os.devnull:
            log_dir = log_dir or tempfile.mkdtemp(prefix="torchelastic_")
            os.makedirs(log_dir, exist_ok=True)
        super().__init__(log_dir, redirects, tee, local_ranks_filter)
        self._run_log_dir: str | None = None

    @property
    def root_log_dir(self) -> str:
        return str(self._root_log_dir)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        dest = LogsDest()
        wants = {rank: self._of(self._redirects, rank) for rank in envs}
        tees = {rank: self._of(self._tee, rank) for rank in envs}
        for rank, env in envs.items():
            dest.stdouts[rank] = dest.stderrs[rank] = ""
            if self._root_log_dir == os.devnull:
                dest.tee_stdouts[rank] = dest.tee_stderrs[rank] = os.devnull
                dest.error_files[rank] = os.devnull
                env["TORCHELASTIC_ERROR_FILE"] = ""
                continue
            folder = self._folder(env) / str(rank)
            folder.mkdir(parents=True)
            dest.error_files[rank] = env["TORCHELASTIC_ERROR_FILE"] = str(folder / "error.json")
            is_shown = not self._local_ranks_filter or rank in self._local_ranks_filter
            for name, std in (("stdout", Std.OUT), ("stderr", Std.ERR)):
                paths, teed = getattr(dest, f"{name}s"), getattr(dest, f"tee_{name}s")
                if (wants[rank] | tees[rank]) & std:
                    paths[rank] = str(folder / f"{name}.log")
                    if tees[rank] & std and is_shown:
                        teed[rank] = paths[rank]
                elif not is_shown:
                    paths[rank] = os.devnull
        return dest

    def _folder(self, env: dict[str, str]) -> Path:
        if self._run_log_dir is None:
            prefix = f"{env['TORCHELASTIC_RUN_ID']}_"
            self._run_log_dir = tempfile.mkdtemp(prefix=prefix, dir=self._root_log_dir)
        return Path(self._run_log_dir) / f"attempt_{env['TORCHELASTIC_RESTART_COUNT']}"

    @staticmethod
    def _of(given: Std | dict[int, Std], rank: int) -> Std:
        return given.get(rank, Std.NONE) if isinstance(given, dict) else given
