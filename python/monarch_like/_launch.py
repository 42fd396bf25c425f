"""Rank discovery: who am I in this launch, and which launch is it.

`discover` looks at the environment the way each launcher leaves it and answers with a
`Launch`. Its `key` is what joins the ranks of one launch into one run, so it obeys two rules:

* every rank of a launch computes the same key, whichever starts first or late;
* two launches never share one, even when the launcher gives both the same name. Plain
  `torchrun` calls every job `none`, so on one host the key also holds the launcher's own
  process: its pid *and* its start time, since pids come back.

Nothing here imports a launcher or opens a socket.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Callable, Final

__all__ = ["Host", "Launch", "discover"]


class Launch:
    """One process's place in one launch; it never changes.

    Attributes:
        rank: this process's rank, or None when the run's owner has to hand one out
            (a child that was given only the handle or the group).
        world_size: how many ranks the launch has, or None when nobody said.
        local_rank: the rank among the ranks of this host, when the launcher says it.
        launcher: torchrun, ray, openmpi, pmi, slurm, env, handle, explicit or single.
        key: the same text in every rank of the launch and in no other launch;
            None when this process is alone and so has a run to itself.
        host_local: True when the key names a process of this host, so that ranks on
            another host could not compute it.
    """

    # No dataclass: importing what makes those takes longer than the start of an owner.
    __slots__ = ("host_local", "key", "launcher", "local_rank", "rank", "world_size")

    rank: int | None
    world_size: int | None
    local_rank: int | None
    launcher: str
    key: str | None
    host_local: bool

    def __init__(
        self,
        rank: int | None,
        world_size: int | None,
        local_rank: int | None,
        launcher: str,
        key: str | None,
        host_local: bool,
    ) -> None:
        fields = (rank, world_size, local_rank, launcher, key, host_local)
        for name, value in zip(_FIELDS, fields):
            object.__setattr__(self, name, value)

    def but(self, **changes: object) -> Launch:
        """The same with other values in some fields."""
        return Launch(**{**self._fields(), **changes})  # type: ignore[arg-type]

    def _fields(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in _FIELDS}

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Launch) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(tuple(self._fields().values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._fields().items())
        return f"Launch({fields})"


_FIELDS: Final = ("rank", "world_size", "local_rank", "launcher", "key", "host_local")

ALONE: Final = Launch(0, 1, None, "single", None, False)

ANCESTORS_MAX: Final = 64
"""How far up the process tree the launcher is looked for, in processes."""

SLURM_STEP_ID_MAX: Final = 0xFFFF_FFF0
"""SLURM step ids from here on are no launches: batch script, interactive shell, extern."""


class Host:
    """What discovery asks the operating system. Tests pass one that makes it up."""

    pid: int
    name: str

    def __init__(self) -> None:
        self.pid = os.getpid()
        # What `socket.gethostname` says, without `socket`.
        node = os.uname().nodename
        self.name = f"{node}/{_read_text('/proc/sys/kernel/random/boot_id').strip()}"

    def parent(self, pid: int) -> int:
        """The pid of `pid`'s parent; 0 when it can't be told."""
        fields = self._stat(pid)
        if fields:
            return int(fields[1])
        return os.getppid() if pid == self.pid else 0

    def started(self, pid: int) -> str:
        """When `pid` started, in clock ticks since boot; empty when it can't be told."""
        fields = self._stat(pid)
        return fields[19] if fields else ""

    def environ(self, pid: int) -> dict[str, str]:
        """The environment `pid` was started with; empty when it may not be read."""
        pairs = _read_text(f"/proc/{pid}/environ").split("\0")
        return {name: value for name, _, value in (pair.partition("=") for pair in pairs) if name}

    @staticmethod
    def _stat(pid: int) -> list[str]:
        # The command, field 2, is in brackets and may itself hold spaces and brackets.
        return _read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()


