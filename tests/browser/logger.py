"""Logs what the test tells it to, one JSON command a line on stdin, and answers each on descriptor 3.

Usage: logger.py BASE_DIR RUN_NAME
Commands: {"metrics": {...}, "step": 1} | {"info": "text"} | {"print": "text"} | {"close": true}
"""

import json
import sys
import time

import monarch_like


def main() -> None:
    base_dir, run_name = sys.argv[1:]
    exp = monarch_like.init("browser", run_name=run_name, base_dir=base_dir, params={"lr": 0.1, "<b>": "<i>"})
    # The descriptors 1 and 2 are captured as a run's output, so answers go to the one that was there before.
    answers = open(3, "w", buffering=1)
    print(json.dumps({"run_dir": str(exp.run_dir)}), file=answers)
    for line in sys.stdin:
        command = json.loads(line)
        # The moment of the call, before it: what the reader of the page waits from.
        at = time.time()
        if "metrics" in command:
            exp.log_metrics(command["metrics"], step=command.get("step"))
        if "info" in command:
            exp.info(command["info"])
        if "print" in command:
            print(command["print"], flush=True)
        if command.get("close"):
            exp.close()
        print(json.dumps({"at": at}), file=answers)


if __name__ == "__main__":
    main()
