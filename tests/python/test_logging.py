"""`logging`, warnings and uncaught exceptions: one message each, with all that it carries."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import monarch_like as ml
from ledger import Message, read_messages
from processes import Programs

HERE = Path(__file__)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger below the root, as it was when it is given back."""
    logger = logging.getLogger("test.of.logging")
    logger.setLevel(1)
    yield logger
    logger.handlers.clear()


@pytest.fixture
def alone() -> logging.Logger:
    """A logger that nobody else listens to."""
    return logging.Logger("alone", 1)


def messages(run: ml.Experiment | Path) -> list[Message]:
    run_dir = run if isinstance(run, Path) else run.run_dir
    return read_messages(run_dir / "run.log")


def the_messages(exps: Path) -> list[Message]:
    (path,) = exps.glob("*/*/run.log")
    return read_messages(path)


def here() -> int:
    """The line of the caller."""
    return sys._getframe(1).f_lineno


# --- the handler ----------------------------------------------------------------------------


def test_a_record_is_one_message_with_its_level_logger_file_and_line(
    exp: ml.Experiment, logger: logging.Logger
) -> None:
    logger.addHandler(exp.handler())
    child = logger.getChild("part ]%")
    lines = []
    for level in (1, 10, 20, 25, 30, 40, 50, 255):
        child.log(level, "two\nlines of %s", "text")
        lines.append(here() - 1)
    exp.close()
    levels = ["LEVEL1", "DEBUG", "INFO", "LEVEL25", "WARN", "ERROR", "CRITICAL", "LEVEL255"]
    kept = messages(exp)
    assert [m.level for m in kept] == levels
    assert [m.line for m in kept] == lines
    assert {m.text for m in kept} == {"two\nlines of text"}
    assert {m.logger for m in kept} == {"test.of.logging.part ]%"}
    assert {Path(m.file).name for m in kept} == {HERE.name}


def test_a_file_below_the_working_directory_is_told_by_its_relative_path(
    programs: Programs, exps: Path, tmp_path: Path
) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/inner.py").write_text("import logging\nlogging.warning('inner')\n")
    done = programs.run(
        """
        import logging, os, sys
        import monarch_like as ml
        with ml.init("exp", base_dir=sys.argv[1], logging=0, capture="off"):
            sys.path.insert(0, os.getcwd())
            import pack.inner
            os.mkdir("gone")
            os.chdir("gone")
            os.rmdir("../gone")
            logging.warning("from nowhere")
        """
    )
    assert done.returncode == 0, done.stderr
    inner, nowhere = the_messages(exps)
    assert (inner.text, inner.file, inner.line) == ("inner", "pack/inner.py", 2)
    assert nowhere.file == str(tmp_path / "program_1.py")


def test_an_exception_and_a_stack_are_in_the_same_record(
    exp: ml.Experiment, logger: logging.Logger
) -> None:
    logger.addHandler(exp.handler())
    try:
        raise ValueError("it diverged")
    except ValueError:
        logger.exception("while training")
    logger.warning("here", stack_info=True)
    exp.close()
    failed, stack = messages(exp)
    assert failed.text.startswith("while training\nTraceback (most recent call last):\n")
    assert failed.text.endswith("\nValueError: it diverged")
    assert stack.text.startswith("here\nStack (most recent call last):\n")


def test_a_level_beyond_all_bounds_is_clamped_and_named(
    exp: ml.Experiment, logger: logging.Logger
) -> None:
    handler = exp.handler()
    for level in (1000, -5, 25.5, float("nan"), "high", None):
        handler.handle(logging.makeLogRecord({"levelno": level, "msg": "text", "name": "n"}))
    exp.close()
    assert [(m.level, m.text) for m in messages(exp)] == [
        ("LEVEL255", "[level 1000] text"),
        ("LEVEL0", "[level -5] text"),
        ("LEVEL25", "[level 25.5] text"),
        ("INFO", "[level nan] text"),
        ("INFO", "[level 'high'] text"),
        ("INFO", "[level None] text"),
    ]


