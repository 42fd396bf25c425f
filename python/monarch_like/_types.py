"""Types of arguments, for annotations alone: a program that runs does not import this."""

from __future__ import annotations

import os
from typing import Callable, Union

PathLike = Union[str, "os.PathLike[str]"]

LevelLike = Union[str, int]
"""A level of messages, by its name or its number."""

Hear = Callable[[str, bytes], None]
"""Is told what is written, by the stream's name in a run."""
