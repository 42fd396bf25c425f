"""The command line that starts a run's owner: this interpreter, with nothing but the core."""

from __future__ import annotations

import sys

from . import _core

_PROGRAM = """\
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
spec = spec_from_loader("_core", ExtensionFileLoader("_core", sys.argv[1]))
core = module_from_spec(spec)
spec.loader.exec_module(core)
sys.exit(core.owner_main())
"""


def command() -> list[str]:
    """Isolated and without site packages, so that it starts fast and nobody's code runs in it."""
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, str(_core.__file__)]
