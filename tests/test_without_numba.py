"""NUMBA_DISABLE_JIT=1: everything runs as plain Python and numpy, and computes the same.

For processors that numba does not know, for debuggers, and for telling a wrong kernel from a wrong
compiler.  The matrix product is then numpy's.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
OPERATIONS = (
    "activated_linear attention cross_entropy embedding gelu linear linear_cross_entropy relu "
    "rms_norm rotary softmax swiglu token_scores sgd"
)
# What is about compiling, or about threads, is not asked of plain Python.
NOT_FOR_PLAIN_PYTHON = "not threads and not bits"

TRAINING = """
import json
import numpy as np
from tricycle_gpt import GPT, GPTConfig
from tricycle_nn import AdamW, clip_scale, default_groups

losses = []
for kind in {}, {"block": "llama", "n_heads": 4, "n_key_value_heads": 2, "qk_norm": True}:
    sizes = {"vocab_size": 23, "context_window": 16, "embedding_dim": 16, "n_layers": 2}
    config = GPTConfig(**{**sizes, "n_heads": 2, "dropout": 0.1, **kind})
    model = GPT(config, rng=np.random.default_rng(0))
    optimiser = AdamW(default_groups(model, 0.1), 1e-2)
    ids = np.random.default_rng(1).integers(0, 23, (2, 9))
    for _ in range(5):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimiser.step(clip_scale(model.parameters(), 1.0))
        optimiser.zero_grad()
        losses.append(loss.item())
print(json.dumps(losses))
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_training_goes_the_same_way():
    compiled, plain = (
        json.loads(run("-c", TRAINING, NUMBA_DISABLE_JIT=off).stdout) for off in "01"
    )
    assert len(plain) == 10
    np.testing.assert_allclose(plain, compiled, rtol=1e-5)


def test_operations_pass_their_own_tests():
    files = [f"packages/tricycle-nn/tests/test_{name}.py" for name in OPERATIONS.split()]
    words = ["-m", "pytest", "-q", "-rpfE", "-k", NOT_FOR_PLAIN_PYTHON, *files]
    done = run(*words, NUMBA_DISABLE_JIT="1")
    assert done.returncode == 0, done.stdout[-3000:]
    for file in files:
        assert f"PASSED {file}" in done.stdout
