"""Rows 1, 2, 14, 15, 16: ranks that are killed, at any moment and in any way."""

from __future__ import annotations

import pytest

from .victims import Zygote


@pytest.mark.row(1)
@pytest.mark.slice
def test_smoke(zygote: Zygote, exps) -> None:
    v = zygote.start(
        """
exp = ml.init("exp", base_dir=exps, redirect_console=False)
exp.log_metrics({"a": 1.0})
say(hear())
""",
        exps=str(exps),
    )
    v.tell(5)
    assert v.hear() == 5
    assert v.wait() == 0, v.text()
