"""A GPT small enough to check in moments, of each kind."""

import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tricycle_gpt import GPT, GPTConfig

sys.path.append(str(Path(__file__).parent))  # for ranks.py, which several files use

TINY = {"vocab_size": 23, "context_window": 16, "embedding_dim": 16, "n_layers": 2, "n_heads": 2}
KINDS = {
    "gpt2": {},
    "gpt2, head apart": {"tied_head": False},
    "llama": {"block": "llama"},
    "llama, grouped, qk-norm": {
        "block": "llama",
        "n_heads": 4,
        "n_key_value_heads": 2,
        "qk_norm": True,
    },
    "qwen2": {"block": "llama", "head_dim": 6, "query_key_value_bias": True},
    "mistral": {"block": "llama", "sliding_window": 5, "rotary_factor": 2.0},
    "olmo2": {"block": "olmo2", "tied_head": False},
}


def tiny(kind="gpt2", seed=0, **changes) -> GPT:
    """A GPT of a few thousand parameters."""
    config = GPTConfig(**{**TINY, **KINDS[kind], **changes})
    return GPT(config, rng=np.random.default_rng(seed))


@pytest.fixture(params=KINDS)
def model(request):
    return tiny(request.param)


@pytest.fixture
def make_tiny():
    return tiny


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
