"""Files on their way into artifacts/: copied one after the other by a thread behind training."""

from __future__ import annotations

import os

from ._core import ArtifactError
from ._later import importing

TYPE_CHECKING = False
if TYPE_CHECKING:
    import queue
    import threading
    from collections.abc import Callable
    from concurrent.futures import Future

    from ._types import PathLike


def target_name(path: PathLike, name: str | None) -> str:
    """Where a path goes below artifacts/.

    Raises:
        ArtifactError: it would leave that folder.
    """
    with importing:
        from pathlib import Path

    source = Path(path)
    wanted = name if name is not None else source.name if source.is_absolute() else str(source)
    target = os.path.normpath(wanted) if wanted else ""
    if target in ("", ".", "..") or target.startswith(("/", "../")):
        raise ArtifactError(f"artifact name {wanted!r} would leave the artifacts folder")
    return target


class Copies:
    """The copies of one run in this process.

    The thread is a daemon, so that a file system that hangs can't hang the end of the process.
    What it takes is imported with the first copy: most runs make none.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], None], Future[None]] | None]
        self._open: list[Future[None]] = []
        self._thread: threading.Thread | None = None

    def submit(self, copy: Callable[[], None]) -> Future[None]:
        """Copies behind all that was submitted before."""
        with importing:
            import queue
            import threading
            from concurrent.futures import Future

        future: Future[None] = Future()
        if self._thread is None:
            self._jobs = queue.SimpleQueue()
        self._open = [one for one in self._open if not one.done()] + [future]
        self._jobs.put((copy, future))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="expman-artifacts", daemon=True)
            self._thread.start()
        return future

    def finish(self, timeout: float) -> int:
        """Waits for what was submitted; returns how many copies are not done."""
        if self._thread is None:
            return 0
        with importing:
            from concurrent.futures import wait

        self._jobs.put(None)
        return len(wait(self._open, timeout=timeout).not_done)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            copy, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                copy()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)
