"""A skip is for test data alone: the rules that conftest.py applies to every run, applied here
to a small folder of tests with that very conftest.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDS_DATA = "needs vocab.bpe in the folder TRICYCLE_TEST_DATA"
NEEDS_LUCK = "the wind is wrong"


@pytest.fixture
def outcome(tmp_path):
    """Run one skipped test beside one that passes; return the exit status and the last lines."""
    shutil.copy(ROOT / "conftest.py", tmp_path)

    def run(reason: str, **variables: str) -> tuple[int, list[str]]:
        (tmp_path / "test_one.py").write_text(
            "import pytest\n"
            f"def test_skipped(): pytest.skip({reason!r})\n"
            "def test_passed(): assert 1 + 1 == 2\n"
        )
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("CI", "TRICYCLE_TEST_DATA", "PYTEST_ADDOPTS")
        }
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
        run = subprocess.run(
            command, cwd=tmp_path, env=environment | variables, capture_output=True, text=True
        )
        return run.returncode, run.stdout.strip().splitlines()[-2:]

    return run


def test_a_test_without_its_data_is_named_and_excused(outcome):
    status, (skipped, last) = outcome(NEEDS_DATA, CI="true")
    assert status == 0
    assert skipped == f"test_one.py::test_skipped: {NEEDS_DATA}"
    assert last.startswith("1 passed, 1 skipped")


def test_data_that_is_there_is_no_excuse(outcome, tmp_path):
    status, (skipped, _) = outcome(NEEDS_DATA, CI="true", TRICYCLE_TEST_DATA=str(tmp_path))
    assert status == 1
    assert skipped.endswith("(not an excuse where CI is set)")


def test_any_other_reason_fails_the_run(outcome):
    status, (skipped, _) = outcome(NEEDS_LUCK, CI="true")
    assert status == 1
    assert skipped == f"test_one.py::test_skipped: {NEEDS_LUCK}  (not an excuse where CI is set)"


def test_at_home_a_skip_is_only_named(outcome):
    status, (skipped, _) = outcome(NEEDS_LUCK)
    assert status == 0
    assert NEEDS_LUCK in skipped
