"""Bad input: each a clear error that names what and where; never a crash of training."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

import monarch_like as ml
from ledger import read_rows, said
from processes import Programs, kill_owner, marked, stop, until


@pytest.mark.parametrize(
    "name",
    ["", "x" * 201, "..", "../out", "a/b", "/abs", ".hidden", "a\\b", "nul\0", "cr\r", "\u202eb"],
    ids=repr,
)
@pytest.mark.parametrize("place", ["name", "run_name"])
def test_a_name_that_is_empty_too_long_or_leaves_the_folder_is_refused(
    exps: Path, tmp_path: Path, name: str, place: str
) -> None:
    names = {"name": "exp", "run_name": "run", place: name}
    what = {"name": "experiment name", "run_name": "run name"}[place]
    with pytest.raises(ml.ConfigError, match=f"^{what} "):
        ml.Experiment(base_dir=exps, redirect_console=False, **names)
    assert not exps.exists(), "nothing is made before the names are checked"
    assert marked(tmp_path) == {}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rank", -1),
        ("rank", "0"),
        ("rank", 2),
        ("world_size", 0),
        ("group", ""),
        ("on_full", "wait"),
        ("tags", "one text"),
        ("tags", 5),
        ("tags", [1]),
        ("description", 5),
        ("base_dir", 5),
        ("base_dir", None),
        ("name", 5),
        ("name", None),
        ("run_name", 5),
        ("timeout", "soon"),
        ("flush_interval_ms", "often"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(exps: Path, option: str, value: Any) -> None:
    options: dict[str, Any] = {"name": "exp", "base_dir": exps, "world_size": 2, "group": "g"}
    options.update({"redirect_console": False, "rank": 0, option: value})
    with pytest.raises(ml.ConfigError, match=re.escape(repr(value))) as raised:
        ml.Experiment(**options)
    assert option in str(raised.value)


@pytest.mark.parametrize("bad", ["file", "below a file", "read-only file system"])
def test_a_base_dir_that_cannot_be_written_is_named(tmp_path: Path, bad: str) -> None:
    file = tmp_path / "file"
    file.write_text("")
    base = {"file": file, "below a file": file / "exps", "read-only file system": "/proc/exps"}[bad]
    with pytest.raises(ml.StorageError, match=re.escape(str(base))):
        ml.Experiment("exp", base_dir=base, redirect_console=False)


def test_a_base_dir_of_somebody_else_is_named(programs: Programs, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    done = programs.run(
        """
        import os, sys
        import monarch_like as ml
        if os.geteuid() == 0:
            os.setgid(65534); os.setuid(65534)
        else:
            os.chmod(sys.argv[2], 0o555)
        try:
            ml.Experiment("exp", base_dir=sys.argv[2], redirect_console=False)
        except ml.StorageError as error:
            print(error)
        """,
        theirs,
    )
    assert done.returncode == 0, done.stderr
    assert str(theirs) in done.stdout
    assert "denied" in done.stdout.lower()


def make_run(exps: Path, name: str = "run") -> Path:
    """A finished run of ten rows."""
    with ml.Experiment("exp", name, base_dir=exps, redirect_console=False) as exp:
        for step in range(10):
            exp.log_metrics({"loss": 0.5}, step=step)
        exp.log_params({"lr": 0.1})
    return exp.run_dir


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_run_name_that_exists_is_refused_and_the_run_is_not_touched(
    exps: Path, tmp_path: Path
) -> None:
    run_dir = make_run(exps)
    until(lambda: not marked(tmp_path), what="end of the owner")
    before = content(run_dir)
    with pytest.raises(ml.RunExistsError, match="'?\"?run\"?'?.*" + re.escape(str(run_dir))):
        ml.Experiment("exp", "run", base_dir=exps, redirect_console=False)
    assert marked(tmp_path) == {}, "no owner was started"
    assert content(run_dir) == before


def test_a_run_name_of_a_live_run_is_refused(exps: Path, exp: ml.Experiment) -> None:
    with pytest.raises(ml.RunExistsError, match=re.escape(str(exp.run_dir))):
        ml.Experiment("exp", exp.run_name, base_dir=exps, redirect_console=False)
    exp.log_metrics({"loss": 1.0})
    assert exp.flush().wait()


def test_resume_joins_a_run_that_exists_and_keeps_its_rows(exps: Path) -> None:
    run_dir = make_run(exps)
    before = yaml.safe_load((run_dir / "run.yaml").read_text())
    with ml.Experiment("exp", "run", base_dir=exps, resume=True, redirect_console=False) as exp:
        assert exp.run_dir == run_dir
        assert exp.run_id == before["id"]
        assert exp.attempt == 1
        exp.log_metrics({"loss": 0.25}, step=3)
    rows = read_rows(run_dir)
    assert len(rows) == 11
    assert [(row.attempt, row.value) for row in rows if row.step == 3] == [(0, 0.5), (1, 0.25)]
    after = yaml.safe_load((run_dir / "run.yaml").read_text())
    assert (after["status"], after["started_at"]) == ("finished", before["started_at"])
    assert yaml.safe_load((run_dir / "config.yaml").read_text()) == {"lr": 0.1}


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("run.yaml", b"name: [unclosed"),
        ("run.yaml", b"\xff\xfe\0"),
        ("config.yaml", b"a: b: c"),
        ("metrics.parquet", b"PAR1 and no footer"),
        ("metrics.parquet", b""),
    ],
)
def test_a_damaged_file_of_a_run_is_named_when_it_is_resumed(
    exps: Path, file: str, damage: bytes
) -> None:
    run_dir = make_run(exps)
    (run_dir / file).write_bytes(damage)
    with pytest.raises(ml.ExpmanError, match=re.escape(str(run_dir / file))):
        ml.Experiment("exp", "run", base_dir=exps, resume=True, redirect_console=False)
    assert (run_dir / file).read_bytes() == damage, "somebody's file is left as it is"


def test_metrics_without_a_record_are_not_overwritten(exps: Path) -> None:
    run_dir = make_run(exps)
    (run_dir / "run.yaml").unlink()
    shutil.rmtree(run_dir / ".expman")
    with ml.Experiment("exp", "run", base_dir=exps, resume=True, redirect_console=False) as exp:
        exp.log_metrics({"loss": 1.0}, step=10)
    assert len(read_rows(run_dir)) == 11


def test_a_torn_log_is_mended_when_its_run_is_resumed(programs: Programs, exps: Path) -> None:
    ranks = programs.ranks(1, run_name="run")
    ranks.log(20)
    assert ranks[0].ask("flush")["complete"]
    stop(ranks[0].pid)  # SIGSTOP: it shall not start another owner
    kill_owner(ranks.run_dir)
    ranks[0].kill()
    (log,) = ranks.run_dir.glob(".expman/wal-*.wal")
    with log.open("ab") as file:
        file.write(b"EXPW\x40\x00\x00\x00 a frame that was being written")
    ranks.ledger.prove(ranks.run_dir)
    with ml.Experiment("exp", "run", base_dir=exps, resume=True, redirect_console=False) as exp:
        assert exp.flush().wait().rows == 40
    ranks.ledger.prove(ranks.run_dir)


def test_a_damaged_log_keeps_what_stands_in_front_of_the_damage(
    programs: Programs, exps: Path
) -> None:
    ranks = programs.ranks(1, run_name="run")
    ranks.log(20)
    assert ranks[0].ask("flush")["complete"]
    stop(ranks[0].pid)
    kill_owner(ranks.run_dir)
    ranks[0].kill()
    (log,) = ranks.run_dir.glob(".expman/wal-*.wal")
    with log.open("ab") as file:
        file.write(b"no frame at all, but as long as one would be")
    with ml.Experiment("exp", "run", base_dir=exps, resume=True, redirect_console=False) as exp:
        assert exp.flush().wait().rows == 40
    events = (ranks.run_dir / "events.jsonl").read_text()
    assert str(log) in events, "the damage is told"


@pytest.mark.parametrize("given", [5, None, "text", [1, 2], object()], ids=repr)
def test_logging_what_is_no_mapping_is_counted_and_warned_about(
    exp: ml.Experiment, given: Any
) -> None:
    with pytest.warns(RuntimeWarning, match="not a mapping"):
        exp.log_metrics(given)
    exp.log_params(given)
    exp.log_metrics({"loss": 1.0})
    assert exp.flush().wait().rows == 1
    assert exp.stats()["dropped"] == {"not a mapping": 2}


@pytest.mark.parametrize("step", ["1", 1.5, 2**63, object(), float("nan"), [1]], ids=repr)
def test_a_step_that_is_none_is_counted_and_warned_about(exp: ml.Experiment, step: Any) -> None:
    with pytest.warns(RuntimeWarning, match="bad step"):
        exp.log_metrics({"loss": 1.0}, step=step)
    assert exp.stats()["dropped"] == {"bad step": 1}


def test_messages_and_scalars_of_any_kind_never_raise(exp: ml.Experiment) -> None:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError("no")

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for level in ("loud", None, 256, -1, 2.5, object()):
            exp.log_message(level, "kept")  # type: ignore[arg-type]
        exp.log_scalar(5, 1.0)  # type: ignore[arg-type]
        exp.log_scalar("x" * 2000, 1.0)
        exp.log_scalar("s", object())
        exp.info("x" * (5 << 20))
    assert len(told) == 5, "each reason is told once"
    exp.info(Mute())
    exp.info(None)
    exp.error(ValueError("e"))
    exp.close()
    log = said(exp.run_dir)
    assert log.count(("INFO", 0, "kept")) == 6
    assert ("ERROR", 0, "e") in log
    record = yaml.safe_load((exp.run_dir / "run.yaml").read_text())
    assert record["dropped"] == 4, "a message whose level is none is written, not dropped"


def test_parameters_that_have_no_yaml_form_are_kept_as_text(exp: ml.Experiment) -> None:
    deep: Any = 1
    for _ in range(100):
        deep = {"d": deep}
    ring: dict[str, Any] = {}
    ring["ring"] = ring
    exp.log_params({"deep": deep, "ring": ring, "big": 2**70, "object": Path("/x"), 5: None})
    exp.close()
    kept = yaml.safe_load((exp.run_dir / "config.yaml").read_text())
    assert kept["big"] == str(2**70)
    assert kept["object"] == "/x"
    assert kept["5"] is None
    assert set(kept) == {"deep", "ring", "big", "object", "5"}


def test_ends_and_scopes_that_do_not_exist_are_refused_and_change_nothing(
    exp: ml.Experiment,
) -> None:
    with pytest.raises(ml.ConfigError, match="done"):
        exp.close(status="done")
    with pytest.raises(ml.ConfigError, match="world"):
        exp.flush(scope="world")
    exp.log_metrics({"loss": 1.0})
    assert exp.flush().wait().rows == 1


@pytest.mark.parametrize("handle", ["no json", "{}", '{"run_dir": 5}'])
def test_a_handle_that_is_none_is_refused(
    exps: Path, monkeypatch: pytest.MonkeyPatch, handle: str
) -> None:
    monkeypatch.setenv("EXPMAN_HANDLE", handle)
    with pytest.raises(ml.ConfigError, match="handle"):
        ml.Experiment("exp", base_dir=exps, redirect_console=False)


def test_without_a_run_the_module_says_what_to_do() -> None:
    with pytest.raises(ml.ConfigError, match="init"):
        ml.log_metrics({"loss": 1.0})
    assert ml.close() is False
