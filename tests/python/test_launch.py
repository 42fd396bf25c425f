"""Rank discovery: tables of environments, as the launchers leave them, and real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monarch_like import _launch
from monarch_like._launch import Host, Launch, discover


class Machine(Host):
    """A host with the processes the test says: pid -> (parent, start time, environment)."""

    def __init__(
        self,
        pid: int = 100,
        processes: Mapping[int, tuple[int, str, dict[str, str]]] | None = None,
        name: str = "node1/boot1",
    ) -> None:
        self.pid = pid
        self.name = name
        self.processes = {
            1: (0, "1", {}),
            50: (1, "5000", {}),
            pid: (50, "6000", {}),
            **(processes or {}),
        }

    def parent(self, pid: int) -> int:
        return self.processes[pid][0]

    def started(self, pid: int) -> str:
        return self.processes[pid][1]

    def environ(self, pid: int) -> dict[str, str]:
        return self.processes[pid][2]


def torchrun(rank: int = 0, size: int = 4, **more: str) -> dict[str, str]:
    return {
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
        **more,
    }


def openmpi(rank: int = 0, size: int = 4, **more: str) -> dict[str, str]:
    return {
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_SIZE": str(size),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(size),
        "OMPI_MCA_ess_base_jobid": "1137049601",
        "PMIX_NAMESPACE": "1137049601",
        "PMIX_RANK": str(rank),
        **more,
    }


def hydra(rank: int = 0, size: int = 4, **more: str) -> dict[str, str]:
    return {
        "PMI_RANK": str(rank),
        "PMI_SIZE": str(size),
        "PMI_FD": str(6 + 2 * rank),
        "MPI_LOCALRANKID": str(rank),
        "MPI_LOCALNRANKS": str(size),
        **more,
    }


def srun(rank: int = 0, size: int = 4, **more: str) -> dict[str, str]:
    return {
        "SLURM_CLUSTER_NAME": "alps",
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(size),
        "SLURM_NTASKS": str(size),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        **more,
    }


def ray(rank: int = 0, size: int = 4, **more: str) -> dict[str, str]:
    return {
        "RAY_JOB_ID": "01000000",
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "41234",
        **more,
    }


def variables(rank: int = 0, size: int = 4, **more: str) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
        **more,
    }


LAUNCHERS = [
    ("torchrun", torchrun),
    ("openmpi", openmpi),
    ("pmi", hydra),
    ("slurm", srun),
    ("ray", ray),
    ("env", variables),
]

each_launcher = pytest.mark.parametrize(
    ("name", "environment"), LAUNCHERS, ids=[n for n, _ in LAUNCHERS]
)


def key(env: Mapping[str, str], host: Host | None = None, **said: Any) -> str | None:
    return discover(env, host=host or Machine(), **said).key


# --- every launcher ---------------------------------------------------------------------------


@each_launcher
def test_a_rank_knows_its_number_the_world_size_and_its_launcher(name: str, environment: Any):
    found = discover(environment(rank=3, size=4), host=Machine())
    assert (found.rank, found.world_size, found.launcher) == (3, 4, name)
    assert found.local_rank == (None if environment is variables else 3)


@each_launcher
def test_all_ranks_of_one_launch_share_one_key(name: str, environment: Any):
    keys = {key(environment(rank=r), Machine(pid=100 + r)) for r in range(4)}
    assert len(keys) == 1
    assert None not in keys


@each_launcher
def test_a_helper_process_of_a_rank_finds_the_key_of_its_rank(name: str, environment: Any):
    env = environment(rank=2)
    rank = Machine(pid=100)
    helper = Machine(pid=300, processes={100: (50, "6000", env), 300: (100, "7000", env)})
    assert key(env, helper) == key(env, rank)


@each_launcher
def test_a_shell_script_between_launcher_and_rank_changes_nothing(name: str, environment: Any):
    keys = set()
    for r in range(4):
        env = environment(rank=r)
        script, rank = 200 + r, 300 + r
        keys.add(key(env, Machine(rank, {script: (50, "6000", env), rank: (script, "6001", env)})))
    assert keys == {key(environment(), Machine())}


@each_launcher
def test_a_rank_that_is_not_a_number_is_an_error_that_names_the_variable(
    name: str, environment: Any
):
    env = environment()
    variable = next(n for n in (*RANK_VARIABLES,) if n in env)
    for bad in ("abc", "-1", "1.5", "0x1", "²"):
        with pytest.raises(ValueError, match=rf"{variable}='{bad}'"):
            discover({**env, variable: bad}, host=Machine())


@each_launcher
def test_a_rank_beyond_the_world_is_an_error_that_names_both(name: str, environment: Any):
    with pytest.raises(ValueError, match=r"=4 is not below \w+=4"):
        discover(environment(rank=4, size=4), host=Machine())


RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID", "RANK")


# --- two launches are never one ---------------------------------------------------------------

LATER_AGENT = {50: (1, "5001", {})}  # the same pid came back
OTHER_AGENT = {100: (60, "6000", {}), 60: (1, "5000", {})}


@pytest.mark.parametrize("environment", [torchrun, openmpi, hydra, variables])
@pytest.mark.parametrize("processes", [LATER_AGENT, OTHER_AGENT], ids=["pid reused", "other pid"])
def test_two_jobs_with_equal_environments_on_one_host_never_share_a_key(
    environment: Any, processes: Any
):
    first = discover(environment(), host=Machine())
    second = discover(environment(), host=Machine(processes=processes))
    assert first.key != second.key
    assert first.host_local
    assert second.host_local


@pytest.mark.parametrize("environment", [torchrun, openmpi, hydra, variables])
def test_equal_pids_on_two_hosts_never_share_a_key(environment: Any):
    assert key(environment()) != key(environment(), Machine(name="node2/boot2"))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (srun(), srun(SLURM_JOB_ID="4712")),
        (srun(), srun(SLURM_STEP_ID="1")),
        (srun(), srun(SLURM_CLUSTER_NAME="daint")),
        (ray(), ray(RAY_JOB_ID="02000000")),
        (ray(), ray(MASTER_PORT="41235")),
        (openmpi(OMPI_COMM_WORLD_LOCAL_SIZE="2"), openmpi(PMIX_NAMESPACE="7")),
        (variables(MASTER_ADDR="10.0.0.1"), variables(MASTER_ADDR="10.0.0.2")),
        (variables(), variables(MASTER_PORT="29501")),
        (torchrun(LOCAL_WORLD_SIZE="2"), torchrun(LOCAL_WORLD_SIZE="2", MASTER_PORT="29501")),
        (torchrun(), variables()),
    ],
)
def test_launches_with_another_job_step_or_master_differ(
    first: dict[str, str], second: dict[str, str]
):
    assert key(first) != key(second)


def test_ranks_on_several_hosts_agree_where_the_launcher_gives_a_name():
    there = {"LOCAL_WORLD_SIZE": "2"}
    for on_many in (
        lambda r: torchrun(r, **there, MASTER_ADDR="10.0.0.1"),
        lambda r: openmpi(r, OMPI_COMM_WORLD_LOCAL_SIZE="2"),
        srun,
        ray,
        lambda r: variables(r, MASTER_ADDR="10.0.0.1"),
    ):
        here = discover(on_many(0), host=Machine())
        away = discover(on_many(3), host=Machine(name="node2/b", processes=OTHER_AGENT))
        assert here.key == away.key
        assert not here.host_local


# --- torchrun ---------------------------------------------------------------------------------


def test_a_restarted_torchrun_group_comes_back_to_its_key():
    again = torchrun(TORCHELASTIC_RESTART_COUNT="1", MASTER_PORT="40001")
    assert key(again, Machine(pid=180)) == key(torchrun())


def test_torchrun_inside_torchrun_is_a_launch_of_its_own():
    outer = torchrun(rank=0, size=2)
    inner = torchrun(rank=0, size=2, MASTER_PORT="29600")
    nested = Machine(
        300, {200: (50, "6000", outer), 250: (200, "7", outer), 300: (250, "8", inner)}
    )
    assert key(inner, nested) != key(outer, Machine(pid=200))


def test_torchrun_started_by_srun_is_torchrun():
    found = discover({**srun(rank=0, size=1), **torchrun(rank=2)}, host=Machine())
    assert (found.launcher, found.rank) == ("torchrun", 2)


AGENT = """
import os, subprocess, sys
worker = "import sys; sys.path.insert(0, sys.argv[1]); "
worker += "import importlib.util as u; s = u.spec_from_file_location('launch', sys.argv[2]); "
worker += "m = u.module_from_spec(s); sys.modules['launch'] = m; s.loader.exec_module(m); "
worker += "print(m.discover().key, flush=True); sys.stdin.read()"
base = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
workers = [subprocess.Popen([sys.executable, "-c", worker, "", sys.argv[1]],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            env={**os.environ, **base, "RANK": str(r), "LOCAL_RANK": str(r)})
           for r in range(2)]
