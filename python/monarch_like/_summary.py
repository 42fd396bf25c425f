"""What a rank says at its end: one line for each trouble, nothing when all is well."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


def troubles(stats: Mapping[str, Any], rank: int, run: object) -> list[str]:
    """One sentence for each thing that went wrong on the way to the disk.

    Args:
        stats: what `Experiment.stats` returns.
        rank: whose they are.
        run: the run's folder.
    """
    who = f"monarch_like: rank {rank} of {run}"
    told = []
    dropped = {reason: n for reason, n in stats["dropped"].items() if n > 0}
    if dropped:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(dropped.items()))
        count = sum(dropped.values())
        told.append(f"{who} left out {count} record{'s' * (count != 1)}: {reasons}")
    if stats["last_error"] is not None:
        behind = stats["accepted_seq"] - stats["durable_seq"]
        late = f"{behind} records are not known to be durable"
        now = late if behind > 0 else "all is durable now"
        told.append(f"{who} had trouble, {now}: {stats['last_error']}")
    return told


def tell(stats: Mapping[str, Any], rank: int, run: object) -> None:
    """Says it on stderr, which may be gone."""
    try:
        for line in troubles(stats, rank, run):
            print(line, file=sys.stderr)  # noqa: T201
    except (AttributeError, OSError, ValueError):
        return
