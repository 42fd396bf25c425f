"""What a rank says at its end: one line for each trouble, nothing when all is well."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ._core import CoreRun


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


def tell(core: CoreRun) -> None:
    """Says it of a core on stderr, which may be gone."""
    stats = core.stats()
    if not any(stats["dropped"].values()) and stats["last_error"] is None:
        return
    try:
        for line in troubles(stats, core.rank, core.run_dir):
            print(line, file=sys.stderr)  # noqa: T201
    except (AttributeError, OSError, ValueError):
        return
