"""Many names: in each call, and in a run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import tree
from data import KEYS, sized, values
from figures import Figure

if TYPE_CHECKING:
    from bench import Bench
    from contenders import Contender
    from worker import Driver

TITLE = "Many names"

TEXT = """
First {wide:,} names in each of {wide_calls} calls (n; fewer for slow loggers); then {names:,}
different names in a run, a thousand a call, each logged twice. Points a second until closed, and
the largest sum of resident memory less that at the first call. Every point must be there
afterwards. Tables with a column for each name can't hold the second.
"""

WIDE = 1_000

FIGURES = [
    Figure("n, calls", "calls", compared=False),
    Figure("points/s", "wide_rate", more=True, aim=3_000_000),
    Figure("MB", "wide_mb", alike="calls"),
    Figure("bytes/point", "wide_bytes", "{:.1f}"),
    Figure("different names", "names", compared=False),
    Figure("their points/s", "rate", more=True),
    Figure("their MB", "mb", alike="names"),
]

PAID_SECS = 4.0


def names(bench: Bench) -> list[str]:
    return bench.names("ours", "tracker", "plain")


def run(bench: Bench, name: str, turn: int) -> dict[str, Any] | None:
    if bench.spares(name, turn):
        return None
    contender = bench.contenders[name]
    points = contender.rate * len(KEYS) * PAID_SECS
    calls = sized(bench.sizes.wide_calls, points / WIDE)
    width = min(WIDE, int(points / calls))
    secs, mb, size = once(bench, name, width, calls, width)
    done = {
        "calls": calls,
        "wide_rate": calls * width / secs,
        "wide_mb": mb,
        "wide_bytes": size / calls / width,
    }
    if not contender.wide:
        many = sized(bench.sizes.names, min(points / 2, contender.names_max))
        try:
            secs, mb, _ = once(bench, name, many, 2 * max(many // WIDE, 1), min(many, WIDE))
            done.update(names=many, rate=2 * many / secs, mb=mb)
        except tree.Failed as error:
            bench.say(f"   {name}: {many:,} names: {error}")
    return done


def once(bench: Bench, name: str, many: int, calls: int, width: int) -> tuple[float, float, int]:
    """Seconds, MB over the start, bytes of files."""
    with bench.folder(name) as folder:
        with bench.worker(
            name, folder, "names", many=many, calls=calls, width=width, wait=True
        ) as worker:
            worker.stopped()
            rss = tree.rss_bytes(tree.descendants())
            sampler = tree.Sampler()
            sampler.start()
            worker.go()
            done = worker.done()
            tree.left_behind()
            sampler.ended.set()
            sampler.join()
        size = bench.bytes_of(folder)
        read = bench.once(name, "names", folder=folder, many=0, calls=0, width=0)
    if read["points"] != calls * width or done["dropped"]:
        raise tree.Failed(f"{read['points']} of {calls * width} values came back")
    return done["secs"], (sampler.peak - rss) / 1e6, size


def measure(
    contender: Contender, driver: Driver, many: int, calls: int, width: int
) -> dict[str, Any]:
    """Logs, a thousand names a call, going round; reads back when there is nothing to log."""
    if not calls:
        return {"points": sum(map(len, contender.read().values()))}
    keys = [f"layer/{at}" for at in range(many)]
    numbers = values(8 * WIDE)
    contender.keys = keys
    contender.load()
    log = contender.start()
    driver.stop("start")
    began = time.perf_counter()
    for step in range(calls):
        at = step * width % many
        shift = step % 7 * width
        log(dict(zip(keys[at : at + width], numbers[shift : shift + width])), step)
    contender.close()
    return {"secs": time.perf_counter() - began, "dropped": contender.dropped()}
