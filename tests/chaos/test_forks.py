"""Row 11: forks at the worst moments. No child is stuck, nothing is lost, doubled or silent."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ledger import read_rows

from . import oracles
from .victims import Zygote

FORKS_UNDER_FIRE = """
import json, random
chance = random.Random(seed)
enough = threading.Event()
logged = [0] * threads
def pour(n):
    while not enough.is_set():
        exp.log_metrics({f"pour{n}": float(logged[n])}, step=logged[n])
        logged[n] += 1
        if logged[n] % 20 == 0:
            time.sleep(0.002)
def flood():
    # The capture's thread and the sender take the queue's lock without the interpreter's.
    while not enough.is_set():
        os.write(1, b"x" * 2000 + b"\\n")
        time.sleep(0.0005)
workers = [threading.Thread(target=pour, args=(n,)) for n in range(threads)]
if redirect:
    workers.append(threading.Thread(target=flood))
for worker in workers:
    worker.start()
joined = 0
slowest = 0.0
for n in range(forks):
    uses = n % every == 0
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        if uses:
            for step in range(3):
                exp.log_metrics({"child": float(n)}, step=step)
            way = chance.randrange(3)
            if way == 0:
                assert exp.flush(timeout=20, scope="rank").wait()
            if way < 2:
                exp.close()
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    slowest = max(slowest, time.monotonic() - start)
    assert status in (0, signal.SIGKILL), status
    chance.random()
    joined += uses
enough.set()
for worker in workers:
    worker.join()
say([logged, joined, slowest])
exp.close(timeout=20)
"""


@pytest.mark.row(11)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("redirect", [False, True], ids=["metrics", "metrics and output"])
@pytest.mark.parametrize(
    ("forks", "every"), [pytest.param(60, 6, marks=pytest.mark.slice), (1000, 10)]
)
def test_forks_while_threads_hold_every_lock_lose_nothing_and_hang_nobody(
    zygote: Zygote, exps: Path, seed: int, forks: int, every: int, redirect: bool
) -> None:
    options = {"rank": 0, "redirect_console": redirect}
    victim = zygote.tallied(
        FORKS_UNDER_FIRE,
        exps,
        seed=seed,
        threads=3,
        forks=forks,
        every=every,
        redirect=redirect,
        options=options,
    ).joined()
    logged, joined, slowest = victim.hear()
    assert victim.wait() == 0, victim.text()[-3000:]
    assert slowest < 20, "no child was stuck"
    rows = read_rows(victim.run_dir)
    oracles.once(rows)
    for n, count in enumerate(logged):
        mine = oracles.rows_of(rows, 0, 0, f"pour{n}")
        assert [row.step for row in mine] == list(range(count)), f"thread {n}"
        assert [row.value for row in mine] == [float(step) for step in range(count)]
    children = Counter(row.value for row in rows if row.key == "child")
    assert children == {float(n): 3 for n in range(0, forks, every)}
    attempts = {row.attempt for row in rows if row.key == "child"}
    assert len(attempts) == joined, "each child is a writer of its own"
    assert 0 not in attempts
    run = oracles.ended(victim.run_dir, 30)
    assert run["status"] == "finished", "the parent speaks for the rank"
    assert len(run["ranks"][0]) == joined + 1, "who logs nothing joins nothing"
    assert "left out" not in victim.text(), "nobody was refused"


LOADER = """
def worker(number, read, write, epoch):
    # As torch's DataLoader: gets indices, answers batches, says something now and then.
    exp.info(f"worker {number} of epoch {epoch}")
    for index in iter(lambda: os.read(read, 1), b""):
        exp.log_metrics({f"load{number}": float(index[0])}, step=epoch * 100 + index[0])
        os.write(write, index)

