"""Rows 25, 26: links that are cut, slow, deaf on one side, repeated and out of order."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from ledger import read_rows
from processes import Programs, owner_of, until

from . import links, oracles
from .faults_storage import meddled
from .links import LinkProxy, RawLink, Wire
from .test_ranks import keeper
from .victims import Victim, Zygote

MIB = 1 << 20

SENDER = """
watch = Stopwatch()
leaving = threading.Event()
threading.Thread(target=lambda: (hear(), leaving.set()), daemon=True).start()
step = 0
while not leaving.is_set() and step < len(tally):
    values = call(step)
    watch.call(exp.log_metrics, values, step)
    tally.accepted(step)
    step += 1
    if step % burst == 0:
        time.sleep(0.005)
start = time.monotonic()
say([step, watch.times, watch.slow, exp.stats()])
order = hear()
report = exp.flush(timeout=order, scope="rank").wait()
say([report.complete, exp.stats()])
hear()
exp.close()
"""
"""Logs until it is told; says how many calls there were and how long they took; flushes; closes."""


def sender(zygote: Zygote, exps: Path, burst: int = 10) -> Victim:
    """Rank 1, whose link goes through the wire that is there when it joins."""
    return zygote.tallied(SENDER, exps, burst=burst, options={"rank": 1, "world_size": 2}).joined()


def caught_up(victim: Victim, within: float) -> int:
    """Ends the logging, lets it flush and leave; nothing is lost, no call ever waited."""
    victim.tell("enough")
    steps, times, slow, stats = victim.hear()
    oracles.fast_calls(times, slow=slow)
    assert not stats["dropped"]
    victim.tell(within)
    with oracles.within(within + 1, "catching up"):
        complete, after = victim.hear()
    assert complete, after
    assert not after["dropped"]
    assert after["durable_seq"] >= steps
    victim.tell("leave")
    assert victim.wait() == 0, victim.text()
    return int(steps)


def balanced(zygote_keeper: Victim, steps: int) -> None:
    """A: all of rank 1, once, in order; and the run ends well."""
    zygote_keeper.tell(None)
    assert zygote_keeper.wait() == 0, zygote_keeper.text()
    rows = read_rows(zygote_keeper.run_dir)
    assert oracles.prefix(rows, 1, 0, steps, steps) == steps
    run = oracles.ended(zygote_keeper.run_dir)
    assert run["status"] == "finished"
    assert len(run["ranks"][1]) == 1, "the same incarnation all the time"
    assert not oracles.events(zygote_keeper.run_dir, "gap")
    oracles.no_temp_files(zygote_keeper.run_dir)


PARTITIONS = {
    "half open": Wire(up=False, down=False),
    "the owner is not heard": Wire(down=False),
    "the rank is not heard": Wire(up=False),
}


@pytest.mark.row(25)
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("way", list(PARTITIONS))
@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(2.0, marks=pytest.mark.slice),
        pytest.param(30.0, id="half a minute"),
        pytest.param(600.0, id="ten minutes", marks=pytest.mark.long),
    ],
)
def test_a_partition_costs_no_row_and_no_call_and_is_caught_up_with(
    zygote: Zygote, exps: Path, way: str, seconds: float
) -> None:
    staying = keeper(zygote, exps)
    with LinkProxy(staying.run_dir) as proxy:
        victim = sender(zygote, exps)
        before = oracles.high_water(victim.pid)
        time.sleep(0.2)
        proxy.wire.up, proxy.wire.down = PARTITIONS[way].up, PARTITIONS[way].down
        time.sleep(seconds)
        proxy.wire.up = proxy.wire.down = True
        steps = caught_up(victim, within=20.0)
        oracles.bounded_memory(staying.pid, oracles.RANK_GROWTH_BYTES, "its neighbour", before)
    balanced(staying, steps)


@pytest.mark.row(25)
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seconds", [pytest.param(2.0, marks=pytest.mark.slice), 30.0])
def test_a_partition_of_a_rank_that_logs_at_full_speed_spools_in_bounded_memory(
    zygote: Zygote, exps: Path, seconds: float
) -> None:
    staying = keeper(zygote, exps)
    text = "y" * 20_000
    with LinkProxy(staying.run_dir) as proxy:
        victim = zygote.tallied(
            """
            hear()
            before = open("/proc/self/status").read().split("VmHWM:")[1].split()[0]
            n, watch = 0, Stopwatch()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                watch.call(exp.log_metrics, {"text": text}, n)
                n += 1
                time.sleep(0.0005)
            say([n, watch.times, watch.slow, exp.stats(), int(before)])
            hear()
            report = exp.flush(timeout=60, scope="rank").wait()
            say([report.complete, exp.stats()])
            exp.close(timeout=20)
            """,
            exps,
            text=text,
            seconds=seconds,
            options={"rank": 1, "world_size": 2},
        ).joined()
        proxy.wire.up = False
        victim.tell("go")
        n, times, slow, stats, before = victim.hear()
        oracles.fast_calls(times, slow=slow)
        assert not stats["dropped"], "the spool takes a gigabyte"
        assert n * len(text) > 16 << 20, "more than the queue holds"
        assert stats["spooled_bytes"] > 0
        oracles.bounded_memory(victim.pid, oracles.RANK_GROWTH_BYTES, "the rank", before << 10)
        proxy.wire.up = True
        victim.tell("flush")
        complete, stats = victim.hear()
        assert complete
        oracles.bounded_memory(victim.pid, oracles.RANK_GROWTH_BYTES, "the rank", before << 10)
        assert victim.wait() == 0, victim.text()
    staying.tell(None)
    assert staying.wait() == 0, staying.text()
    rows = oracles.rows_of(read_rows(staying.run_dir), 1, 0)
    assert [row.step for row in rows] == list(range(n))
    assert {row.value for row in rows} == {text}
    oracles.no_temp_files(staying.run_dir)


@pytest.mark.row(25)
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("rate", "seconds"),
    [pytest.param(64_000 / 8 * 25, 2.0, marks=pytest.mark.slice), (64_000 / 8, 60.0)],
    ids=["1600 kbit", "64 kbit"],
)
def test_a_link_slower_than_what_is_logged_costs_no_row_and_no_call(
    zygote: Zygote, exps: Path, rate: float, seconds: float
) -> None:
    staying = keeper(zygote, exps)
    with LinkProxy(staying.run_dir) as proxy:
        proxy.wire.bytes_per_second = rate
        victim = sender(zygote, exps, burst=20)
        before = oracles.high_water(victim.pid)
        time.sleep(seconds)
        oracles.bounded_memory(victim.pid, oracles.RANK_GROWTH_BYTES, "the rank", before)
        proxy.wire.bytes_per_second = None
        steps = caught_up(victim, within=30.0)
    balanced(staying, steps)


@pytest.mark.row(26)
@pytest.mark.timeout(400)
@pytest.mark.parametrize("cuts", [pytest.param(15, marks=pytest.mark.slice), 300])
def test_links_cut_in_mid_frame_again_and_again_resume_by_number(
    zygote: Zygote, exps: Path, rng: random.Random, cuts: int
) -> None:
    """Wherever the cut falls: in the preamble, a header, a hello, a batch, between two frames."""
    staying = keeper(zygote, exps)
    places = [1, 2, 5, 9, 100, *(rng.randrange(400, 30_000) for _ in range(cuts - 5))]
    with LinkProxy(staying.run_dir) as proxy:
        victim = sender(zygote, exps)
        proxy.wire.cut_after = lambda: places.pop(0) if places else None
        proxy.cut()
        until(lambda: proxy.cuts >= cuts, 120, f"{cuts} cuts")
        steps = caught_up(victim, within=20.0)
        assert proxy.connections > cuts
    balanced(staying, steps)


@pytest.mark.row(26)
@pytest.mark.slice
def test_batches_that_come_twice_or_again_over_another_link_count_once(
    programs: Programs,
) -> None:
    ranks = programs.ranks(1, world_size=2)
    incarnation = "00000000deadbeef"

    def batch(first: int, last: int) -> bytes:
        records = b"".join(
            links.metrics_record(seq, {"x": float(seq)}, seq) for seq in range(first, last + 1)
        )
        return links.data_frame(first, last, records)

    with RawLink(ranks.run_dir) as one:
        assert one.hello(1, incarnation=incarnation)[0] == links.WELCOME
        one.socket.sendall(3 * batch(1, 10) + batch(5, 15))
        one.acknowledged(15)
        with RawLink(ranks.run_dir) as two:
            kind, welcome = two.hello(1, incarnation=incarnation)
            assert kind == links.WELCOME
            assert welcome["durable_seq"] == 15
            assert welcome["attempt"] == 0, "the same incarnation is the same writer"
            two.socket.sendall(batch(1, 15) + batch(16, 20))
            two.acknowledged(20)
            # What the former link still had in its buffers comes late, and in front of nothing.
            one.socket.sendall(batch(10, 18))
            two.socket.sendall(batch(21, 25) + batch(18, 22))
            two.acknowledged(25)
            two.send(links.BYE, "finished")
            two.receive_until(links.FAREWELL)
    rows = oracles.rows_of(read_rows(ranks.run_dir), 1)
    assert [(row.seq, row.value) for row in rows] == [(n, float(n)) for n in range(1, 26)]


@pytest.mark.row(26)
@pytest.mark.slice
def test_numbers_that_never_came_are_told_and_not_passed_over_in_silence(
    programs: Programs,
) -> None:
    ranks = programs.ranks(1, world_size=2)
    with RawLink(ranks.run_dir) as link:
        assert link.hello(1)[0] == links.WELCOME
        for seq in (1, 2, 6, 7):
            record = links.metrics_record(seq, {"x": float(seq)}, seq)
            link.socket.sendall(links.data_frame(seq, seq, record))
        link.acknowledged(7)
        link.send(links.BYE, "finished")
        link.receive_until(links.FAREWELL)
    assert ranks[0].ask("close")
    rows = oracles.rows_of(read_rows(ranks.run_dir), 1)
    assert [row.seq for row in rows] == [1, 2, 6, 7]
    assert oracles.gaps(ranks.run_dir)[1] == [(3, 5)]
    dropped = oracles.record(ranks.run_dir)["ranks"][1][0]["dropped"]
    assert dropped == {"lost on the way": 3}
    assert oracles.record(ranks.run_dir)["dropped"] == 3


RUBBISH = """
import random
from pathlib import Path
from chaos import links
chance = random.Random(seed)
for n in range(30):
    with links.RawLink(Path(run_dir), preamble=n % 3 != 0) as link:
        if n % 2 and n % 3:
            assert link.hello(1, incarnation="00000000deadbeef")[0] == links.WELCOME
        good = bytearray(links.data_frame(1, 1, links.metrics_record(1, {"x": 1.0}, 0)))
        for _ in range(chance.randrange(1, 4)):
            good[chance.randrange(len(good))] ^= 1 << chance.randrange(8)
        link.socket.sendall(bytes(good) + chance.randbytes(chance.randrange(200)))