@pytest.mark.parametrize("level", [-1, 256, "LOUD", 1.5, True, None, ""], ids=repr)
def test_a_level_that_is_none_is_refused_by_its_name(
    exp: ml.Experiment, exps: Path, level: Any
) -> None:
    with pytest.raises(ml.ConfigError, match=r"level=.* is no level: a number from 0 to 255"):
        exp.handler(level)
    if level is not None:
        with pytest.raises(ml.ConfigError, match=r"logging=.* is no level"):
            ml.Experiment("other", base_dir=exps, capture="off", logging=level)
        assert not (exps / "other").exists()


class Raises:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class LogsItself:
    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger

    def __str__(self) -> str:
        self.logger.info("my text is asked for: %s", self)
        return "itself"


class Refuses(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise RuntimeError("no filter")


def test_whatever_is_logged_nothing_is_raised_and_something_is_stored(
    exp: ml.Experiment, alone: logging.Logger
) -> None:
    handler = exp.handler()
    alone.addHandler(handler)
    alone.info("%d of %d", "x")
    alone.info(Raises())
    alone.info("%s", Raises())
    alone.info("\ud800 lone, \udcff a byte, \0 nul")
    alone.info("%(a)s", {"b": 1})
    for odd in (
        {"msg": "odd", "lineno": "many", "pathname": None},
        {"msg": "negative", "lineno": -1, "name": "\udcff"},
        {"msg": "huge", "pathname": "f.py", "lineno": 2**40, "name": "n" * 9_999},
    ):
        handler.handle(logging.makeLogRecord({"levelno": 20, **odd}))
    handler.addFilter(Refuses())
    alone.info("though a filter raises")
    handler.filters.clear()
    with pytest.warns(RuntimeWarning, match="text cut"):
        alone.info("x" * 20_000_000)
    handler.setFormatter(logging.Formatter("%(nothing)s"))
    alone.info("though the formatter knows not how")
    exp.close()
    kept = messages(exp)  # and no warning of our own among them
    texts = [m.text for m in kept]
    assert texts[0].startswith("%d of %d % ('x',) [not formatted: TypeError: ")
    assert texts[1] == "<Raises> [not formatted: RuntimeError: no text]"
    assert texts[2] == "%s [not formatted: RuntimeError: no text]"
    assert texts[3] == "\ufffd\ufffd\ufffd lone, \ufffd\ufffd\ufffd a byte, \0 nul"
    assert texts[4] == "%(a)s % {'b': 1} [not formatted: KeyError: 'a']"
    assert texts[5:8] == ["odd", "negative", "huge"]
    assert [m.line for m in kept[5:8]] == [0, 0, 2**32 - 1]
    assert kept[7].logger == "n" * 1000
    assert texts[8] == "though a filter raises"
    assert set(texts[9]) == {"x"}
    assert len(texts[9]) > 1_000_000
    assert texts[10].startswith("though the formatter knows not how")


def test_a_text_that_logs_itself_ends(exp: ml.Experiment, alone: logging.Logger) -> None:
    alone.addHandler(exp.handler())
    alone.info("%s", LogsItself(alone))
    exp.close()
    texts = [m.text for m in messages(exp)]
    assert texts[-1] == "itself"
    assert 1 < len(texts) < 10


def test_threads_that_log_at_once_lose_and_tear_nothing(
    exp: ml.Experiment, logger: logging.Logger
) -> None:
    logger.addHandler(exp.handler())

    def work(number: int) -> None:
        for i in range(500):
            logger.info("%d.%d\n%d.%d", number, i, number, i)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    exp.close()
    seen: dict[str, list[int]] = {}
    for message in messages(exp):
        first, second = message.text.split("\n")
        assert first == second
        number, i = first.split(".")
        seen.setdefault(number, []).append(int(i))
    assert seen == {str(n): list(range(500)) for n in range(8)}


def test_a_closed_run_lets_go_of_every_logger_that_holds_its_handler(
    exps: Path, logger: logging.Logger
) -> None:
    exp = ml.Experiment("exp", base_dir=exps, capture="off")
    handler = exp.handler("warning")
    loggers = [logger, logger.getChild("a"), logging.getLogger("test.other")]
    for each in loggers:
        each.addHandler(handler)
    alone = logging.Logger("not in the hierarchy")
    alone.addHandler(handler)
    logger.warning("one")
    logger.info("too low")
    exp.close()
    assert not any(handler in each.handlers for each in loggers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logger.warning("nobody hears it")
        alone.warning("nor this")
        logger.addHandler(exp.handler())
        logger.warning("nor one of a closed run")
    assert [m.text for m in messages(exp)] == ["one"]


def test_a_strict_run_does_not_raise_into_who_only_logs(exps: Path, logger: logging.Logger) -> None:
    with ml.Experiment("exp", base_dir=exps, capture="off", strict=True) as exp:
        handler = exp.handler()
        logger.addHandler(handler)
        logger.info("x" * 20_000_000)
        logger.info("and on")
    kept = messages(exp)
    assert kept[-1].text == "and on"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_records_of_processes_are_stored_once_each(
    programs: Programs, exps: Path, method: str
) -> None:
    done = programs.run(
        """
        import logging, multiprocessing, sys
        import monarch_like as ml

        log = logging.getLogger("work")

        def work(n):
            if not log.handlers:
                exp = ml.init("exp", base_dir=sys.argv[1], capture="off")
                log.addHandler(exp.handler())
            log.warning("from worker %d", n)

        if __name__ == "__main__":
            exp = ml.init("exp", base_dir=sys.argv[1], capture="off")
            log.addHandler(exp.handler())
            log.warning("before")
            context = multiprocessing.get_context(sys.argv[2])
            workers = [context.Process(target=work, args=(n,)) for n in range(3)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            log.warning("after")
        """,
        method,
    )
    assert done.returncode == 0, done.stderr
    assert Counter(m.text for m in the_messages(exps)) == Counter(
        ["before", "after", *(f"from worker {n}" for n in range(3))]
    )


# --- everything that reaches the root logger --------------------------------------------------


def test_what_reaches_the_root_logger_is_stored_and_logging_does_as_it_did(
    programs: Programs, exps: Path
) -> None:
    program = """
    import logging, sys
    import monarch_like as ml
    if "without" not in sys.argv:
        ml.init("exp", base_dir=sys.argv[1], capture="off", logging=0)
    logging.getLogger("a").warning("by the last resort")
    logging.basicConfig(level=logging.INFO, format="configured %(message)s")
    logging.getLogger("a.b").info("info")
    logging.getLogger("a.b").debug("too low")
    quiet = logging.getLogger("quiet")
    quiet.propagate = False
    quiet.addHandler(logging.NullHandler())
    quiet.error("kept to itself")
    logging.basicConfig(level=logging.INFO, format="again %(message)s", force=True)
    logging.error("forced")
    import logging.config
    logging.config.dictConfig({"version": 1, "root": {"level": "ERROR", "handlers": []}})
    logging.error("nobody handles it")
    ml.close()
    logging.error("behind the run")
    """
    done = programs.run(program)
    assert done.returncode == 0, done.stderr
    assert done.stderr == programs.run(program, "without").stderr
    kept = [(m.level, m.logger, m.text) for m in the_messages(exps)]
    assert kept == [
        ("WARN", "a", "by the last resort"),
        ("INFO", "a.b", "info"),
        ("ERROR", "root", "forced"),
        ("ERROR", "root", "nobody handles it"),
    ]


def test_the_root_logger_lets_through_what_is_asked_for_and_is_given_back(exps: Path) -> None:
    root = logging.getLogger()
    calls = logging.Logger.callHandlers
    before = root.level
    root.setLevel(logging.WARNING)
    try:
        low = ml.Experiment("low", base_dir=exps, capture="off", logging="debug")
        high = ml.Experiment("high", base_dir=exps, capture="off", logging=20)
        logging.debug("one")
        logging.info("two")
        low.close()
        logging.debug("for nobody")
        logging.info("three")
        assert root.level == logging.INFO
        high.close()
        assert root.level == logging.WARNING
        assert logging.Logger.callHandlers is calls
        own = ml.Experiment("own", base_dir=exps, capture="off", logging="INFO")
        root.setLevel(logging.INFO)  # the program's own choice
        own.close()
        assert root.level == logging.INFO
    finally:
        root.setLevel(before)
    assert [m.text for m in messages(low)] == ["one", "two"]
    assert [m.text for m in messages(high)] == ["two", "three"]


# --- warnings ---------------------------------------------------------------------------------


def test_a_warning_that_is_shown_is_a_message_and_is_still_shown(
    programs: Programs, exps: Path
) -> None:
    program = """
    import sys, warnings
    import monarch_like as ml
    exp = ml.init("exp", base_dir=sys.argv[1], capture="off", logging=0)
    for _ in range(3):
        warnings.warn("careful", stacklevel=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn("caught by the program")
    assert len(caught) == 1
    warnings.filterwarnings("ignore", message="quiet")
    warnings.warn("quiet")
    import logging
    logging.captureWarnings(True)
    warnings.warn("by way of logging", DeprecationWarning)
    logging.captureWarnings(False)
    warnings.warn("at last")
    exp.close()
    warnings.warn("behind the run")
    """
    done = programs.run(program)
    assert done.returncode == 0, done.stderr
    kept = the_messages(exps)
    assert [(m.level, m.logger, m.file) for m in kept if m.text == "UserWarning: careful"] == [
        ("WARN", "py.warnings", "program_1.py")
    ]
    assert kept[0].line == 6
    assert "UserWarning: at last" in [m.text for m in kept]
    assert sum("by way of logging" in m.text for m in kept) <= 1
    assert not any("caught by" in m.text or "quiet" in m.text for m in kept)
    for text in ("careful", "at last", "behind the run"):
        assert f"UserWarning: {text}\n" in done.stderr


def test_warnings_passed_on_to_logging_before_the_run_are_stored_once(
    programs: Programs, exps: Path
) -> None:
    done = programs.run(
        """
        import logging, sys, warnings
        import monarch_like as ml
        logging.captureWarnings(True)
        logging.basicConfig()
        with ml.init("exp", base_dir=sys.argv[1], capture="off", logging=0) as exp:
            warnings.warn("careful")
            logging.getLogger("py.warnings").error("somebody's own")
        warnings.warn("behind the run")
        """
    )
    assert done.returncode == 0, done.stderr
    assert [(m.level, m.text) for m in the_messages(exps)] == [
        ("WARN", "UserWarning: careful"),
        ("ERROR", "somebody's own"),
    ]
    assert done.stderr.count("UserWarning: careful") == 1
    assert done.stderr.count("UserWarning: behind the run") == 1


# --- uncaught exceptions ------------------------------------------------------------------------

UNCAUGHT = """
import os, sys, threading
import monarch_like as ml
exp = ml.init("exp", base_dir=sys.argv[1], capture="off")
other = ml.Experiment("other", base_dir=sys.argv[1], capture="off")
def diverge(depth=3):
    if depth:
        return diverge(depth - 1)
    raise ValueError("it diverged")
"""


def uncaught(exps: Path, name: str = "exp") -> list[Message]:
    (path,) = exps.glob(f"{name}/*/run.log")
    return [m for m in read_messages(path) if m.logger == "uncaught"]


def test_an_uncaught_exception_of_the_program_is_one_message_in_every_open_run(
    programs: Programs, exps: Path
) -> None:
    done = programs.run(f"{UNCAUGHT}diverge()\n")
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("ValueError: it diverged"), "still shown"
    for name in ("exp", "other"):
        (message,) = uncaught(exps, name)
        assert message.level == "CRITICAL"
        assert message.text.startswith("uncaught in thread MainThread\nTraceback (most recent")
        assert message.text.endswith("\nValueError: it diverged")
        assert message.text.count("in diverge") == 4
        assert (message.file, message.line) == ("program_1.py", 9)


def test_an_exception_that_leaves_the_with_block_is_one_message_of_that_run(
    programs: Programs, exps: Path
) -> None:
    done = programs.run(f"{UNCAUGHT}\nwith exp:\n    diverge()\n")
    assert done.returncode == 1
    for name in ("exp", "other"):
        (message,) = uncaught(exps, name)
        assert message.text.startswith("uncaught in thread MainThread\nTraceback (most recent")
        assert message.text.endswith("\nValueError: it diverged")


def test_an_uncaught_exception_of_a_thread_is_one_message_and_the_program_goes_on(
    programs: Programs, exps: Path
) -> None:
    done = programs.run(
        f"""{UNCAUGHT}
seen = []
before = threading.excepthook
threading.excepthook = lambda args: (seen.append(args.exc_type), before(args))
thread = threading.Thread(target=diverge, name="loader-7")
thread.start()
thread.join()
leaver = threading.Thread(target=sys.exit)
leaver.start()
leaver.join()
assert seen == [ValueError, SystemExit], seen
exp.close()
other.close()
later = threading.Thread(target=diverge)
later.start()
later.join()
"""
    )
    assert done.returncode == 0, done.stderr
    (message,) = uncaught(exps)
    assert message.level == "CRITICAL"
    assert message.text.startswith("uncaught in thread loader-7\nTraceback (most recent")
    assert message.text.endswith("\nValueError: it diverged")
    assert done.stderr.count("ValueError: it diverged") == 2


def test_an_uncaught_exception_of_a_forked_child_is_stored_once(
    programs: Programs, exps: Path
) -> None:
    done = programs.run(
        f"""{UNCAUGHT}
pid = os.fork()
if pid == 0:
    diverge()
os.waitpid(pid, 0)
exp.info("the parent goes on")
"""
    )
    assert done.returncode == 0, done.stderr
    (message,) = uncaught(exps)
    assert message.text.endswith("\nValueError: it diverged")


def test_a_traceback_of_any_depth_keeps_its_end(programs: Programs, exps: Path) -> None:
    done = programs.run(f"{UNCAUGHT}raise ValueError('x' * 1_000_000 + ' the end')\n")
    assert done.returncode == 1
    (message,) = uncaught(exps)
    assert message.text.endswith("xxx the end")
    assert 100_000 <= len(message.text) < 101_000


def test_hooks_are_given_back_behind_the_last_run(exps: Path) -> None:
    def hooks() -> list[Any]:
        return [sys.excepthook, threading.excepthook, warnings.showwarning, sys.unraisablehook]

    before = hooks()
    runs = [ml.Experiment(f"e{n}", base_dir=exps, capture="off", logging=0) for n in range(3)]
    during = hooks()
    assert during[:3] != before[:3]
    assert during[3] is before[3]
    runs[0].close()
    runs[2].close()
    assert hooks() == during
    runs[1].close()
    assert hooks() == before


def test_a_hook_that_somebody_put_on_top_stays_and_is_called(exps: Path) -> None:
    seen: list[str] = []
    first = ml.Experiment("first", base_dir=exps, capture="off")
    ours = sys.excepthook

    def theirs(*args: Any) -> None:
        seen.append(str(args[1]))
        ours(*args)

    sys.excepthook = theirs
    try:
        first.close()
        assert sys.excepthook is theirs
        for _ in range(20):  # what is left of each run must not pile up
            ml.Experiment("next", base_dir=exps, capture="off").close()
        assert sys.excepthook is theirs
        shown = io.StringIO()
        last = ml.Experiment("last", base_dir=exps, capture="off")
        with last, contextlib.redirect_stderr(shown):
            sys.excepthook(KeyError, KeyError("k"), None)
        assert seen == ["'k'"]
        assert shown.getvalue() == "KeyError: 'k'\n"
        assert [m.text for m in messages(last)] == ["uncaught in thread MainThread\nKeyError: 'k'"]
    finally:
        sys.excepthook = getattr(ours, "before", ours)
