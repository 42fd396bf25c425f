"""Writes the runs in this folder with expman-rs itself.

Run it once per version, each in an environment that has that version installed:

    python generate.py v0_2_9
    python generate.py v0_5_3
    python generate.py v1_3_0

Each run logs the same twelve steps, a few values of other types, and one call without a step.
"""

import inspect
import os
import subprocess
import sys

from expman import Experiment

ROOT = os.path.dirname(os.path.abspath(__file__))


def log(experiment):
    vector = getattr(experiment, "log_vector", None) or experiment.log_metrics
    experiment.log_params({"lr": 0.1, "optimizer": {"name": "adam"}, "epochs": 3, "shuffle": True})
    for step in range(12):
        values = {"loss": 1.0 / (step + 1), "acc": step / 10}
        if step % 3 == 0:
            values["val/loss"] = 0.5
        if step == 4:
            values |= {"nan": float("nan"), "inf": float("inf")}
        vector(values, step=step)
    # Steps of their own: some versions merge rows of one step.
    for step, values in enumerate(({"count": 3}, {"flag": True}, {"note": "hello"}), start=20):
        vector(values, step=step)
    vector({"stepless": 1.5})
    if hasattr(experiment, "log_scalar"):
        for key, value in {"best": 0.9, "cnt": 7, "ok": True, "said": "hi"}.items():
            experiment.log_scalar(key, value)
    experiment.info("hello info")
    experiment.warn("warned")


def write(version, run):
    known = inspect.signature(Experiment.__init__).parameters
    wanted = {
        "tags": ["a", "b"],
        "description": "what it is for",
        "system_metrics_interval_secs": 0,
        "capture_provenance": False,
    }
    if run == "rank1":
        wanted |= {"group": "g1", "rank": 1}
    options = {key: value for key, value in wanted.items() if key in known}
    experiment = Experiment(
        version,
        run_name="resumed" if run == "again" else run,
        base_dir=ROOT,
        flush_interval_rows=5,
        flush_interval_ms=100,
        redirect_console=False,
        **options,
    )
    if run == "again":
        experiment.log_vector({"loss": 9.0}, step=100)
    else:
        log(experiment)
    if run in ("killed", "again"):
        import time

        time.sleep(0.5)
        os.kill(os.getpid(), 9)
    experiment.close()


if __name__ == "__main__":
    if len(sys.argv) == 3:
        write(sys.argv[1], sys.argv[2])
    else:
        later = sys.argv[1] == "v1_3_0"
        for run in ["done"] + ["rank1", "killed", "resumed", "again"] * later:
            # One process per run: a killed one takes its interpreter with it.
            subprocess.run([sys.executable, __file__, sys.argv[1], run], check=False)
