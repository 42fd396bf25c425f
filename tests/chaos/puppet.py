"""A rank that does what a test says, one Python expression at a time, and measures its calls."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .victims import Victim, Zygote

PROGRAM = """
import base64, dataclasses, os, sys, time

exp = ml.Experiment(name, **options)
step = 0

def log(n, text_bytes=0):
    global step
    watch = Stopwatch()
    for step in range(step, step + n):
        # A text that no compression makes much shorter.
        text = base64.b64encode(os.urandom(text_bytes * 3 // 4)).decode()
        watch.call(exp.log_metrics, {"x": text or step * 0.5}, step)
    step += 1
    return watch.times

def flush(**how):
    return dataclasses.asdict(exp.flush(**how).wait())

say({"run_dir": str(exp.run_dir), "attempt": exp.attempt, "rank": exp.rank})
while True:
    order = hear()
    if order is None:
        break
    try:
        result = [eval(each) for each in order][-1]
        say({"answer": result})
    except Exception as error:
        say({"error": [type(error).__name__, str(error)]})
"""


class PuppetError(Exception):
    """An expression raised in the rank; `kind` names what."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class Puppet:
    """The test's end of such a rank."""

    def __init__(self, victim: Victim) -> None:
        self.victim = victim
        self.run_dir = Path()

    @property
    def pid(self) -> int:
        return self.victim.pid

    def joined(self) -> Puppet:
        """Waits until it has joined its run."""
        who = self.victim.hear()
        self.run_dir = Path(who["run_dir"])
        return self

    def start(self, *expressions: str) -> None:
        """Has it evaluate these, without waiting."""
        self.victim.tell(list(expressions))

    def answer(self) -> Any:
        """What the last expression of the oldest order was."""
        told = self.victim.hear()
        if "error" in told:
            raise PuppetError(*told["error"])
        return told["answer"]

    def do(self, *expressions: str) -> Any:
        self.start(*expressions)
        return self.answer()

    def log(self, n: int, text_bytes: int = 0) -> list[int]:
        """So many calls at the next steps from 0 on; answers with nanoseconds of each."""
        return list(self.do(f"log({n}, {text_bytes})"))

    def flush(self, **how: Any) -> dict[str, Any]:
        return dict(self.do(f"flush(**{how!r})"))

    def stats(self) -> dict[str, Any]:
        return dict(self.do("exp.stats()"))

    def close(self, **how: Any) -> bool:
        """Closes the run; answers whether the whole run is closed."""
        return bool(self.do(f"exp.close(**{how!r})"))

    def kill(self) -> None:
        os.kill(self.pid, 9)
        self.victim.wait()


def puppet(zygote: Zygote, name: str = "exp", join: bool = True, **options: Any) -> Puppet:
    """A rank with these options of `Experiment`."""
    json.dumps(options)
    it = Puppet(zygote.start(PROGRAM, name=name, options=options))
    return it.joined() if join else it
