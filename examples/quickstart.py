"""One process, one run: the shortest use there is."""

import math

import monarch_like

with monarch_like.init("quickstart", params={"rate": 0.1}) as exp:
    for step in range(1000):
        exp.log_metrics({"loss": math.exp(-step / 200), "wave": math.sin(step / 30)}, step=step)
    print(exp.flush(timeout=10).wait())
    print(f"look at it: expman serve {exp.run_dir.parent.parent}")
