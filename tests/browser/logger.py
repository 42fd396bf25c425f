"""Logs what the test tells it to: one JSON command a line on stdin, each answered on descriptor 3.

Usage: logger.py BASE_DIR RUN_NAME PARAMS PLACE
PARAMS is the JSON of what is known from the start, PLACE that of this rank:
{"rank": 1, "world_size": 2}, or {}.
Commands: {"metrics": {...}, "step": 1} | {"info": "text"} | {"print": "text"} | {"params": {...}}
| {"bulk": "key", "from": 0, "to": 100} logs its step as value
| {"ticking": 0.5, "names": 500} goes on by itself
| {"artifact": "path"} | {"flush": true} | {"raise": "why"} | {"close": true}
"""

import json
import sys
import threading
import time
from typing import TextIO

import monarch_like


def tick(exp: monarch_like.Experiment, every: float, names: int) -> None:
    """Logs so many metrics again and again, until the process ends."""
    step = 0
    while True:
        exp.log_metrics({f"m/{n:03}": (step * 31 + n) % 97 for n in range(names)}, step=step)
        step += 1
        time.sleep(every)


def main(base_dir: str, run_name: str, params: str, place: str, answers: TextIO) -> None:
    known = json.loads(params)
    where = json.loads(place)
    if where:
        where["group"] = run_name
    exp = monarch_like.init(
        "browser", run_name=run_name, base_dir=base_dir, params=known, tags=["<u>tag</u>"], **where
    )
    print(json.dumps({"run_dir": str(exp.run_dir)}), file=answers)
    for line in sys.stdin:
        command = json.loads(line)
        # The moment before the call: what the reader of the page waits from.
        at = time.time()
        if "metrics" in command:
            exp.log_metrics(command["metrics"], step=command.get("step"))
        if "bulk" in command:
            for step in range(command["from"], command["to"]):
                exp.log_metrics({command["bulk"]: float(step)}, step=step)
        if "ticking" in command:
            ticker = threading.Thread(
                target=tick, args=(exp, command["ticking"], command["names"]), daemon=True
            )
            ticker.start()
        if "flush" in command:
            exp.flush()
        if "info" in command:
            exp.info(command["info"])
        if "print" in command:
            print(command["print"], flush=True)
        if "params" in command:
            exp.log_params(command["params"])
        if "artifact" in command:
            exp.save_artifact(command["artifact"]).result()
        if "raise" in command:
            raise ValueError(command["raise"])
        if command.get("close"):
            exp.close()
        print(json.dumps({"at": at}), file=answers)


if __name__ == "__main__":
    # Descriptors 1 and 2 are captured as the run's output.
    with open(3, "w", buffering=1) as answers:
        base_dir, run_name, params, place = sys.argv[1:]
        main(base_dir, run_name, params, place, answers)
