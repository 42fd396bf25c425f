"""Logs what the test tells it to: one JSON command a line on stdin, each answered on descriptor 3.

Usage: logger.py BASE_DIR RUN_NAME PARAMS
PARAMS is the JSON of what is known from the start.
Commands: {"metrics": {...}, "step": 1} | {"info": "text"} | {"print": "text"} | {"params": {...}}
| {"artifact": "path"} | {"raise": "why"} | {"close": true}
"""

import json
import sys
import time
from typing import TextIO

import monarch_like


def main(base_dir: str, run_name: str, params: str, answers: TextIO) -> None:
    known = json.loads(params)
    exp = monarch_like.init(
        "browser", run_name=run_name, base_dir=base_dir, params=known, tags=["<u>tag</u>"]
    )
    print(json.dumps({"run_dir": str(exp.run_dir)}), file=answers)
    for line in sys.stdin:
        command = json.loads(line)
        # The moment before the call: what the reader of the page waits from.
        at = time.time()
        if "metrics" in command:
            exp.log_metrics(command["metrics"], step=command.get("step"))
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
        base_dir, run_name, params = sys.argv[1:]
        main(base_dir, run_name, params, answers)
