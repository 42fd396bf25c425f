"""What a process accepted outlives it: in its ring while the owner lives, else in its spool."""

from __future__ import annotations

import os
import re
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import read_rows
from processes import Programs, Rank, kill_owner, owner_of, stop, until

HEADER = 4096


def seqs_of(records: bytes) -> list[int]:
    """Sequence numbers of whole records, by a reader that shares no code with the writer."""
    seqs, at = [], 0
    while at < len(records):
        length, _kind, seq = struct.unpack_from("<IBQ", records, at)
        at += 4 + length
        seqs.append(seq)
    assert at == len(records), "a record is cut off"
    return seqs


def spooled(run_dir: Path) -> list[int]:
    """Sequence numbers in the spool files of the run's only rank, in their order."""

    def frames(content: bytes) -> Iterator[bytes]:
        assert content.startswith(b"EXPSPOOL")
        at = 16 + struct.unpack_from("<I", content, 8)[0]
        while at < len(content):
            length, _crc, _first, _last = struct.unpack_from("<IIQQ", content, at)
            yield content[at + 24 : at + 24 + length]
            at += 24 + length

    paths = sorted(
        run_dir.glob(".expman/spool/r*.spool"), key=lambda path: int(path.name.split(".")[1])
    )
    return [seq for path in paths for frame in frames(path.read_bytes()) for seq in seqs_of(frame)]


def run_in(exps: Path) -> Path:
    (path,) = exps.glob("*/*/run.yaml")
    return path.parent


def ring_of(rank: Rank) -> int:
    """A descriptor of the rank's ring, as its owner has one."""
    for entry in Path(f"/proc/{rank.pid}/fd").iterdir():
        if "expman-ring" in os.readlink(entry):
            return os.open(entry, os.O_RDONLY)
    raise AssertionError("the rank has no ring in shared memory")


def left_in(ring: int) -> list[int]:
    size = os.fstat(ring).st_size
    memory = os.pread(ring, size, 0)
    assert memory.startswith(b"EXPRING1")
    (capacity,) = struct.unpack_from("<Q", memory, 8)
    (place,) = struct.unpack_from("<Q", memory, 64)
    head, length = place >> 32, place & 0xFFFFFFFF
    assert size == HEADER + capacity
    twice = memory[HEADER:] * 2
    return seqs_of(twice[head : head + length])


def test_a_rank_killed_right_after_a_burst_leaves_all_of_it(programs: Programs) -> None:
    ranks = programs.ranks(1)
    (rank,) = ranks
    ring = ring_of(rank)
    stop(owner_of(ranks.run_dir))  # nothing is acknowledged
    done = rank.ask("log", n=1000)
    rank.kill()
    seqs = spooled(ranks.run_dir) + left_in(ring)
    os.close(ring)
    assert sorted(set(seqs)) == list(range(done["first_seq"], done["first_seq"] + 1000))
    kill_owner(ranks.run_dir)


def test_what_was_accepted_50_ms_before_both_died_is_in_a_file(programs: Programs) -> None:
    tries = []
    for number in range(5):  # a busy machine may take the processor away for longer than that
        ranks = programs.ranks(1, group=f"g{number}", run_name=f"run-{number}")
        stop(owner_of(ranks.run_dir))
        done = ranks[0].ask("log", n=1000)
        time.sleep(0.05)
        ranks[0].kill()
        kill_owner(ranks.run_dir)
        all_of_it = list(range(done["first_seq"], done["first_seq"] + 1000))
        tries.append(spooled(ranks.run_dir))
        if tries[-1] == all_of_it:
            return
    raise AssertionError([len(seqs) for seqs in tries])


