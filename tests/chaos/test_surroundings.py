"""Rows 22, 23, 31: folders that vanish or are read only, few descriptors, no locks, odd clocks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ledger import read_rows
from processes import DEADLINE_SECS, Programs, environment, is_alive, owner_of, stop, until

from . import command
from .faults import mounted, needs
from .faults_storage import as_nobody, disk
from .oracles import alone, events, fast_calls, record, rows_of, settles, within
from .puppet import Puppet, puppet
from .victims import Zygote

SLICE = pytest.mark.slice

# --- row 22: the folder of a live run ------------------------------------------------------------


def rank_in(zygote: Zygote, base: Path) -> Puppet:
    """A rank of its own run below `base`, with a hundred rows that are durable."""
    rank = puppet(zygote, base_dir=str(base), run_name="run", redirect_console=False)
    rank.log(100)
    assert rank.flush()["complete"]
    return rank


def suffers_quietly(rank: Puppet) -> str:
    """L: logging, flushing and ending are in time whatever became of the run's folder.

    Answers with what the program said at its end: 4,000 calls more are not where they should be.
    """
    times = rank.log(2000)
    with within(2.5, "the flush"):
        rank.flush(timeout=1.5)
    times += rank.log(2000)
    fast_calls(times)
    with within(7.0, "the end of the program"):
        rank.victim.tell(None)
        assert rank.victim.wait() == 0, "training's exit code is its own"
    said = rank.victim.text()
    assert "monarch_like" in said, (
        f"that something is not where it should be was not told: {said!r}"
    )
    return said


def goes_on_elsewhere(rank: Puppet, tmp_path: Path) -> None:
    """A: what the former folder had is told as a gap of the new one, which has all the rest."""
    until(lambda: len(alone(tmp_path)) == 1, 20, "end of all but the zygote")
    run_dir = rank.run_dir
    steps = [row.step for row in read_rows(run_dir)]
    assert steps == list(range(100, 4100)), "all that was not durable before goes on in a new run"
    told = events(run_dir, "gap")
    assert [(gap["from_seq"], gap["to_seq"], gap["count"]) for gap in told] == [(1, 100, 100)]
    assert record(run_dir)["dropped"] == 100


@pytest.mark.row(22)
@pytest.mark.slice
def test_a_folder_deleted_under_a_live_run_is_told_and_what_follows_is_kept(
    zygote: Zygote, exps: Path, tmp_path: Path, expman: list[str]
) -> None:
    rank = rank_in(zygote, exps)
    owner = owner_of(rank.run_dir)
    shutil.rmtree(rank.run_dir)
    suffers_quietly(rank)
    until(lambda: not is_alive(owner), 15, "end of the owner")
    goes_on_elsewhere(rank, tmp_path)
    settles(expman, rank.run_dir)


@pytest.mark.row(22)
@pytest.mark.slice
def test_a_folder_renamed_under_a_live_run_keeps_what_was_durable(
    zygote: Zygote, exps: Path, tmp_path: Path, expman: list[str]
) -> None:
    rank = rank_in(zygote, exps)
    owner = owner_of(rank.run_dir)
    moved = exps / "exp/moved"
    rank.run_dir.rename(moved)
    suffers_quietly(rank)
    until(lambda: not is_alive(owner), 15, "end of the owner")
    assert str(rank.run_dir) in (moved / ".expman/owner.log").read_text(), "why it ended"
    goes_on_elsewhere(rank, tmp_path)
    command.recover(expman, moved)
    assert [row.step for row in read_rows(moved)] == list(range(100))
    assert record(moved)["status"] == "crashed"
    assert record(moved)["id"] != record(rank.run_dir)["id"], "two runs, not one twice"
    settles(expman, exps)


@pytest.mark.row(22)
@pytest.mark.slice
@pytest.mark.usefixtures("as_root")
def test_a_file_system_that_turns_read_only_under_a_run_costs_only_what_was_not_durable(
    tmp_path: Path, request: pytest.FixtureRequest, expman: list[str]
) -> None:
    with disk(tmp_path) as drive:
        zygote: Zygote = request.getfixturevalue("zygote")
        rank = rank_in(zygote, drive.at)
        owner = owner_of(rank.run_dir)
        # As after an error of the device: every write, sync and new file fails from now on.
        subprocess.run(["mount", "-o", "remount,abort", str(drive.at)], check=True)
        said = suffers_quietly(rank)
        assert "101 to 4100 of rank 0" in said
        with suppress(ProcessLookupError):
            os.kill(owner, signal.SIGKILL)  # it tries for a minute
        until(lambda: not is_alive(owner))
    with mounted(tmp_path / "again", "-o", "loop", str(drive.image)) as at:
        command.recover(expman, at / "exp/run")
        assert [row.step for row in read_rows(at / "exp/run")] == list(range(100))
        settles(expman, at / "exp/run")


@pytest.fixture
def nobodys(as_root: None, no_panic: None) -> Iterator[Path]:
    """A folder of a user without rights, with an interpreter that this user may run."""
    folder = Path(tempfile.mkdtemp(prefix="xn-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        with mounted(folder / "python", "--bind", sys.base_prefix):
            home = folder / "home"
            home.mkdir()
            shutil.chown(home, 65534, 65534)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_as_nobody(nobodys: Path, code: str, *args: object) -> subprocess.Popen[str]:
    """A program of a user without rights."""
    import monarch_like

    package = Path(monarch_like.__file__).parents[1]
    program = nobodys / "program.py"
    program.write_text(textwrap.dedent(code))
    python = nobodys / "python/bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return subprocess.Popen(
        as_nobody(str(python), str(program), *map(str, args)),
        env={
            **environment(),
            "PYTHONPATH": str(package),
            "XDG_RUNTIME_DIR": str(nobodys / "home"),
            "HOME": str(nobodys / "home"),
        },
        cwd=nobodys / "home",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


UNPRIVILEGED = """
import os, sys, time
import monarch_like as ml
assert os.geteuid() == 65534
exp = ml.Experiment("exp", "run", base_dir=sys.argv[1], redirect_console=False)
for step in range(100):
    exp.log_metrics({"x": step * 0.5}, step=step)