class _Env:
    """An environment whose empty variables count as unset and whose numbers are checked."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def has(self, *names: str) -> bool:
        return all(self.text(name) is not None for name in names)

    def text(self, name: str) -> str | None:
        return self._variables.get(name, "").strip() or None

    def settings(self, *names: str) -> list[str]:
        """`NAME=value` of those that are set."""
        return [f"{name}={self.text(name)}" for name in names if self.has(name)]

    def count(self, name: str) -> int | None:
        """A whole number from 0 on.

        Raises:
            ValueError: it is something else; the message names the variable and its value.
        """
        value = self.text(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit()):
            raise ValueError(f"environment variable {name}={value!r} is not a whole number")
        return int(value)


# --- the launchers, one function each -------------------------------------------------------


def _from_handle(env: _Env, host: Host) -> Launch | None:
    """A child whose parent has a run and passed it on by `exp.handle()` or the environment."""
    token = env.text("EXPMAN_HANDLE")
    if token is None or env.count("EXPMAN_HANDLE_PID") == host.pid:
        return None  # or the variable is the one this very process left for its children
    return Launch(env.count("EXPMAN_RANK"), None, None, "handle", token, False)


def _from_torchrun(env: _Env, host: Host) -> Launch | None:
    """PyTorch's torchrun: an agent on each node, the workers its children."""
    if not env.has("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE"):
        return None
    names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
    if env.count("LOCAL_WORLD_SIZE") == env.count("WORLD_SIZE"):
        # The agent is the identity. The master's port is left out: the agent may take a new one
        # when it restarts its workers, and they come back to the same run.
        key = _key("torchrun", env.settings("TORCHELASTIC_RUN_ID"), _outside(env, host, names))
        local = True
    else:
        key = _key("torchrun", env.settings(*names, "SLURM_JOB_ID"))
        local = False
    return _launch(env, "torchrun", ("RANK", "WORLD_SIZE", "LOCAL_RANK"), key, local)


def _from_ray(env: _Env, host: Host) -> Launch | None:
    """Ray: only Ray Train numbers its workers; any other task or actor is alone."""
    if not env.has("RAY_JOB_ID"):
        return None
    if not env.has("RANK", "WORLD_SIZE"):
        return ALONE
    key = _key("ray", env.settings("RAY_JOB_ID", "RAY_ADDRESS", "MASTER_ADDR", "MASTER_PORT"))
    return _launch(env, "ray", ("RANK", "WORLD_SIZE", "LOCAL_RANK"), key, False)


def _from_openmpi(env: _Env, host: Host) -> Launch | None:
    """Open MPI's mpirun. Its job ids are hashes of host and pid, so they do come back."""
    if not env.has("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"):
        return None
    names = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_ess_jobid")
    local = env.count("OMPI_COMM_WORLD_LOCAL_SIZE") == env.count("OMPI_COMM_WORLD_SIZE")
    launcher = _outside(env, host, names) if local or not env.settings(*names) else []
    key = _key("openmpi", env.settings(*names, *_SLURM_STEP), launcher)
    where = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
    return _launch(env, "openmpi", where, key, bool(launcher))


def _from_pmi(env: _Env, host: Host) -> Launch | None:
    """MPICH, Intel MPI, Cray: hydra gives no job id, but one proxy per host starts the ranks."""
    if not env.has("PMI_RANK", "PMI_SIZE"):
        return None
    ids = env.settings("PMI_JOBID", "PALS_APID", *_SLURM_STEP)
    local = env.count("MPI_LOCALNRANKS") == env.count("PMI_SIZE")
    launcher = _outside(env, host, ("PMI_SIZE", "MPI_LOCALNRANKS")) if local or not ids else []
    key = _key("pmi", ids, launcher)
    where = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID")
    return _launch(env, "pmi", where, key, bool(launcher))


