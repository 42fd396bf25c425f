"""The live page of a run, for notebooks: a server of this process, and a frame that shows it."""

from __future__ import annotations

# Most programs never show a page: what a server and its page take is imported where it is used.
import _thread
import atexit
import os
import sys

from ._core import ConfigError, ExpmanError
from ._later import importing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

HEIGHT_PIXELS = 720
"""Height of the frame."""

START_SECS = 20.0
"""Longest time until the server says where it listens."""

END_SECS = 5.0
"""Longest time until it is gone; then it is killed."""

EMBEDDERS = (
    "http://localhost:*",
    "http://127.0.0.1:*",
    "vscode-webview:",
    "https://*.vscode-cdn.net",
)
"""Pages that may show ours in a frame: notebooks of this machine and of editors."""

_PROGRAM = "from monarch_like._cli import main; main()"

_lock = _thread.allocate_lock()
_servers: dict[str, _Server] = {}


class Page:
    """Where a run can be seen; in a notebook, the page itself.

    Attributes:
        url: the address, for this machine's browser.
    """

    def __init__(self, url: str, frame: str, height: int) -> None:
        self.url = url
        self._frame = frame
        self._height = height

    def __repr__(self) -> str:
        return f"Page({self.url!r})"

    def _repr_html_(self) -> str:
        with importing:
            import html

        frame, url = html.escape(self._frame, quote=True), html.escape(self.url, quote=True)
        return (
            f'<iframe src="{frame}" width="100%" height="{self._height}" '
            'style="border:0" title="mesh"></iframe>'
            f'<div><a href="{url}" target="_blank" rel="noopener">{url}</a></div>'
        )


class Shown:
    """The part of `Experiment` that shows the run."""

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        raise NotImplementedError

    def show(self, height: int = HEIGHT_PIXELS, *, proxy: str | None = None) -> Page:
        """Shows the run's live page, in a notebook below the cell.

        The first call starts `expman serve` over the folder of experiments, on a free port of this
        machine; it ends with this process.

        Args:
            height: of the frame, in pixels.
            proxy: the path or address below which a proxy shows ports of this machine, with
                `{port}` in it, such as `/user/me/proxy/{port}/`; by default that of JupyterHub,
                if this runs below one.

        Raises:
            ConfigError: an argument makes no sense.
            ExpmanError: the server did not start, or does not know the run.

        Example:
            >>> exp = getfixture("exp")
            >>> page = exp.show(height=400)
            >>> page.url.startswith("http://127.0.0.1:")
            True
        """
        if type(height) is not int or not 50 <= height <= 10_000:
            raise ConfigError(f"height={height!r} is no number of pixels between 50 and 10000")
        if proxy is None and (prefix := os.environ.get("JUPYTERHUB_SERVICE_PREFIX")):
            proxy = prefix.rstrip("/") + "/proxy/{port}/"
        if proxy is not None and "{port}" not in proxy:
            raise ConfigError(f"proxy={proxy!r} has no {{port}} in it")
        with importing:
            from pathlib import Path
            from urllib.parse import quote, urlsplit

        run_dir = Path(self.run_dir).resolve()
        server = _server_of(run_dir.parent.parent)
        place = "#/run/" + quote(server.key_of(run_dir.parent.name, run_dir.name))
        frame = server.url
        if proxy is not None:
            frame = proxy.replace("{port}", str(urlsplit(server.url).port)).rstrip("/")
        return Page(f"{server.url}/{place}", f"{frame}/{place}", height)


class _Server:
    """`expman serve` as a child of this process, for as long as this holds the end of its stdin."""

    def __init__(self, base: Path) -> None:
        with importing:
            import json
            import subprocess
            import threading

        self.pid = os.getpid()
        command = [sys.executable, "-c", _PROGRAM, "serve", str(base), "--port", "0", "--json"]
        for origin in EMBEDDERS:
            command += ["--embed", origin]
        self._process = subprocess.Popen(
            [*command, "--until-eof"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={k: v for k, v in os.environ.items() if k != "EXPMAN_TOKEN"},
        )
        assert self._process.stdout is not None
        # A server that does not come up at all is ended, and its line with it.
        late = threading.Timer(START_SECS, self._process.kill)
        late.daemon = True
        late.start()
        line = self._process.stdout.readline()
        late.cancel()
        try:
            self.url: str = json.loads(line)["url"]
        except (ValueError, KeyError):
            self.end()
            raise ExpmanError(f"expman serve did not start over {base}: {line!r}") from None

    def is_alive(self) -> bool:
        """Whether it serves, and is of this very process."""
        return self.pid == os.getpid() and self._process.poll() is None

    def key_of(self, experiment: str, run: str) -> str:
        """The name of a run in addresses."""
        with importing:
            import json
            import urllib.request
            from urllib.parse import quote

        asked = f"{self.url}/api/runs?experiment={quote(experiment, safe='')}"
        # No proxy of the environment stands between this process and its own machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(asked, timeout=START_SECS) as answer:
            for found in json.load(answer):
                if found["name"] == run:
                    return str(found["key"])
        raise ExpmanError(f"expman serve does not know {experiment}/{run}")

    def end(self) -> None:
        """Ends it, unless it belongs to the process that this one was forked from."""
        with importing:
            import threading
            from contextlib import suppress

        if self.pid != os.getpid():
            return
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        late = threading.Timer(END_SECS, self._process.kill)
        late.daemon = True
        late.start()
        self._process.wait()
        late.cancel()


def _server_of(base: Path) -> _Server:
    with _lock:
        server = _servers.get(str(base))
        if server is None or not server.is_alive():
            if not _servers:
                atexit.register(_end_all)
            server = _servers[str(base)] = _Server(base)
        return server


def _end_all() -> None:
    for server in _servers.values():
        server.end()
    _servers.clear()


def _after_fork() -> None:
    """Whoever held the lock is not in this process."""
    global _lock
    _lock = _thread.allocate_lock()


os.register_at_fork(after_in_child=_after_fork)
