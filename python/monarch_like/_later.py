"""Imports that wait until they are needed, so that a program's start does not wait for them.

A fork in the middle of another thread's import leaves the child with a module that is never ready,
and who asks for it there waits for ever. So ours are made under this lock, and a fork takes it.
"""

from __future__ import annotations

import os
from _thread import RLock

importing = RLock()
"""Is held around each late import."""

os.register_at_fork(
    before=importing.acquire, after_in_child=importing.release, after_in_parent=importing.release
)
