"""What is logged: rows of five floats, the same ones in every process."""

from __future__ import annotations

import random
from array import array

KEYS = ("train/loss", "train/accuracy", "train/rate", "train/grad_norm", "train/step_time")

SEED = 7

ROWS_MAX = 200_000
"""Different rows; a longer run begins again with the first one."""


def values(rows: int) -> array[float]:
    """As many random floats as `rows` rows need."""
    source = random.Random(SEED)
    return array("d", (source.random() for _ in range(min(rows, ROWS_MAX) * len(KEYS))))


def row(numbers: array[float], step: int) -> dict[str, float]:
    """The row of a step, as a new dict."""
    at = step * len(KEYS) % len(numbers)
    return dict(zip(KEYS, numbers[at : at + len(KEYS)]))


def sized(full: int, affordable: float) -> int:
    """`full`, or what is affordable, rounded down to 1, 2 or 5 times a power of ten."""
    if affordable >= full:
        return full
    power = 1
    while power * 10 <= affordable:
        power *= 10
    return max(m for m in (1, 2, 5) if m * power <= max(affordable, 1)) * power