assert exp.flush().wait()
print("ready", flush=True)
sys.stdin.readline()
worst = 0
for step in range(100, 2000):
    start = time.perf_counter()
    exp.log_metrics({"x": step * 0.5}, step=step)
    worst = max(worst, time.perf_counter() - start)
start = time.perf_counter()
report = exp.flush(timeout=2, publish=True).wait()
print("flushed", report.complete, time.perf_counter() - start, worst, flush=True)
sys.stdin.readline()
exp.close()
print("closed", flush=True)
"""


@pytest.mark.row(22)
@pytest.mark.slice
def test_rights_taken_from_a_user_s_run_stop_no_commit_and_given_back_close_it(
    nobodys: Path, expman: list[str]
) -> None:
    base = nobodys / "home/exps"
    program = run_as_nobody(nobodys, UNPRIVILEGED, base)
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        assert program.stdout.readline() == "ready\n", program.communicate()[1]
        run_dir = base / "exp/run"
        folders = [run_dir, run_dir / ".expman"]
        for folder in folders:
            folder.chmod(0o555)  # open files can be written, none can be made or renamed
        program.stdin.write("\n")
        program.stdin.flush()
        word, complete, took, worst = program.stdout.readline().split()
        assert (word, float(took) < 3.0, float(worst) < 1.0) == ("flushed", True, True)
        del complete  # durable, but perhaps not published
        steps = {row.step for row in read_rows(run_dir)}
        assert steps == set(range(2000)), "commits need no new file"
        for folder in folders:
            folder.chmod(0o755)
        out, err = program.communicate("\n", timeout=30)
        assert program.returncode == 0, err
        assert out == "closed\n"
    finally:
        program.kill()
        program.wait()
    until(lambda: record(run_dir)["status"] == "finished", 20, "end of the run")
    assert [row.step for row in read_rows(run_dir)] == list(range(2000))
    settles(expman, run_dir)


# --- row 23: few descriptors, no locks -----------------------------------------------------------

CAREFUL = """
import os, sys, time
import monarch_like as ml
try:
    exp = ml.Experiment("exp", "run", base_dir=sys.argv[1])
except ml.ExpmanError as error:
    print("refused:", error)
    sys.exit(0)
for step in range(1000):
    exp.log_metrics({"x": step * 0.5}, step=step)
complete = exp.flush(timeout=20).wait().complete
exp.close()
sys.stderr.write(f"complete {complete}")
"""


@pytest.mark.row(23)
@pytest.mark.parametrize(
    "descriptors", [5, 6, 7, 8, 10, 12, 16, 20, 24, pytest.param(32, marks=SLICE), 64]
)
def test_a_program_with_few_descriptors_works_or_is_refused_clearly(
    programs: Programs, exps: Path, descriptors: int
) -> None:
    code = f"""