for epoch in range(epochs):
    workers = []
    for number in range(4):
        ask, answer = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            for other in workers:
                os.close(other[1])
            os.close(ask[1])
            worker(number, ask[0], answer[1], epoch)
            # A loader's worker is told to go and leaves by os._exit; the loader of torch joins it.
            exp.close()
            os._exit(0)
        os.close(ask[0])
        os.close(answer[1])
        workers.append((pid, ask[1], answer[0]))
    for index in range(20):
        pid, ask, answer = workers[index % 4]
        os.write(ask, bytes([index]))
        assert os.read(answer, 1) == bytes([index])
        log(epoch * 20 + index, call(epoch * 20 + index))
    for pid, ask, answer in workers:
        os.close(ask)
        assert os.waitpid(pid, 0)[1] == 0
        os.close(answer)
assert exp.flush(timeout=20).wait()
say(None)
exp.close()
"""


@pytest.mark.row(11)
@pytest.mark.timeout(400)
@pytest.mark.parametrize("epochs", [pytest.param(2, marks=pytest.mark.slice), 25])
def test_data_loader_workers_of_every_epoch_lose_nothing(
    zygote: Zygote, exps: Path, epochs: int
) -> None:
    victim = zygote.tallied(
        LOADER, exps, epochs=epochs, options={"rank": 0, "redirect_console": True}
    ).joined()
    victim.hear()
    assert victim.wait() == 0, victim.text()
    assert victim.text() == ""
    rows = read_rows(victim.run_dir)
    oracles.once(rows)
    by_step = [row.step for row in oracles.rows_of(rows, 0, 0, "loss")]
    assert by_step == list(range(20 * epochs))
    loaded = Counter((row.key, row.value) for row in rows if row.key.startswith("load"))
    assert loaded == {(f"load{n % 4}", float(n)): epochs for n in range(20)}
    assert (victim.run_dir / "run.log").read_text().count("worker ") == 4 * epochs
    assert oracles.ended(victim.run_dir)["status"] == "finished"


@pytest.mark.row(11)
@pytest.mark.slice
def test_a_child_that_only_leaves_and_one_that_is_killed_before_it_uses_anything_cost_nothing(
    zygote: Zygote, exps: Path
) -> None:
    victim = zygote.tallied(
        """
        before = sorted(os.listdir("/proc/self/fd"))
        for n in range(100):
            pid = os.fork()
            if pid == 0:
                if n % 3 == 0:
                    sys.exit(0)
                if n % 3 == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] in (0, signal.SIGKILL)
            log(n, call(n))
        assert exp.flush(timeout=5).wait(), "no dead child is waited for"
        assert sorted(os.listdir("/proc/self/fd")) == before, "no descriptor is left"
        say(None)
        exp.close()
        """,
        exps,
        options={"rank": 0},
    ).joined()
    victim.hear()
    assert victim.wait() == 0, victim.text()
    run = oracles.ended(victim.run_dir)
    assert len(run["ranks"][0]) == 1
    assert run["status"] == "finished"
    assert oracles.prefix(read_rows(victim.run_dir), 0, 0, 100, 100) == 100


@pytest.mark.row(11)
@pytest.mark.slice
def test_children_killed_at_once_behind_their_first_rows_keep_them(
    zygote: Zygote, exps: Path
) -> None:
    """The queue that outlives a process is the child's own, not a copy of its parent's."""
    victim = zygote.tallied(
        """
        for n in range(10):
            log(n, call(n))
            pid = os.fork()
            if pid == 0:
                for step in range(20):
                    exp.log_metrics({"child": float(n)}, step=step)
                os.kill(os.getpid(), signal.SIGKILL)
            assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        assert exp.flush(timeout=20).wait() is not None
        say(None)
        hear()
        exp.close()
        """,
        exps,
        options={"rank": 0},
    ).joined()
    victim.hear()
    oracles.until(lambda: len(oracles.events(victim.run_dir, "rank_lost")) == 10, 15)
    rows = read_rows(victim.run_dir)
    oracles.once(rows)
    children = Counter(row.value for row in rows if row.key == "child")
    assert children == {float(n): 20 for n in range(10)}
    victim.tell("leave")
    assert victim.wait() == 0, victim.text()
    own = [row for row in read_rows(victim.run_dir) if row.key != "child"]
    assert oracles.prefix(own, 0, 0, 10, 10) == 10