def test_a_spool_is_gone_when_all_of_it_is_durable(programs: Programs) -> None:
    ranks = programs.ranks(1)
    owner = owner_of(ranks.run_dir)
    stop(owner)
    ranks.log(1000)
    until(lambda: ranks[0].ask("stats")["spooled_bytes"] > 0)
    until(lambda: len(spooled(ranks.run_dir)) == 1000)
    assert ranks[0].ask("stats")["queued_bytes"] == 0
    os.kill(owner, signal.SIGCONT)
    assert ranks[0].ask("flush")["complete"]
    until(lambda: ranks[0].ask("stats")["spooled_bytes"] == 0)
    ranks.close()
    assert not (ranks.run_dir / ".expman/spool").exists()
    ranks.ledger.prove(ranks.run_dir)


def test_a_close_that_was_not_answered_says_what_is_in_the_spool(
    programs: Programs, exps: Path
) -> None:
    done = programs.run(
        """
        import json, os, signal, sys, time
        import monarch_like as ml
        exp = ml.Experiment("exp", base_dir=sys.argv[1], redirect_console=False)
        exp.flush().wait()
        owner = json.loads((exp.run_dir / ".expman/owner.json").read_text())["pid"]
        os.kill(owner, signal.SIGSTOP)
        for step in range(100):
            exp.log_metrics({"loss": 1.0}, step=step)
        start = time.monotonic()
        try:
            exp.close(timeout=float(sys.argv[2]))
        except ml.FlushError as error:
            print(error)
        print(time.monotonic() - start)
        os.kill(owner, signal.SIGKILL)
        """,
        1.0,
    )
    message, took = done.stdout.splitlines()
    assert 1.0 <= float(took) < 1.5
    run_dir = run_in(exps)
    bytes_there = sum(p.stat().st_size for p in run_dir.glob(".expman/spool/*"))
    assert "records 1 to 100 of rank 0 are not known to be durable" in message
    assert f"{bytes_there} bytes are in the spool: `expman recover {run_dir}`" in message
    assert "memory only" not in message
    assert spooled(run_dir) == list(range(1, 101))


@pytest.mark.parametrize("timeout", [0.0, 0.02])
def test_a_close_without_any_time_leaves_all_of_it_in_the_spool(
    programs: Programs, exps: Path, timeout: float
) -> None:
    programs.run(
        """
        import json, os, signal, sys
        import monarch_like as ml
        exp = ml.Experiment("exp", base_dir=sys.argv[1], redirect_console=False)
        exp.flush().wait()
        owner = json.loads((exp.run_dir / ".expman/owner.json").read_text())["pid"]
        os.kill(owner, signal.SIGKILL)
        os.chmod(exp.run_dir / ".expman/LOCK", 0)
        for step in range(100):
            exp.log_metrics({"loss": 1.0}, step=step)
        try:
            exp.close(timeout=float(sys.argv[2]))
        finally:
            os._exit(0)
        """,
        timeout,
    )
    run_dir = run_in(exps)
    kept = set(spooled(run_dir)) | {row.seq for row in read_rows(run_dir)}
    assert kept == set(range(1, 101))


def test_a_run_folder_that_is_deleted_costs_no_raise_no_wait_and_does_not_come_back(
    programs: Programs, exps: Path
) -> None:
    done = programs.run(
        """
        import json, os, shutil, signal, sys, time
        import monarch_like as ml
        exp = ml.Experiment("exp", base_dir=sys.argv[1], redirect_console=False)
        exp.flush().wait()
        owner = json.loads((exp.run_dir / ".expman/owner.json").read_text())["pid"]
        os.kill(owner, signal.SIGSTOP)
        shutil.rmtree(exp.run_dir)
        slowest = 0.0
        for step in range(2000):
            start = time.perf_counter()
            exp.log_metrics({"text": "x" * 10_000}, step=step)
            slowest = max(slowest, time.perf_counter() - start)
            if step % 100 == 0:
                time.sleep(0.01)
        time.sleep(0.2)
        exp.log_metrics({"loss": 1.0})
        print(slowest, exp.stats()["dropped"].get("queue full", 0), exp.run_dir.exists())
        print(exp.stats()["last_error"])
        start = time.monotonic()
        try:
            exp.close(timeout=0.5)
        except ml.FlushError as error:
            print(error)
        print(time.monotonic() - start < 1.0, exp.run_dir.exists())
        os.kill(owner, signal.SIGKILL)
        """
    )
    assert done.returncode == 0, done.stderr
    counts, error, closing, ended = done.stdout.splitlines()
    slowest, dropped, is_there = counts.split()
    assert float(slowest) < 0.2, "a call does not wait for files"
    assert int(dropped) > 0, "20 MB do not fit in the ring: the rest is counted"
    assert is_there == "False"
    assert "can't be spooled" in error
    assert "No such file or directory" in error
    assert "in the queue of this process only" in closing
    assert ended == "True False"
    assert len(re.findall("has trouble: records can't be spooled", done.stderr)) == 1
    assert len(re.findall("left out metrics: queue full", done.stderr)) == 1


