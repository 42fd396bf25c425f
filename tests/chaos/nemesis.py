"""The nemesis: faults of all kinds, mixed by a seed, against real ranks, for as long as asked.

    python -m tests.chaos.nemesis --seed 7 --seconds 60 --ranks 4

Ranks log, flush and fork without end, in one run after the other; meanwhile ranks and owners are
killed, stopped and continued, the disk is filled and freed, made slow and fast, and the server is
restarted under a client. After each run the books that the ranks kept outside must balance with
what is on disk (see `nemesis_ledger`), the doctor must have nothing left to do, no process may be
left, and what the client saw must be a prefix. Exit code 1 when anything is not as promised; the
folder is kept then, and the seed and the command are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from processes import MARK, until

from . import oracles
from .command import recover
from .faults import mounted
from .faults_storage import disk
from .nemesis_ledger import prove
from .nemesis_round import Round
from .serving import statuses

ROUND_SECS = 20.0
"""How long one run is tormented."""

DISK_MIB = 192

RANK_BYTES = 64 << 20
"""What a rank's interpreter takes before it logs; what logging may add is in `oracles`."""


@contextmanager
def place(folder: Path, rng: random.Random) -> Iterator[tuple[Path, str]]:
    """A disk of the round's own, that can be filled; a plain folder where that is not allowed."""
    if os.geteuid() != 0:
        (folder / "disk").mkdir()
        yield folder / "disk", "folder"
    elif rng.random() < 0.5:
        with mounted(folder / "disk", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "none") as at:
            yield at, "tmpfs"
    else:
        with disk(folder, DISK_MIB) as ext4:
            yield ext4.at, "ext4"


def one_round(folder: Path, seed: int, seconds: float, world: int, counts: Counter[str]) -> str:
    """One run from its first rank to the balance of its books; answers with a line about it."""
    rng = random.Random(seed)
    with ExitStack() as stack:
        where, kind = stack.enter_context(place(folder, rng))
        it = Round(folder, where, world, rng, counts, kind != "folder")
        stack.push(it.clean_up)
        it.server.start()
        for number in range(world):
            it.start_rank(number)
        until(lambda: (it.run_dir / "run.yaml").exists(), 30, "the first rank")
        it.follow()
        it.torment(seconds)
        how = it.end()
        if oracles.record(it.run_dir)["status"] == "running":
            recover(["expman"], it.run_dir)
            how += ", recovered"
        # The server believes its last walk over the folders for a second.
        until(lambda: len(statuses(["expman"], it.run_dir, it.server)) == 1, 5, "one status")
        (status,) = statuses(["expman"], it.run_dir, it.server)
        assert status != "running", "the run was closed, or recovered"
        time.sleep(1.0)  # two frames of the stream: the client sees the end
        it.no_more_views()
        oracles.settles(["expman"], it.base)
        oracles.no_temp_files(it.run_dir)
        oracles.no_panic(folder)
        book = prove(it.run_dir, it.books, it.history, it.client and it.client.reader)
        assert it.owner_memory < oracles.OWNER_HIGH_WATER_BYTES, (
            f"owner: {it.owner_memory >> 20} MiB"
        )
        assert it.rank_memory < RANK_BYTES + oracles.RANK_GROWTH_BYTES, it.rank_memory >> 20
        memory = f"owner {it.owner_memory >> 20} MiB, rank {it.rank_memory >> 20} MiB"
        return f"{kind}, {how}, {status}: {book}; {memory}"


def nemesis(folder: Path, seed: int, seconds: float, world: int) -> Counter[str]:
    """Rounds until the time is over."""
    counts: Counter[str] = Counter()
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 or not counts["runs"]:
        counts["runs"] += 1
        own = folder / f"round-{counts['runs']}"
        own.mkdir()
        length = max(min(ROUND_SECS, left), 1.0)
        told = one_round(own, rng.randrange(1 << 32), length, world, counts)
        print(f"round {counts['runs']}: {told}", flush=True)
        shutil.rmtree(own)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults are made")
    parser.add_argument("--ranks", type=int, default=4)
    args = parser.parse_args()
    again = f"python -m tests.chaos.nemesis --seed {args.seed} --seconds {args.seconds:g} "
    again += f"--ranks {args.ranks}"
    print(again, flush=True)
    for name in list(os.environ):
        if name.startswith("EXPMAN_"):
            del os.environ[name]
    folder = Path(tempfile.mkdtemp(prefix="nemesis-", dir="/tmp"))
    runtime = Path(tempfile.mkdtemp(prefix="xm-", dir="/tmp"))
    os.environ[MARK] = str(folder)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    start = time.monotonic()
    try:
        counts = nemesis(folder, args.seed, args.seconds, args.ranks)
    except BaseException:
        traceback.print_exc()
        print(f"kept: {folder}\nto do it again: {again}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(runtime, ignore_errors=True)
    shutil.rmtree(folder)
    told = json.dumps(dict(sorted(counts.items())))
    print(f"balanced after {time.monotonic() - start:.0f} s: {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
