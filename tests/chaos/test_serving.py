"""Rows 10, 38: the server is killed, and clients misbehave; training and the others go on."""

from __future__ import annotations

import random
import socket
import time
from pathlib import Path

import pytest

from processes import until

from . import oracles
from .oracles import StreamReader, gap_free
from .serving import Follower, Server
from .victims import Victim, Zygote

STREAMS_MAX = 256
"""Event streams that a server has open at once."""

TRAINING = """
watch = Stopwatch()
done = threading.Event()
threading.Thread(target=lambda: (hear(), done.set()), daemon=True).start()
step = 0
while not done.is_set() or step < 2_000:
    watch.call(exp.log_metrics, {"x": float(step)}, step)
    if step % 50 == 49:
        time.sleep(0.01)
    step += 1
start = time.monotonic()
report = exp.flush(timeout=10).wait()
say([step, watch.times, report.complete, time.monotonic() - start])
exp.close()
"""
"""Logs thousands of calls a second; says how long each took, and how the last flush went."""


def training(zygote: Zygote, exps: Path) -> Victim:
    return zygote.tallied(TRAINING, exps, options={"rank": 0, "run_name": "r"}).joined()


def trained(victim: Victim) -> int:
    """Ends the training and checks that nobody disturbed it; answers with its number of steps."""
    victim.tell("enough")
    steps, times, complete, flush_secs = victim.hear()
    oracles.fast_calls(times)
    assert complete
    assert flush_secs < 5
    assert victim.wait() == 0, victim.text()
    assert victim.text() == ""
    return int(steps)


@pytest.mark.row(10)
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kills", [pytest.param(2, marks=pytest.mark.slice), 25])
def test_a_server_killed_and_restarted_disturbs_no_training_and_its_streams_resume(
    zygote: Zygote, exps: Path, expman: list[str], rng: random.Random, kills: int
) -> None:
    victim = training(zygote, exps)
    with Server(expman, exps) as server:
        key = server.key(victim.run_dir)
        clients = [Follower(server, key, topics) for topics in ("metrics", "metrics,logs,state")]
        for _ in range(kills):
            time.sleep(rng.uniform(0.2, 0.8))
            server.kill()
            for client in clients:
                assert client.reader.ended.wait(5), "its connection is cut"
            time.sleep(rng.uniform(0.0, 0.5))
            server.start()
            server.key(victim.run_dir)
            for client in clients:
                client.go_on()
                assert client.reader.status == 200
        steps = trained(victim)
        for client in clients:
            assert gap_free(client.sees(steps - 1)) == steps
            assert client.resets <= kills, "it is told to fetch anew at most once for each restart"
        oracles.bounded_memory(server.pid, oracles.SERVER_HIGH_WATER_BYTES, "the server")


@pytest.mark.row(38)
@pytest.mark.slice
def test_a_bogus_last_event_id_is_answered_by_a_reset_and_the_next_one_goes_on(
    zygote: Zygote, exps: Path, expman: list[str], rng: random.Random
) -> None:
    victim = training(zygote, exps)
    noise = "".join(rng.choice("0123456789-abcxyz \t%") for _ in range(40)).strip()
    bogus = [
        "",
        "-",
        "1",
        "a-b-c-d",
        "0-0-0",
        "0-0-0-0",
        "4294967295-18446744073709551615-0-0",
        "1-99999999999999999999999-0-0",
        "9" * 5000,
        "'; DROP TABLE runs",
        noise,
    ]
    with Server(expman, exps) as server:
        key = server.key(victim.run_dir)
        readers = [
            StreamReader(server.port, key, topics="metrics,logs,state").open(last) for last in bogus
        ]
        refused = [reader for reader in readers if reader.status == 400]
        answered = [reader for reader in readers if reader.status == 200]
        assert len(refused) + len(answered) == len(bogus), [reader.status for reader in readers]
        assert len(answered) >= len(bogus) - 1, "only what is no header at all may be refused"
        for reader in answered:
            reader.read()
        for reader in answered:
            assert reader.ended.wait(10), "who must fetch anew is not kept"
            assert reader.seen[-1].kind == "reset"
            reader.resume()
        for reader in answered:
            until(lambda r=reader: any(e.kind == "metrics" for e in r.seen), 10)
            points = reader.points("x")[0]
            gap_free(points, first=points[0][0] or 0)
        assert server.get("health")["status"] == "ok"
    trained(victim)


