"""What an experiment's options come to, checked, in the words of the core."""

from __future__ import annotations

import os
import sys

from . import _owner
from ._core import ConfigError
from ._later import importing
from ._launch import Launch, discover

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ._types import PathLike

CAPTURE_MODES = ("fd", "sys", "off")

CAPTURED_BY_LAUNCHER = "EXPMAN_CAPTURED"
"""Environment variable: the handle of the run into which a launcher captures this process."""

ENDS_IN = "EXPMAN_ENDS_IN"
"""Environment variable: the file into which such a process writes how it ended."""

_launches: dict[tuple[str, str], int] = {}
"""How many runs this process has opened by (experiment, launch key)."""


def core_options(
    *,
    name: str,
    run_name: str | None,
    base_dir: PathLike,
    rank: int | None,
    world_size: int | None,
    group: str | None,
    resume: bool,
    tags: Iterable[str],
    description: str | None,
    flush_interval_ms: float,
    on_full: str,
    block_timeout: float,
    timeout: float,
) -> dict[str, Any]:
    """The options of `CoreRun`, with this process's place in its launch.

    Raises:
        ConfigError: an option, or a variable of the launcher, makes no sense; it is named.
    """
    if on_full not in ("drop", "block"):
        raise ConfigError(f'on_full={on_full!r} is neither "drop" nor "block"')
    if not isinstance(name, str):
        raise ConfigError(f"name={name!r} is not a text")
    if not isinstance(base_dir, (str, os.PathLike)):
        raise ConfigError(f"base_dir={base_dir!r} is not a path")
    if isinstance(tags, str) or not _is_iterable(tags):
        raise ConfigError(f"tags={tags!r} is not a list of texts")
    try:
        with importing:
            launch = discover(rank=rank, world_size=world_size, group=group)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return {
        "experiment": name,
        "run_name": run_name,
        "base_dir": os.fspath(base_dir),
        "rank": launch.rank,
        "world_size": launch.world_size,
        "launch_key": _launch_key(name, launch),
        "launcher": launch.launcher,
        "handle": launch.key if launch.launcher == "handle" else None,
        "resume": resume,
        "flush_interval_ms": flush_interval_ms,
        "timeout": timeout,
        "block_secs": block_timeout if on_full == "block" else None,
        "tags": list(tags),
        "description": description,
        "env_path": sys.executable,
        "command": list(sys.orig_argv if sys.version_info >= (3, 10) else sys.argv),
        "owner_command": _owner.command(),
    }


def capture_mode(redirect_console: object, capture: object) -> str | None:
    """How output is captured, when it was said.

    Raises:
        ConfigError: an option is none, or they say different things.
    """
    if capture is not None and capture not in CAPTURE_MODES:
        raise ConfigError(f"capture={capture!r} is none of {', '.join(map(repr, CAPTURE_MODES))}")
    if redirect_console is None:
        return capture if isinstance(capture, str) else None
    if not isinstance(redirect_console, bool):
        raise ConfigError(f"redirect_console={redirect_console!r} is neither True nor False")
    meant = "fd" if redirect_console else "off"
    if capture not in (None, meant):
        raise ConfigError(
            f"redirect_console={redirect_console!r} means capture={meant!r}, "
            f"but capture={capture!r} was given, too"
        )
    return meant


def default_mode(handle: str | None) -> str:
    """How output is captured when nobody said it.

    Args:
        handle: by which a run is joined, if it is by one.
    """
    if handle is not None and handle == os.environ.get(CAPTURED_BY_LAUNCHER):
        return "off"  # the launcher reads it into the same run
    if sys.__stdout__ is None or sys.__stderr__ is None:
        return "sys"  # closed when the program began: those numbers may be any file by now
    for number in (1, 2):
        try:
            os.fstat(number)
        except OSError:
            return "sys"
    return "fd"


def tell_launcher(handle: str, status: str) -> None:
    """Says how this process ended to the launcher that captures it: it is there for longer."""
    told = os.environ.get(ENDS_IN)
    if told and handle == os.environ.get(CAPTURED_BY_LAUNCHER):
        try:
            with open(told, "w") as file:
                file.write(status)
        except OSError:
            return


def _is_iterable(thing: object) -> bool:
    if isinstance(thing, (tuple, list)):
        return True
    with importing:
        from collections.abc import Iterable

    return isinstance(thing, Iterable)


def _launch_key(name: str, launch: Launch) -> str | None:
    """The key, made different for each further run that this process opens in one launch."""
    if launch.key is None or launch.launcher in ("handle", "explicit"):
        return launch.key
    count = _launches.get((name, launch.key), 0)
    _launches[name, launch.key] = count + 1
    return launch.key if count == 0 else f"{launch.key}#{count + 1}"
