"""Artifacts: copied behind training, never outside their folder, never over each other."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

import monarch_like as ml
from processes import Programs


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def names(exp: ml.Experiment) -> list[str]:
    root = exp.run_dir / "artifacts"
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_a_relative_path_is_kept_and_an_absolute_one_goes_by_its_file_name(
    exp: ml.Experiment, here: Path
) -> None:
    (here / "out").mkdir()
    (here / "out/model.bin").write_bytes(b"\0\1\2")
    exp.save_artifact("out/model.bin").result(10)
    exp.save_artifact(here / "out/model.bin").result(10)
    exp.save_artifact("./out/../out/model.bin", name="named/by/me").result(10)
    assert names(exp) == ["model.bin", "named/by/me", "out/model.bin"]
    assert (exp.run_dir / "artifacts/out/model.bin").read_bytes() == b"\0\1\2"


def test_a_folder_is_saved_with_all_that_is_in_it(exp: ml.Experiment, here: Path) -> None:
    (here / "ckpt/deep").mkdir(parents=True)
    (here / "ckpt/a").write_text("1")
    (here / "ckpt/deep/..b").write_text("2")
    exp.save_artifact("ckpt").result(10)
    assert names(exp) == ["ckpt/a", "ckpt/deep/..b"]


@pytest.mark.parametrize("name", ["../x", "..", ".", "", "/etc/x", "a/../../x"])
def test_a_name_that_would_leave_the_folder_is_refused_by_name(
    exp: ml.Experiment, here: Path, name: str
) -> None:
    (here / "x").write_text("1")
    with pytest.raises(ml.ArtifactError, match=re.escape(repr(name))):
        exp.save_artifact("x", name=name)
    assert names(exp) == []


def test_a_relative_path_that_leads_out_needs_a_name(exp: ml.Experiment, here: Path) -> None:
    (here.parent / "x").write_text("1")
    with pytest.raises(ml.ArtifactError, match=r"\.\./x"):
        exp.save_artifact("../x")
    exp.save_artifact("../x", name="x").result(10)
    assert names(exp) == ["x"]


def test_what_does_not_exist_or_cannot_be_read_is_named(exp: ml.Experiment, here: Path) -> None:
    with pytest.raises(ml.ArtifactError, match=r"missing\.bin"):
        exp.save_artifact("missing.bin")
    (here / "dangling").symlink_to(here / "nothing")
    with pytest.raises(ml.ArtifactError, match="dangling"):
        exp.save_artifact("dangling")
    os.mkfifo(here / "pipe")
    with pytest.raises(ml.ArtifactError, match="pipe"):
        exp.save_artifact("pipe").result(10)
    with pytest.raises(ml.ArtifactError, match="zero"):
        exp.save_artifact("/dev/zero").result(10)
    (here / "folder").mkdir()
    (here / "folder/loop").symlink_to(here / "folder")
    with pytest.raises(ml.ArtifactError, match="loop"):
        exp.save_artifact("folder").result(10)


def test_a_clash_is_an_error_that_names_the_file_and_the_same_content_is_none(
    exp: ml.Experiment, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "a").write_text("one")
    exp.save_artifact("a").result(10)
    exp.save_artifact("a").result(10)
    (here / "a").write_text("two")
    with pytest.raises(ml.ArtifactError, match=re.escape(str(exp.run_dir / "artifacts/a"))):
        exp.save_artifact("a").result(10)
    assert (exp.run_dir / "artifacts/a").read_text() == "one"
    exp.close()
    assert "artifacts/a" in capfd.readouterr().err, "it is also said, for nobody looks at results"
    assert "artifacts/a" in (exp.run_dir / "run.log").read_text()


def test_two_ranks_that_save_the_same_name_get_one_file_and_one_error(
    exps: Path, here: Path
) -> None:
    ranks = [
        ml.Experiment("exp", base_dir=exps, rank=r, world_size=2, group="g", redirect_console=False)
        for r in range(2)
    ]
    for r, rank in enumerate(ranks):
        (here / f"{r}").write_text(f"from rank {r}")
        rank.save_artifact(f"{r}", name="best").exception(10)
    assert (ranks[0].run_dir / "artifacts/best").read_text() == "from rank 0"
    for rank in ranks:
        rank.close()
    events = (ranks[0].run_dir / "events.jsonl").read_text().splitlines()
    saved = [e for e in map(json.loads, events) if e["type"] == "artifact"]
    assert [(e["rank"], e["name"], e["size"]) for e in saved] == [(0, "best", 11)]


def test_a_link_inside_artifacts_does_not_lead_out(
    exp: ml.Experiment, here: Path, tmp_path: Path
) -> None:
    (here / "x").write_text("1")
    (exp.run_dir / "artifacts/out").symlink_to(tmp_path)
    with pytest.raises(ml.ArtifactError, match="out/x"):
        exp.save_artifact("x", name="out/x").result(10)
    assert not (tmp_path / "x").exists()


def test_saving_returns_at_once_and_closing_waits_for_it(exp: ml.Experiment, here: Path) -> None:
    (here / "big").write_bytes(os.urandom(1 << 20) * 32)
    start = time.monotonic()
    exp.save_artifact("big")
    assert time.monotonic() - start < 0.1
    exp.close()
    assert (exp.run_dir / "artifacts/big").stat().st_size == 32 << 20
    assert not list(exp.run_dir.rglob("*.tmp"))
    events = (exp.run_dir / "events.jsonl").read_text().splitlines()
    (saved,) = (e for e in map(json.loads, events) if e["type"] == "artifact")
    assert (saved["name"], saved["size"], len(saved["hash"])) == ("big", 32 << 20, 64)


def test_a_copy_that_hangs_does_not_hang_the_end_of_the_program(
    programs: Programs, exps: Path
) -> None:
    done = programs.run(
        """
        import os, sys, threading, time
        import monarch_like as ml
        exp = ml.init("exp", base_dir=sys.argv[1], redirect_console=False)
        exp.log_metrics({"loss": 1.0})
        exp._copies.submit(threading.Event().wait)  # as a file system that does not answer
        print(time.monotonic(), flush=True)
        """
    )
    assert time.monotonic() - float(done.stdout) < 5.0 + 1.0
    assert done.returncode == 0
    assert "1 artifacts were not copied" in done.stderr
    (record,) = exps.glob("*/*/run.yaml")
    assert "status: finished" in record.read_text()
