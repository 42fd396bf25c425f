"""One workload with one contender, in this process.

Called by the driver as `python worker.py CONTENDER FOLDER MODULE OPTIONS`, the last one JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.append(sys.path.pop(0))  # what is installed comes first: names of ours are plain words

from contenders import CONTENDERS, Contender


class Driver:
    """Who measures this process from outside; text for people goes to stderr meanwhile."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def stop(self, at: str, **facts: Any) -> str:
        """Lets the driver look; the word with which it says that it goes on."""
        self.tell({"stop": at, **facts})
        return sys.stdin.readline().strip()

    def tell(self, facts: dict[str, Any]) -> None:
        self._out.write(json.dumps(facts) + "\n")
        self._out.flush()


def main() -> None:
    name, folder, module, text = sys.argv[1:]
    options = json.loads(text)
    driver = Driver()
    seat = {k: options.pop(k) for k in ("rank", "world", "keys", "wait") if k in options}
    contender: Contender = CONTENDERS[name](Path(folder), **seat)
    if module == "prepare":
        contender.prepare()
        driver.tell({})
        return
    driver.tell(importlib.import_module(module).measure(contender, driver, **options))


if __name__ == "__main__":
    main()
