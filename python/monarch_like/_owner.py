"""The command line that starts a run's owner: this interpreter, with nothing but the core."""

from __future__ import annotations

import os
import sys

from . import _core

# `importlib.util` would say it more plainly, and is most of what this would import.
_PROGRAM = """\
import sys
sys.path.insert(0, sys.argv[1])
import _core
del sys.path[0]
sys.exit(_core.owner_main())
"""


def command() -> list[str]:
    """Isolated and without site packages, so that it starts fast and nobody's code runs in it."""
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, os.path.dirname(str(_core.__file__))]