@pytest.mark.row(38)
@pytest.mark.timeout(400)
@pytest.mark.parametrize("clients", [pytest.param(300, marks=pytest.mark.slice), 1000])
def test_more_stream_clients_than_a_server_takes_are_refused_and_the_others_served(
    zygote: Zygote, exps: Path, expman: list[str], clients: int
) -> None:
    victim = training(zygote, exps)
    with Server(expman, exps) as server:
        key = server.key(victim.run_dir)
        readers: list[StreamReader] = []
        try:
            refused = 0
            for _ in range(clients):
                readers.append(StreamReader(server.port, key).open())
                if readers[-1].status == 503:
                    readers.pop().close()
                    refused += 1
            served = [reader for reader in readers if reader.status == 200]
            assert len(served) == STREAMS_MAX
            assert refused == clients - STREAMS_MAX
            with oracles.within(2, "an answer beside all the streams"):
                assert server.get(f"runs/{key}/stats")
            some = [served[0], served[len(served) // 2], served[-1]]
            for reader in some:
                reader.read()
            for reader in some:
                until(lambda r=reader: sum(map(len, r.points("x").values())) > 100, 20)
                points = reader.points("x")[0]
                gap_free(points, first=points[0][0] or 0)
            oracles.bounded_memory(server.pid, oracles.SERVER_HIGH_WATER_BYTES, "the server")
        finally:
            for reader in readers:
                reader.close()
        until(
            lambda: StreamReader(server.port, key).open().status == 200,
            30,
            "a place for a new reader when the others are gone",
        )
    trained(victim)


@pytest.mark.row(38)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("clients", [30, STREAMS_MAX - 6])
def test_stream_readers_that_stall_are_cut_and_cost_bounded_memory(
    zygote: Zygote, exps: Path, expman: list[str], clients: int
) -> None:
    victim = zygote.tallied(
        """
        done = threading.Event()
        threading.Thread(target=lambda: (hear(), done.set()), daemon=True).start()
        step = 0
        while not done.is_set():
            exp.log_metrics({f"m{i}": float(step) for i in range(50)}, step=step)
            step += 1
            time.sleep(0.002)
        exp.close()
        """,
        exps,
        options={"rank": 0, "run_name": "r"},
    ).joined()
    with Server(expman, exps) as server:
        key = server.key(victim.run_dir)
        stalled = []
        for _ in range(clients):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            head = f"GET /api/runs/{key}/stream HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n"
            client.sendall(head.encode())
            stalled.append(client)
        good = StreamReader(server.port, key).open().read()

        def open_connections() -> int:
            return oracles.descriptors(server.pid)["socket:[N]"]

        most = open_connections()
        if clients <= 30:
            # The kernel takes some megabytes of each before it tells that nobody reads.
            until(lambda: open_connections() <= most - clients, 240, "the end of all who stall")
        else:
            time.sleep(60)  # memory is what so many are about
        points = good.points("m7")[0]
        assert len(points) > 1000, "who reads is served meanwhile"
        gap_free(points, first=points[0][0] or 0)
        assert not good.ended.is_set(), f"{good.seen[-1].kind}, {good.error}"
        oracles.bounded_memory(server.pid, oracles.SERVER_HIGH_WATER_BYTES, "the server")
        for client in stalled:
            client.close()
        good.close()
    victim.tell("enough")
    assert victim.wait() == 0, victim.text()