def test_a_forked_child_with_the_parent_s_method_touches_nothing_and_is_told(
    programs: Programs, exps: Path
) -> None:
    done = programs.run(
        """
        import os, sys, threading, warnings
        import monarch_like as ml
        warnings.simplefilter("always")
        exp = ml.Experiment("exp", base_dir=sys.argv[1], redirect_console=False)
        log, core = exp.log_metrics, exp._core
        stop = threading.Event()
        def pour():
            while not stop.is_set():
                log({"parent": 1.0})
        thread = threading.Thread(target=pour)
        thread.start()
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                for n in range(1000):
                    log({"child": 1.0})
                assert core.stats()["accepted_seq"] == 0
                try:
                    core.close("finished", 5.0)
                except ml.ExpmanError:
                    os._exit(0)
                os._exit(1)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        thread.join()
        accepted = exp.stats()["accepted_seq"]
        assert exp.flush().wait().complete
        print(accepted)
        exp.close()
        """
    )
    assert done.returncode == 0, done.stderr
    run_dir = run_in(exps)
    rows = read_rows(run_dir)
    assert {row.key for row in rows} == {"parent"}
    assert sorted(row.seq for row in rows) == list(range(1, int(done.stdout) + 1))
    told = "the run belongs to the process that this one was forked from"
    assert done.stderr.count(told) == 20


def test_without_shared_memory_a_run_goes_on_and_says_so(programs: Programs, exps: Path) -> None:
    done = programs.run(
        """
        import resource, sys
        import monarch_like as ml
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))
        exp = ml.Experiment("exp", base_dir=sys.argv[1], redirect_console=False)
        for step in range(100):
            exp.log_metrics({"loss": 1.0}, step=step)
        print(exp.stats()["shared_memory"])
        exp.close()
        """
    )
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
    assert done.stderr.count("the queue is in private memory") == 1
    run_dir = run_in(exps)
    assert len(read_rows(run_dir)) == 100


def test_many_runs_one_after_the_other_leave_no_descriptor_and_little_memory(
    programs: Programs,
) -> None:
    done = programs.run(
        """
        import os, re, sys, time
        import monarch_like as ml
        def shared():
            status = open("/proc/self/status").read()
            return int(re.search(r"RssShmem:\\s+(\\d+) kB", status).group(1))
        def one(n):
            exp = ml.Experiment("exp", f"run-{n}", base_dir=sys.argv[1])
            assert exp.stats()["shared_memory"]
            for step in range(200):
                exp.log_metrics({"loss": 1.0}, step=step)
            exp.flush().wait()
            used = shared()
            exp.close()
            return used
        one(0)
        before = len(os.listdir("/proc/self/fd"))
        most = max(one(n) for n in range(1, 15))
        # What the last one held is given back right behind its close.
        more = lambda: len(os.listdir("/proc/self/fd")) - before
        late = time.monotonic() + 5
        while more() > 0 and time.monotonic() < late:
            time.sleep(0.01)
        print(more(), most, shared(), file=sys.__stdout__)
        """
    )
    assert done.returncode == 0, done.stderr
    more_descriptors, most_shared, left_shared = map(int, done.stdout.split()[-3:])
    assert more_descriptors <= 0
    assert most_shared < 1024, "a rank that logs little uses few pages of its ring"
    assert left_shared <= most_shared