def _from_slurm(env: _Env, host: Host) -> Launch | None:
    """SLURM's srun. A batch script, `srun --pty` and salloc's shell are no launches."""
    if not env.has("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID") or env.has("SLURM_PTY_PORT"):
        return None
    if (env.count("SLURM_STEP_ID") or 0) >= SLURM_STEP_ID_MAX:
        return None
    size = "SLURM_STEP_NUM_TASKS" if env.has("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"
    if env.has("RANK", "WORLD_SIZE") and env.count("WORLD_SIZE") != env.count(size):
        return None  # something inside the task starts ranks of its own
    key = _key("slurm", env.settings(*_SLURM_STEP))
    return _launch(env, "slurm", ("SLURM_PROCID", size, "SLURM_LOCALID"), key, False)


def _from_variables(env: _Env, host: Host) -> Launch | None:
    """RANK and WORLD_SIZE, as mp.spawn scripts, Accelerate, DeepSpeed and operators set them."""
    if not env.has("RANK", "WORLD_SIZE"):
        return None
    names = ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    key, local = None, False
    if env.count("WORLD_SIZE") != 1:
        address = env.text("MASTER_ADDR")
        local = address in (None, "localhost", "127.0.0.1", "::1") or (
            env.count("LOCAL_WORLD_SIZE") == env.count("WORLD_SIZE")
        )
        launcher = _outside(env, host, names) if local else []
        key = _key("env", env.settings(*names, *_SLURM_STEP), launcher)
    return _launch(env, "env", ("RANK", "WORLD_SIZE", "LOCAL_RANK"), key, local)


_SLURM_STEP: Final = ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID")

_DETECTORS: Final[tuple[Callable[[_Env, Host], Launch | None], ...]] = (
    # The innermost launcher first: torchrun and mpirun are often started by srun.
    _from_handle,
    _from_torchrun,
    _from_ray,
    _from_openmpi,
    _from_pmi,
    _from_slurm,
    _from_variables,
)


# --- what they are made of ------------------------------------------------------------------


def _launch(
    env: _Env, launcher: str, names: tuple[str, str, str], key: str | None, local: bool
) -> Launch:
    """The launch whose rank, world size and local rank stand in the variables `names`."""
    rank, size, local_rank = map(env.count, names)
    if rank is not None and size is not None and rank >= size:
        raise ValueError(f"environment variable {names[0]}={rank} is not below {names[1]}={size}")
    return Launch(rank, size, local_rank, launcher, key, local)


def _key(launcher: str, *parts: Iterable[str]) -> str:
    """One text out of many, such that different lists never give the same text."""
    import json

    return json.dumps([launcher, *(part for group in parts for part in group)])


def _outside(env: _Env, host: Host, names: Iterable[str]) -> list[str]:
    """The nearest ancestor outside the launch: the launcher, seen alike by all its ranks.

    A rank's parent need not be the launcher: a shell script may stand between them, or the
    rank itself when a helper process of it asks. Those carry the launch's variables; the
    launcher, which made them up, does not.
    """
    own = {name: env.text(name) for name in names}
    pid = host.parent(host.pid)
    for _ in range(ANCESTORS_MAX):
        theirs = _Env(host.environ(pid))
        inside = any(own.values()) and all(theirs.text(n) == value for n, value in own.items())
        if pid <= 1 or not inside:
            break
        pid = host.parent(pid)
    return [host.name, str(pid), host.started(pid)]


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""  # no /proc here, no such process any more, or another user's


def _check_count(name: str, value: object, lowest: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ValueError(f"{name}={value!r} is not a whole number from {lowest} on")


def _check_name(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise ValueError(f"{name}={value!r} is not a name")


def discover(
    env: Mapping[str, str] = os.environ,
    *,
    rank: int | None = None,
    world_size: int | None = None,
    group: str | None = None,
    host: Host | None = None,
) -> Launch:
    """Finds this process's place from its environment; what the caller says wins.

    Args:
        env: the environment to read.
        rank: this process's rank.
        world_size: how many ranks there are.
        group: a name shared by the ranks that belong together; it becomes the key.
        host: where to ask about processes.

    Raises:
        ValueError: an argument or a launcher's variable makes no sense; named in the message.

    Example:
        >>> discover({}, rank=1, world_size=2, group="nightly-7").launcher
        'explicit'
    """
    _check_count("rank", rank, 0)
    _check_count("world_size", world_size, 1)
    _check_name("group", group)
    variables, host = _Env(env), host or Host()

    told = None not in (rank, world_size, group)  # then nothing in the environment matters
    detectors = () if told else _DETECTORS
    found = next(filter(None, (detect(variables, host) for detect in detectors)), ALONE)
    if found is ALONE and (rank, world_size, group) != (None, None, None):
        found = Launch(None, None, None, "explicit", None, False)
    if group is not None:
        found = found.but(launcher="explicit", key=_key("group", [group]), host_local=False)
    elif found.key is None and (world_size or 1) > 1:
        key = _key("explicit", _outside(variables, host, ()))
        found = found.but(launcher="explicit", key=key, host_local=True)

    unknown = None if found.key else 0
    rank = next((n for n in (rank, found.rank, unknown) if n is not None), None)
    world_size = found.world_size if world_size is None else world_size
    if rank is not None and world_size is not None and rank >= world_size:
        raise ValueError(f"rank={rank} is not below world_size={world_size}")
    return found.but(rank=rank, world_size=world_size)
