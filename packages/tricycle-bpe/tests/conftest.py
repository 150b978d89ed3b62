"""What several tests need: rank files, and how thorough to be.

TRICYCLE_TEST_DATA names a folder with vocab/*.tiktoken and others; tests that need it skip without.
With TRICYCLE_TEST_LONG set there are ten times as many random cases.
"""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiktoken
from hypothesis import settings
from tiktoken.load import load_tiktoken_bpe
from tiktoken_ext import openai_public

from tricycle_bpe import Tokeniser
from tricycle_bpe.named import NAMED

THOROUGHNESS = 10 if os.environ.get("TRICYCLE_TEST_LONG") else 1

settings.register_profile("tricycle", deadline=None, max_examples=100 * THOROUGHNESS)
settings.load_profile("tricycle")


def pytest_generate_tests(metafunc):
    if "encoding_name" in metafunc.fixturenames:
        names = ["r50k_base", "p50k_base", "cl100k_base", "o200k_base"]
        metafunc.parametrize("encoding_name", names, scope="session")


@pytest.fixture(scope="session")
def thoroughness() -> int:
    return THOROUGHNESS


@pytest.fixture(scope="session")
def data_file():
    """Find a file in the folder of test data, or skip."""

    def find(name: str) -> Path:
        folder = os.environ.get("TRICYCLE_TEST_DATA")
        if folder is None or not Path(folder, name).exists():
            pytest.skip(f"needs {name} in the folder that TRICYCLE_TEST_DATA names")
        return Path(folder, name)

    return find


@pytest.fixture(scope="session")
def ours(encoding_name, data_file) -> Tokeniser:
    file, pattern, special_tokens = NAMED[encoding_name]
    return Tokeniser.from_tiktoken(data_file(f"vocab/{file}"), pattern, special_tokens)


@pytest.fixture(scope="session")
def theirs(encoding_name, data_file) -> tiktoken.Encoding:
    """tiktoken's encoding, reading the rank file from the folder of test data."""
    patch = pytest.MonkeyPatch()
    patch.setattr(
        openai_public,
        "load_tiktoken_bpe",
        lambda url, expected_hash: load_tiktoken_bpe(
            str(data_file("vocab/" + url.rsplit("/", 1)[1])), expected_hash
        ),
    )
    encoding = tiktoken.Encoding(**getattr(openai_public, encoding_name)())
    patch.undo()
    return encoding


@pytest.fixture
def small_files():
    """A block in which no file can be longer than so many bytes: a disk that is full, nearly."""
    resource = pytest.importorskip("resource")  # Windows has no such limits

    @contextmanager
    def limited(n_bytes):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
