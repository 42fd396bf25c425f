"""Writes a long run for what reads it; not measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contenders import Contender
    from worker import Driver


def measure(contender: Contender, driver: Driver, rows: int, width: int) -> dict[str, Any]:
    """As many rows of one metric, `loss`, or of several."""
    contender.load()
    log = contender.start()
    names = ["loss", *(f"metric_{at}" for at in range(1, width))]
    for step in range(rows):
        value = 1 / (step + 1) + step % 97 * 1e-3
        log(dict.fromkeys(names, value), step)
    contender.close()
    return {"dropped": contender.dropped()}
