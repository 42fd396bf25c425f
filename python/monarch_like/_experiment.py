"""`Experiment`: this process's place in a run."""

from __future__ import annotations

# What every run needs is imported here, and no more: a program waits for it. What `threading` and
# `weakref` are made of is there already.
import os
import sys
import time
from _thread import RLock
from _weakref import ref

from . import _console, _hooks, _lifecycle, _notebook, _summary
from ._artifacts import Copies, target_name
from ._core import ArtifactError, ConfigError, CoreRun, ExpmanError, FlushError, write_console
from ._forwarding import Forwarding
from ._later import importing
from ._logs import LEVELS, Logs, here, level_number
from ._page import Shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from concurrent.futures import Future
    from pathlib import Path
    from types import TracebackType
    from typing import Any

    from ._report import FlushHandle
    from ._types import LevelLike, PathLike

_HANDLE = "EXPMAN_HANDLE"
_HANDLE_PID = "EXPMAN_HANDLE_PID"

_ENDS = ("finished", "failed", "cancelled", "interrupted", "preempted", "crashed")


class Experiment(Logs, Forwarding, Shown):
    """One run, joined by this process as one of its ranks.

    All processes of one launch join the same run; who they are is found from the launcher's
    environment (torchrun, SLURM, Open MPI, PMI, Ray, a parent's handle) unless it is said.

    Args:
        name: the experiment, a folder below `base_dir`.
        run_name: the run, a folder below the experiment; by default the local time at which
            its first rank came, `20260101_000000`.
        base_dir: where experiments are kept.
        rank: this process's rank, from 0.
        world_size: number of ranks of the launch.
        group: a name that the processes of one launch share.
        resume: join the run named `run_name` though another launch made it.
        params: parameters to log at once.
        tags: words to find the run by.
        description: a text for people.
        flush_interval_rows: kept for expman's sake; batches are cut by time and bytes.
        flush_interval_ms: milliseconds that records are gathered before they are sent, at most 20.
        capture: how output gets into console.log, which is still written as before: `"fd"`
            takes the descriptors 1 and 2, so that what children and libraries write is there too;
            `"sys"` takes `sys.stdout` and `sys.stderr`; `"off"` none. By default `"fd"`, or
            `"sys"` where a descriptor is closed, or `"off"` in a worker whose launcher captures it.
        redirect_console: `True` is `capture="fd"`, `False` is `capture="off"`.
        logging: the lowest level, a number or a name, from which everything that reaches the root
            logger of `logging` becomes a message of the run, as long as it is open. The root
            logger lets so much through meanwhile; with 0 it is left as it is. See `handler` for
            single loggers.
        on_full: `"drop"` counts what finds the queue full; `"block"` waits for room.
        block_timeout: seconds that `"block"` waits at most for each call.
        strict: raise on what is otherwise counted and warned about once.
        timeout: seconds that joining may take.

    Raises:
        ConfigError: a name or an option is not allowed.
        RunExistsError: the run belongs to another launch and `resume` is not set.
        StorageError: the folder can't be written.
        JoinError: the run's owner could not be started or reached.
    """

    _core: CoreRun | _Unjoined

    def __init__(
        self,
        name: str,
        run_name: str | None = None,
        base_dir: PathLike = "experiments",
        *,
        rank: int | None = None,
        world_size: int | None = None,
        group: str | None = None,
        resume: bool = False,
        params: Mapping[str, Any] | None = None,
        tags: Iterable[str] = (),
        description: str | None = None,
        flush_interval_rows: int = 512,
        flush_interval_ms: float = 20.0,
        redirect_console: bool | None = None,
        capture: str | None = None,
        logging: LevelLike | None = None,
        on_full: str = "drop",
        block_timeout: float = 10.0,
        strict: bool = False,
        timeout: float = 10.0,
    ) -> None:
        with importing:
            from ._options import capture_mode, core_options, default_mode

        log_level = None if logging is None else level_number("logging", logging)
        self._capture = capture_mode(redirect_console, capture)
        options = core_options(
            name=name,
            run_name=run_name,
            base_dir=base_dir,
            rank=rank,
            world_size=world_size,
            group=group,
            resume=resume,
            tags=tags,
            description=description,
            flush_interval_ms=flush_interval_ms,
            on_full=on_full,
            block_timeout=block_timeout,
            timeout=timeout,
        )
        self._capture = self._capture or default_mode(options["handle"])
        options["capture"] = self._capture == "fd"
        self._strict = strict
        self._warned: set[str] = set()
        self._lock = RLock()
        self._copies = Copies()
        self._handlers = []
        self._closed = False
        self._sealed = False
        self._join_error: ExpmanError | None = None
        self._options = options
        self._use(self._new_core())
        if log_level is not None:
            self._capture_logging(log_level)
        if params:
            self.log_params(params)

    # --- joining -----------------------------------------------------------------------------

    def _new_core(self) -> CoreRun:
        # By a weak reference: a core that held its experiment would never be freed, nor its
        # descriptors.
        experiment = ref(self)

        def on_refused(name: str, reason: str) -> None:
            if (there := experiment()) is not None:
                there._refused(name, reason)

        def on_trouble(text: str) -> None:
            if (there := experiment()) is not None:
                there._trouble(text)

        return CoreRun(self._options, on_refused, on_trouble)

    def _use(self, core: CoreRun) -> None:
        self._core = core
        # Straight to the core: a call of the loop pays for no wrapper.
        self.log_metrics = core.quick_log_metrics  # type: ignore[method-assign]
        self.log_vector = core.quick_log_metrics  # type: ignore[method-assign]
        self._closed = False
        if not _is_own_handle():
            os.environ[_HANDLE] = core.handle()
            os.environ[_HANDLE_PID] = str(os.getpid())
        _lifecycle.opened(self)
        _hooks.opened(self)
        _notebook.opened(self)
        if self._capture == "sys":
            _console.listen(self._heard)
        elif self._capture == "fd":
            _console.listen(self._heard, _notebook.streams_beside_descriptors())

    def _heard(self, stream: str, data: bytes) -> None:
        """Something was written to a stream of Python that is captured."""
        core = self._core_here()
        if core is not None:
            write_console(core, stream, data)

    def _forked(self) -> None:
        """In a forked child: keep the parent's core alive and untouched, join on first use."""
        self._lock = RLock()
        self._copies = Copies()
        if isinstance(self._core, _Unjoined):
            return
        self._core.leak()
        if self._closed:
            return
        del self.log_metrics, self.log_vector
        self._options.update(
            handle=self._core.handle(), rank=self._core.rank, capture=False, run_name=None
        )
        self._core = _Unjoined(self)

    def _rejoin(self) -> CoreRun:
        with self._lock:
            core = self._core
            if isinstance(core, _Unjoined):
                if self._join_error is not None:
                    raise self._join_error
                try:
                    core = self._new_core()
                except ExpmanError as error:
                    self._join_error = error
                    raise
                self._use(core)
            return core

    def _joined(self) -> CoreRun | None:
        """The core for a logging call; None in a forked child that could not join, said once."""
        try:
            return self._rejoin()
        except ExpmanError as error:
            self._refused("this forked process", str(error))
            return None

    def _core_here(self) -> CoreRun | None:
        """The core, if this very process has joined with it."""
        return None if isinstance(self._core, _Unjoined) else self._core

    def _refused(self, name: str, reason: str) -> None:
        """Something was left out and counted: raise when strict, else say it once per reason."""
        message = f"{name}: {reason}"
        if self._strict:
            raise ExpmanError(message)
        if reason in self._warned:
            return
        self._warned.add(reason)
        _warn(f"left out {message} (counted; not reported again)")

    def _trouble(self, text: str) -> None:
        """Something stands between what was logged and the disk; nothing is left out yet."""
        _warn(f"has trouble: {text} (not reported again; see stats())")

    # --- logging -----------------------------------------------------------------------------

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Logs the metrics of one call; returns at once.

        Args:
            metrics: name to value: float, int (64 bits), bool, text, or what turns into one
                by itself: NumPy scalars and 0-d arrays, tensors on the CPU, Decimal.
            step: any order, repeats allowed; None for none.

        What is no such value, and what finds the queue full, is counted and warned about once;
        nothing is raised unless `strict` was set.
        """
        core = self._joined()
        if core is not None:
            core.log_metrics(metrics, step)

    def log_vector(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """`log_metrics` by its name in expman."""
        self.log_metrics(metrics, step)

    def log_scalar(self, key: str, value: Any) -> None:
        """Sets a scalar: its latest value stands in run.yaml."""
        core = self._joined()
        if core is not None:
            core.log_scalar(key, value)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Merges parameters into config.yaml; nested mappings and sequences are kept."""
        core = self._joined()
        if core is not None:
            core.log_params(params)

    def save_artifact(self, path: PathLike, name: str | None = None) -> Future[None]:
        """Copies a file or folder below artifacts/, in the background.

        Args:
            path: what to copy.
            name: where below artifacts/; by default a relative path as it is, or the file name
                of an absolute one.

        Returns:
            A future that is done when the copy is; its `result()` raises what went wrong.
            Closing the run waits for it.

        Raises:
            ArtifactError: the path does not exist, or the name would leave artifacts/.
        """
        target = target_name(path, name)
        if not os.path.exists(path):
            raise ArtifactError(f"artifact {os.fspath(path)!r} does not exist")
        core, source = self._rejoin(), os.path.abspath(path)
        with self._lock:
            return self._copies.submit(lambda: self._copy(core, source, target))

    def _copy(self, core: CoreRun, source: str, target: str) -> None:
        try:
            core.save_artifact(source, target)
        except ExpmanError as error:
            print(f"monarch_like: {error}", file=sys.stderr)  # noqa: T201
            core.log_message(LEVELS["error"], str(error))
            raise

    # --- flushing and closing ------------------------------------------------------------------

    def flush(
        self,
        timeout: float = 30.0,
        *,
        scope: str = "run",
        publish: bool = False,
        tag: str | None = None,
        strict: bool = False,
    ) -> FlushHandle:
        """Asks every live rank to make durable what it has logged.

        Args:
            timeout: seconds until the answer comes, complete or not.
            scope: `"run"` for every rank, `"rank"` for this one only.
            publish: also bring everything into metrics.parquet.
            tag: a name for this cut, kept with the run.
            strict: raise FlushError when the report is incomplete.

        Returns:
            A handle: `await` it, or call `wait()`.

        Raises:
            ConfigError: the scope is neither.

        Example:
            >>> exp = getfixture("exp")
            >>> exp.log_metrics({"loss": 0.5}, step=1)
            >>> exp.flush(timeout=30).wait().complete
            True
        """
        _flush_stdio()
        flush = self._rejoin().flush(timeout, scope, publish, tag)
        with importing:  # the first time while the flush is under way
            from ._report import FlushHandle

        return FlushHandle(flush, strict)

    def close(self, status: str = "finished", timeout: float = 5.0) -> bool:
        """Ends this rank: flush, drain, stop, under one deadline. Calling it again does nothing.

        Args:
            status: how this rank ends: `finished`, `failed`, `cancelled`, `interrupted`,
                `preempted`, `crashed`.
            timeout: seconds for everything.

        Returns:
            Whether the whole run is closed: true for its last rank.

        Raises:
            ConfigError: the status is no end.
            FlushError: the deadline came first; the message says what was not delivered, and
                what `expman recover` can bring in from the spool.
        """
        if status not in _ENDS:
            raise ConfigError(f"status={status!r} is none of {', '.join(_ENDS)}")
        with self._lock:
            if self._closed:
                return self._sealed
            self._closed = True
            core, copies = self._core, self._copies
        _lifecycle.forget(self)
        _notebook.closed(self)
        _hooks.closed(self)
        self._end_handlers()
        _console.leave(self._heard)
        if isinstance(core, _Unjoined):
            return False
        from ._options import tell_launcher  # since the run was joined it is there

        deadline = time.monotonic() + timeout
        # A copy that hangs leaves the rows some of the time.
        left = copies.finish(timeout * 0.75)
        if os.environ.get(_HANDLE) == core.handle() and _is_own_handle():
            del os.environ[_HANDLE], os.environ[_HANDLE_PID]
        _flush_stdio()
        try:
            self._sealed = core.close(status, max(deadline - time.monotonic(), 0.0))
        finally:
            tell_launcher(core.handle(), status)
            _summary.tell(core)
        if left:
            raise FlushError(f"{left} artifacts were not copied within {timeout} s")
        return self._sealed

    def fail(self, reason: object, timeout: float = 5.0) -> None:
        """Ends this rank as failed, for this reason: an exception, or any text."""
        if isinstance(reason, BaseException):
            message, trace = _lifecycle.describe(type(reason), reason, reason.__traceback__)
        else:
            message, trace = _lifecycle.text_of(reason), ""
        self._fail(message, trace)
        self.close("failed", timeout)

    def _fail(self, message: str, trace: str) -> None:
        if not self._closed:
            self._core.log_failure(message, trace)

    def __enter__(self) -> Experiment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None or value is None:
                self.close()
            elif issubclass(kind, KeyboardInterrupt):
                self.close("interrupted")
            elif issubclass(kind, SystemExit) and not value.code:  # type: ignore[attr-defined]
                self.close()
            else:
                if issubclass(kind, Exception) and not self._closed:
                    _hooks.tell(self, _hooks.this_thread(), kind, value, trace)
                self._fail(*_lifecycle.describe(kind, value, trace))
                self.close("failed")
        except ExpmanError as error:
            # The end of training, or what went wrong in it, is what the caller must see.
            if self._strict and kind is None:
                raise
            print(f"monarch_like: {error}", file=sys.stderr)  # noqa: T201

    async def __aenter__(self) -> Experiment:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.__exit__, kind, value, trace)

    # --- what it is --------------------------------------------------------------------------

    def handle(self) -> str:
        """A text by which a child process joins this run, as EXPMAN_HANDLE in its environment."""
        return self._rejoin().handle()

    def stats(self) -> dict[str, Any]:
        """Counts of this process.

        accepted_seq, durable_seq: last sequence number that was given, and that is durable.
        queued_bytes, spooled_bytes: what waits in memory, and in the spool's files.
        dropped: records and values that were left out, by reason.
        shared_memory: whether what is queued survives the death of this process.
        connected, reconnects: whether the owner is reached, and how often it was lost.
        last_error: what keeps records from the disk now, or did last.
        """
        return self._rejoin().stats()

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        with importing:
            from pathlib import Path

        return Path(self._core.run_dir)

    @property
    def run_name(self) -> str:
        """The run's name."""
        return self._core.run_name

    @property
    def run_id(self) -> str:
        """The run's id, a UUID."""
        return self._core.run_id

    @property
    def rank(self) -> int:
        """This process's rank."""
        return self._core.rank

    @property
    def attempt(self) -> int:
        """How many processes were this rank before: 0, and one more after each restart."""
        return self._core.attempt

    @property
    def world_size(self) -> int | None:
        """Number of ranks of the launch, None when nobody said."""
        return self._core.world_size

    def __repr__(self) -> str:
        return f"<Experiment {self.run_dir} rank {self.rank}>"


class _Unjoined:
    """Stands for the core in a forked child until the child uses the run."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._experiment._rejoin(), name)


def _warn(message: str) -> None:
    """A warning of our own, which is no message: the queue that it tells of may be full."""
    is_inside, here.showwarning = getattr(here, "showwarning", False), True
    try:
        import warnings

        warnings.warn(f"monarch_like {message}", RuntimeWarning, stacklevel=4)
    except Exception:
        # Warnings are errors here, but logging never raises into training.
        print(f"monarch_like {message}", file=sys.stderr)  # noqa: T201
    finally:
        here.showwarning = is_inside


def _is_own_handle() -> bool:
    """Whether the handle in the environment is one that this very process put there."""
    return os.environ.get(_HANDLE_PID) == str(os.getpid())


def _flush_stdio() -> None:
    """What Python has buffered goes to the descriptors, in front of the flush."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            continue
