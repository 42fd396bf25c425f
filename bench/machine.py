"""What was measured on, and with which versions."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

VERSION = """
import sys
from importlib.metadata import version
print(version(sys.argv[1]))
"""


def described(began: float, load: float) -> str:
    """Date, system, processor, memory and how busy it was."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{time.strftime('%Y-%m-%d', time.gmtime(began))}, {platform.system()} "
        f"{platform.release().split('-')[0]}, {_processor()}, {os.cpu_count()} cores, "
        f"{memory:.0f} GiB, load at most {load:.1f} meanwhile, Python {platform.python_version()}"
    )


def version(python: Path, package: str) -> str:
    """Of a package in an environment."""
    command = [str(python), "-c", VERSION, package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "?"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