with links.RawLink(Path(run_dir)) as link:
    kind, welcome = link.hello(1, incarnation="00000000deadbeef")
    assert (kind, welcome["durable_seq"]) == (links.WELCOME, 0)
    link.send(links.BYE, "finished")
    link.receive_until(links.FAREWELL)
"""


@pytest.mark.row(26)
@pytest.mark.slice
def test_links_that_send_rubbish_are_cut_and_disturb_nobody(
    programs: Programs, zygote: Zygote, seed: int
) -> None:
    ranks = programs.ranks(1, world_size=2)
    rubbish = zygote.start(RUBBISH, run_dir=str(ranks.run_dir), seed=seed)
    assert rubbish.wait() == 0, rubbish.text()
    ranks.log(10)
    with oracles.within(12, "a flush behind all the rubbish"):
        until(lambda: ranks[0].ask("flush", timeout=10)["complete"], 12)
    assert ranks[0].ask("close")
    rows = read_rows(ranks.run_dir)
    oracles.once(rows)
    assert len(oracles.rows_of(rows, 0)) == 20
    assert len(rows) == 20, "a frame with one bit changed is none"


@pytest.mark.row(24)
@pytest.mark.slice
@pytest.mark.usefixtures("as_root")
def test_a_link_that_sends_more_than_it_was_granted_is_read_no_further(
    programs: Programs, tmp_path: Path
) -> None:
    """Nothing that a rank sends costs its owner more memory than its credit, whatever it sends."""
    ranks = programs.ranks(1, world_size=2)
    owner = owner_of(ranks.run_dir)
    with RawLink(ranks.run_dir) as link:
        link.hello(rank=1)
        with meddled(owner, "fdatasync,fsync:error=EIO", folder=tmp_path):
            before = oracles.high_water(owner)
            sent = sent_until_it_stands(link, 64 * MIB)
            assert sent < 12 * MIB, f"{sent >> 20} MiB were taken while nothing is durable"
            assert oracles.high_water(owner) - before < 64 * MIB
        assert ranks[0].ask("flush", timeout=25, scope="rank")["complete"]
    ranks[0].ask("close")
    assert oracles.ended(ranks.run_dir)["status"] == "crashed", "it never said how it ended"


def sent_until_it_stands(link: RawLink, bytes_max: int) -> int:
    """How many bytes of records the owner takes until it takes none for three seconds."""
    link.socket.settimeout(3.0)
    points = {f"m{i}": i * 0.1 for i in range(10_000)}
    sent = rows = 0
    while sent < bytes_max:
        rows += 1
        data = memoryview(links.data_frame(rows, rows, links.metrics_record(rows, points, rows)))
        while data:
            try:
                taken = link.socket.send(data)
            except TimeoutError:
                return sent
            sent, data = sent + taken, data[taken:]
    return sent