import resource
import monarch_like, subprocess, warnings, multiprocessing.util, traceback, socket, asyncio
resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors}))
{CAREFUL}
"""
    with within(40, "the program"):
        done = programs.run(code)
    assert done.returncode == 0, done.stdout + done.stderr
    if "refused" in done.stdout:
        assert descriptors < 32, f"32 descriptors are enough: {done.stdout}"
        assert "Too many open files" in done.stdout or "os error 24" in done.stdout, done.stdout
    else:
        assert "complete True" in done.stderr, done.stderr
        assert len(read_rows(exps / "exp/run")) == 1000


@pytest.mark.row(23)
@pytest.mark.parametrize("where", ["everywhere", pytest.param(".expman/LOCK", marks=SLICE)])
def test_a_file_system_without_locks_is_refused_with_that_reason(
    tmp_path: Path, exps: Path, where: str
) -> None:
    needs("strace")
    program = tmp_path / "program.py"
    program.write_text(CAREFUL)
    meddling = ["strace", "-f", "-qqq", "-o", "/dev/null", "--trace=flock"]
    meddling += ["--inject=flock:error=ENOLCK"]
    if where != "everywhere":
        meddling += ["-P", str(exps / "exp/run" / where)]
    with within(40, "the refusal"):
        done = subprocess.run(
            [*meddling, sys.executable, str(program), str(exps)],
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECS,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused:"), done.stdout + done.stderr
    assert "No locks available" in done.stdout or "os error 37" in done.stdout, done.stdout
    until(lambda: len(alone(tmp_path)) == 0, 15, "end of all")


# --- row 31: clocks ------------------------------------------------------------------------------

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static const volatile long long *offset_secs;

__attribute__((constructor)) static void open_offset(void) {
    const char *path = getenv("CHAOS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *at = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
        if (at != MAP_FAILED) offset_secs = at;
    }
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(clock, now);
    if (done == 0 && offset_secs && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *offset_secs;
    return done;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""

DAY = 24 * 3600


class Clock:
    """The wall clock of a test's processes, which can be set while they run."""

    def __init__(self, folder: Path) -> None:
        needs("cc")
        self.file = folder / "clock"
        self.library = folder / "clock.so"
        source = folder / "clock.c"
        source.write_text(SHIM)
        self.set(0)
        build = ["cc", "-shared", "-fPIC", "-O1", "-o", str(self.library), str(source), "-ldl"]
        subprocess.run(build, check=True)

    def set(self, seconds: int) -> None:
        """So many seconds ahead of what it is."""
        file = os.open(self.file, os.O_WRONLY | os.O_CREAT, 0o644)
        os.pwrite(file, seconds.to_bytes(8, "little", signed=True), 0)
        os.close(file)

    @property
    def env(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "CHAOS_CLOCK": str(self.file)}


@pytest.mark.row(31)
@pytest.mark.slice
def test_a_clock_that_jumps_by_days_changes_time_stamps_and_nothing_else(
    tmp_path: Path, exps: Path, expman: list[str]
) -> None:
    clock = Clock(tmp_path)
    jumps = [0, DAY, -DAY, -2 * DAY]
    with Zygote(tmp_path, **clock.env) as zygote:
        ranks = [
            puppet(
                zygote, base_dir=str(exps), rank=n, world_size=2, group="g", redirect_console=False
            )
            for n in range(2)
        ]
        assert abs(float(ranks[0].do("time.time()")) - time.time()) < 60
        times: list[list[int]] = [[], []]
        for jump in jumps:
            clock.set(jump)
            assert abs(float(ranks[0].do("time.time()")) - time.time() - jump) < 60
            for n, rank in enumerate(ranks):
                times[n] += rank.log(400)
            with within(3.0, "a flush"):
                assert ranks[1].flush(timeout=10)["complete"]
            # Waits of the owner and of the ranks, begun before the next jump.
            ranks[0].start("flush(timeout=10, publish=True)")
            time.sleep(0.4)
            assert ranks[0].answer()["complete"]
        with within(5.0, "closing"):
            for rank in ranks:
                rank.close()
    for each in times:
        fast_calls(each)
    run_dir = ranks[0].run_dir
    rows = read_rows(run_dir)
    for n in range(2):
        mine = rows_of(rows, n)
        assert [row.seq for row in mine] == list(range(1, 1601)), "in order of their numbers"
        assert [row.step for row in mine] == list(range(1600))
    assert not events(run_dir, "rank_lost"), "a lease is not counted by the wall clock"
    found = record(run_dir)
    assert found["status"] == "finished"
    assert found["duration_secs"] >= 0
    settles(expman, run_dir)


@pytest.mark.row(31)
def test_a_dead_rank_is_noticed_and_a_stopped_one_times_out_while_the_clock_goes_backwards(
    tmp_path: Path, exps: Path
) -> None:
    clock = Clock(tmp_path)
    with Zygote(tmp_path, **clock.env) as zygote:
        ranks = [
            puppet(
                zygote, base_dir=str(exps), rank=n, world_size=3, group="g", redirect_console=False
            )
            for n in range(3)
        ]
        for rank in ranks:
            rank.log(100)
        for rank in ranks[1:]:
            stop(rank.pid)  # so that they owe an answer
        ranks[0].start("flush(timeout=4)")
        for n in range(4):
            time.sleep(0.5)
            clock.set(-n * DAY)
        ranks[2].kill()
        with within(4.0, "the flush"):
            report = ranks[0].answer()
        os.kill(ranks[1].pid, signal.SIGCONT)
        states = [report["ranks"][str(n)]["state"] for n in range(3)]
        assert states == ["durable", "timeout", "dead"]
        assert ranks[0].flush(timeout=10)["complete"]
        for rank in ranks[:2]:
            rank.close()
    assert len(read_rows(ranks[0].run_dir)) == 300
