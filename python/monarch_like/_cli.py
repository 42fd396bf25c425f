"""The console script `expman`."""

from __future__ import annotations

import signal
import sys

from . import _core


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    # Python's own handler would only run once the command is over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_core.cli_main(["expman", *sys.argv[1:]]))
