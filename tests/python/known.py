"""What ranks log in tests: the same in every process, and nothing that takes long to import."""

from __future__ import annotations

import random

KEYS = ("loss", "acc")
"""The metrics of one call, where a test does not say otherwise."""


def value_of(rank: int, step: int, key: str) -> float:
    """What a rank logs at a step: a float with all its bits in use, the same in every process."""
    return random.Random(f"{rank}/{step}/{key}").random()
