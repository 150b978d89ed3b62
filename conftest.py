"""What every test run shares: documents that run, and skips that are accounted for.

*Documents.*  The Python blocks of README.md (the root's and each package's) and of the chapters
`docs/*.md` are tests.  Names carry over from block to block; each document works in an empty
temporary folder of its own.

*Skips.*  A skipped test proves nothing, so each is named with its reason above the last line.
Where the variable CI is set, the only excuse is test data that is not there: a reason must name
TRICYCLE_TEST_DATA, and that variable must be unset.  Any other skip turns the run red.

*Counts.*  hypothesis tries 100 examples, or TRICYCLE_TEST_EXAMPLES, and ten times as many where
TRICYCLE_TEST_LONG is 1.  Where CI is set it tries the same ones each time, so that a run that was
green stays green; at home it looks further each time.

*Signals.*  What nohup ignores, or a shell that starts a run in the background, reaches the tests as
ever: they send such signals to themselves.
"""

import os
import shutil
import signal
import tempfile

import pytest
from hypothesis import settings
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

settings.register_profile(
    "tricycle",
    max_examples=int(os.environ.get("TRICYCLE_TEST_EXAMPLES", "100"))
    * (10 if os.environ.get("TRICYCLE_TEST_LONG") == "1" else 1),
    deadline=None,  # the first example may wait for a compiler
    derandomize="CI" in os.environ,
)
settings.load_profile("tricycle")


# ---- Signals ----

for name in ("SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU"):
    number = getattr(signal, name, None)  # Windows has two of them
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        is_ctrl_c = number == signal.SIGINT
        signal.signal(number, signal.default_int_handler if is_ctrl_c else signal.SIG_DFL)


# ---- Documents ----


def enter_empty_folder(namespace: dict) -> None:
    namespace["_left"], namespace["_entered"] = os.getcwd(), tempfile.mkdtemp()
    os.chdir(namespace["_entered"])


def leave_folder(namespace: dict) -> None:
    os.chdir(namespace["_left"])
    shutil.rmtree(namespace["_entered"])


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md"],
    setup=enter_empty_folder,
    teardown=leave_folder,
).pytest()


# ---- Skips ----


def is_excused(reason: str) -> bool:
    """Whether a test may be skipped for this reason where every test should run."""
    return "TRICYCLE_TEST_DATA" in reason and "TRICYCLE_TEST_DATA" not in os.environ


def skips(terminal) -> list[tuple[str, str]]:
    """(name, reason) of each test, or test file, that was skipped."""
    reports = terminal.stats.get("skipped", [])
    return [(report.nodeid, report.longrepr[2].removeprefix("Skipped: ")) for report in reports]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    unexcused = [name for name, reason in skips(terminal) if not is_excused(reason)]
    if os.environ.get("CI") and unexcused and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    skipped = skips(terminalreporter)
    if skipped:
        terminalreporter.section(f"{len(skipped)} skipped")
    for name, reason in skipped:
        mark = "" if is_excused(reason) else "  (not an excuse where CI is set)"
        terminalreporter.write_line(f"{name}: {reason}{mark}")
