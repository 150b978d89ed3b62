"""A nearly full disk; lets tests import comparing.py and shard_folders.py, beside them."""

import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


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