for w in workers:
    print(w.stdout.readline().strip(), flush=True)
sys.stdin.read()
for w in workers:
    w.communicate()
"""


def test_two_real_launchers_with_the_id_none_at_once_give_two_keys():
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", AGENT, _launch.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        keys = [[job.stdout.readline().strip() for _ in range(2)] for job in jobs if job.stdout]
    finally:
        for job in jobs:
            job.communicate(timeout=30)
    (first, first_again), (second, second_again) = keys
    assert first == first_again
    assert second == second_again
    assert first != second
    assert str(jobs[0].pid) in json.loads(first)
    assert str(jobs[1].pid) in json.loads(second)


def test_a_real_process_knows_its_parent_and_both_start_times():
    host = Host()
    assert host.parent(os.getpid()) == os.getppid()
    assert int(host.started(os.getpid())) >= int(host.started(os.getppid())) > 0
    assert host.environ(os.getppid()).get("PATH") is not None


def test_a_process_that_is_gone_has_no_parent_start_time_or_environment():
    host, gone = Host(), 1 << 30
    assert (host.parent(gone), host.started(gone), host.environ(gone)) == (0, "", {})


# --- SLURM ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env",
    [
        {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"},
        srun(SLURM_STEP_ID="4294967290"),
        srun(SLURM_STEP_ID="4294967291"),
        srun(size=1, SLURM_PTY_PORT="40000"),
    ],
    ids=["batch script", "salloc's shell", "batch step", "srun --pty bash"],
)
def test_a_process_in_an_allocation_that_srun_did_not_start_is_alone(env: dict[str, str]):
    assert discover(env, host=Machine()) == Launch(0, 1, None, "single", None, False)


def test_a_single_task_of_srun_is_rank_0_of_1_under_its_step():
    found = discover(srun(rank=0, size=1), host=Machine())
    assert (found.rank, found.world_size, found.launcher) == (0, 1, "slurm")
    assert found.key is not None


def test_ranks_started_inside_one_task_are_numbered_by_their_own_variables():
    inside = [{**srun(0, 1), **variables(r, 4)} for r in range(4)]
    found = [discover(env, host=Machine()) for env in inside]
    assert [f.rank for f in found] == [0, 1, 2, 3]
    assert len({f.key for f in found}) == 1


# --- Ray, handle, nothing ---------------------------------------------------------------------


def test_a_ray_task_without_a_rank_is_alone_even_when_srun_started_ray():
    assert discover({**srun(rank=1), "RAY_JOB_ID": "01000000"}, host=Machine()).key is None


def test_a_child_with_the_handle_joins_that_run_and_is_given_its_rank():
    env = {**torchrun(rank=1), "EXPMAN_HANDLE": "token", "EXPMAN_HANDLE_PID": "50"}
    expected = Launch(None, None, None, "handle", "token", False)
    assert discover(env, host=Machine()) == expected
    assert discover({**env, "EXPMAN_RANK": "7"}, host=Machine()).rank == 7
    assert discover(env, rank=2, world_size=3, host=Machine()).rank == 2


def test_a_process_does_not_take_its_own_handle_for_its_parents():
    env = {"EXPMAN_HANDLE": "token", "EXPMAN_HANDLE_PID": "100"}
    assert discover(env, host=Machine(pid=100)).launcher == "single"
    assert discover(env, host=Machine(pid=101)).launcher == "handle"


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"RANK": "", "WORLD_SIZE": "", "EXPMAN_HANDLE": " "},
        {"RANK": "first"},
        {"WORLD_SIZE": "4"},
        {"LOCAL_RANK": "-1"},
        {"SLURM_JOB_ID": "1"},
    ],
)
def test_a_process_nobody_launched_is_alone(env: dict[str, str]):
    assert discover(env, host=Machine()) == Launch(0, 1, None, "single", None, False)


def test_a_world_of_one_is_alone():
    assert key(variables(rank=0, size=1)) is None


# --- what the caller says ---------------------------------------------------------------------


@each_launcher
def test_what_the_caller_says_wins(name: str, environment: Any):
    found = discover(environment(), rank=5, world_size=8, group="mine", host=Machine())
    assert (found.rank, found.world_size, found.launcher) == (5, 8, "explicit")
    assert found.key == key({}, rank=0, world_size=1, group="mine")


@each_launcher
def test_a_group_alone_keeps_the_ranks_of_the_launcher(name: str, environment: Any):
    found = discover(environment(rank=2), group="mine", host=Machine())
    assert (found.rank, found.world_size, found.launcher) == (2, 4, "explicit")


def test_nothing_in_the_environment_matters_once_all_is_said():
    found = discover({"RANK": "x", "WORLD_SIZE": "y"}, rank=0, world_size=2, group="g")
    assert (found.rank, found.world_size) == (0, 2)


def test_a_group_without_a_rank_leaves_the_rank_to_the_owner():
    found = discover({}, group="mine", host=Machine())
    assert (found.rank, found.world_size) == (None, None)


def test_ranks_that_only_say_their_number_meet_through_their_parent():
    found = [discover({}, rank=r, world_size=2, host=Machine(pid=100 + r)) for r in range(2)]
    elsewhere = discover({}, rank=0, world_size=2, host=Machine(processes=OTHER_AGENT))
    assert found[0].key == found[1].key != elsewhere.key
    assert found[0].host_local


def test_groups_with_different_names_have_different_keys():
    assert key({}, group="a") != key({}, group="b")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"rank": -1}, "rank=-1"),
        ({"rank": True}, "rank=True"),
        ({"rank": "0"}, "rank='0'"),
        ({"world_size": 0}, "world_size=0"),
        ({"rank": 2, "world_size": 2}, "rank=2 is not below world_size=2"),
        ({"group": ""}, "group=''"),
        ({"group": 7}, "group=7"),
    ],
)
def test_an_argument_that_makes_no_sense_is_named(said: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        discover({}, host=Machine(), **said)


@given(
    st.dictionaries(
        st.sampled_from([*torchrun(), *openmpi(), *hydra(), *srun(), *ray(), "EXPMAN_HANDLE"]),
        st.sampled_from([*map(str, range(-1, 6)), "", " 2 ", "1e3", "none", "²", "localhost"]),
    )
)
def test_any_environment_gives_a_valid_place_or_a_value_error(env: dict[str, str]):
    try:
        found = discover(env, host=Machine())
    except ValueError:
        return
    assert found.rank is None or found.rank >= 0
    if found.rank is not None and found.world_size is not None:
        assert found.rank < found.world_size
    assert found.rank is not None or found.key is not None
