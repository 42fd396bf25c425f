"""What is compared: each logs rows of floats with a step, and can read them back."""

from __future__ import annotations

from contenders.base import Contender
from contenders.expman_rs import ExpmanRs, ExpmanRs05
from contenders.mesh import ExpmanMesh
from contenders.plain import Csv, JsonLines, Nothing, PyarrowLoop, Sqlite
from contenders.trackers import Aim, Mlflow, TensorBoardX, Trackio, Wandb

CONTENDERS: dict[str, type[Contender]] = {
    each.name: each
    for each in (
        ExpmanMesh,
        ExpmanRs,
        ExpmanRs05,
        Trackio,
        Wandb,
        TensorBoardX,
        Aim,
        Mlflow,
        PyarrowLoop,
        Sqlite,
        Csv,
        JsonLines,
        Nothing,
    )
}

QUICK = ("expman-mesh", "expman-rs 1.3.0", "pyarrow loop", "sqlite3", "empty call")
"""Those of a developer's minute."""

NEEDED = ("expman-mesh", "empty call")
"""Those that always take part."""
