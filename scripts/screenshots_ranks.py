"""The runs on the pictures: ranks that log what a small training would.

Usage: screenshots_ranks.py BASE_DIR RUN RANKS STEPS STEP_SECS LR [fails | tags …]
Step times and losses are made up; processes, queues, flushes and the failure are real.
"""

from __future__ import annotations

import math
import multiprocessing
import random
import sys
import tempfile
import time
from pathlib import Path

import monarch_like

STRAGGLER = 5
FAILS_AT = 240
SPIKE_AT = 117
# Steps in which most is learnt.
PACE = 400


def rank(
    place: tuple[int, int],
    base: str,
    name: str,
    steps: int,
    step_secs: float,
    lr: float,
    tags: list[str],
) -> None:
    number, world = place
    chance = random.Random(number * 1009 + len(name))
    fails = "fails" in tags
    params = {
        "optimizer": {"name": "adamw", "lr": lr},
        "batch": 32,
        "model": {"layers": 12, "width": 768},
    }
    with monarch_like.init(
        "gpt-ddp8",
        run_name=name,
        base_dir=base,
        rank=number,
        world_size=world,
        group=name,
        params=params,
        tags=[t for t in tags if t != "fails"],
    ) as run:
        for step in range(steps):
            part = step / PACE
            slow = 44 if number == STRAGGLER else 0
            spike = 1.6 if number == STRAGGLER and step == SPIKE_AT else 0
            loss = 0.35 + 2.6 * math.exp(-part * (3 + 900 * lr)) + chance.gauss(0, 0.025) + spike
            step_ms = 115 + chance.gauss(0, 1.5) + slow
            metrics = {
                "train/loss": loss,
                "train/accuracy": 1 - math.exp(-part * 2.4) + chance.gauss(0, 0.007),
                "train/grad_norm": math.exp(chance.gauss(0.2, 0.15)) * (4 if spike else 1),
                "train/step_time_ms": step_ms,
                "train/tokens_per_sec": 32 * 1024 / step_ms * 1000,
                "train/lr": lr * (1 + math.cos(math.pi * min(1, part))) / 2,
                "sys/gpu_util": min(100, 94 + chance.gauss(0, 2)),
                "sys/gpu_mem_gib": 61 + 2 * part,
            }
            if step % 40 == 39:
                metrics |= {
                    "val/loss": loss * 1.08,
                    "val/accuracy": 0.93 * (1 - math.exp(-part * 2.4)),
                }
            run.log_metrics(metrics, step=step)
            if spike:
                run.warn(f"data loader stalled {slow} ms, batch {step} came late")
                print(
                    f"\033[33mWARN\033[0m data loader stalled {slow} ms at step {step}", flush=True
                )
            if step % 20 == 0:
                print(f"\033[32mstep {step:4}\033[0m loss {loss:.4f}  {step_ms:.0f} ms", flush=True)
            if fails and number == 3 and step == FAILS_AT:
                raise RuntimeError("CUDA error: device-side assert triggered (loss is not finite)")
            if number == 0 and step % 90 == 89:
                run.flush()
            time.sleep(step_secs)
        if number == 0:
            with tempfile.TemporaryDirectory() as folder:
                table = Path(folder) / "validation.csv"
                table.write_text(
                    "epoch,loss\n" + "".join(f"{n},{2 / (n + 1):.4f}\n" for n in range(40))
                )
                run.save_artifact(table).result()


def main() -> None:
    base, name, ranks, steps, step_secs, lr, *tags = sys.argv[1:]
    rest = (base, name, int(steps), float(step_secs), float(lr), tags)
    processes = [
        multiprocessing.Process(target=rank, args=((n, int(ranks)), *rest))
        for n in range(int(ranks))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
