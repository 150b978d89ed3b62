"""Any number of threads gives the same bits, and so does the run that compiles the kernels."""

import os
import subprocess
import sys

import numpy as np
import pytest

import tricycle_nn as nn
from tricycle_autograd import Tensor
from tricycle_autograd.testing import draw

# Enough rows for many pieces, and sizes that no number of threads divides.
N, C = 1501, 67
IDS = np.random.default_rng(0).integers(0, 50, N)

OPERATIONS = {
    "linear": (nn.linear, [(N, C), (C, 51), (51,)]),
    "embedding": (lambda table: nn.embedding(IDS, table), [(50, 201)]),
    "dropout": (lambda x: nn.dropout(x, 0.1, seed=1, step=2, stream=3), [(N, C)]),
    "layer_norm": (nn.layer_norm, [(N, C), (C,), (C,)]),
    "rms_norm": (nn.rms_norm, [(N, C), (C,)]),
    "gelu": (nn.gelu, [(N, C)]),
    "relu": (nn.relu, [(N, C)]),
    "swiglu": (nn.swiglu, [(N, C), (N, C)]),
    "softmax": (nn.softmax, [(N, C)]),
    "log_softmax": (nn.log_softmax, [(N, C)]),
}


@pytest.fixture
def with_threads():
    """Calls a function with a number of threads; puts the number back afterwards."""
    import numba

    def call(n_threads, function):
        numba.set_num_threads(n_threads)
        return function()

    before = numba.get_num_threads()
    yield call
    numba.set_num_threads(before)


@pytest.mark.parametrize("name", OPERATIONS)
def test_one_thread_and_all_threads_give_the_same_bits(name, with_threads):
    from numba import config

    function, shapes = OPERATIONS[name]

    def value_and_gradients():
        tensors = [Tensor(draw(*shape).astype(np.float32), requires_grad=True) for shape in shapes]
        y = function(*tensors)
        y.backward(draw(*y.shape, seed=1))
        return [array.tobytes() for array in (y.array, *(tensor.grad for tensor in tensors))]

    alone = with_threads(1, value_and_gradients)
    assert with_threads(config.NUMBA_NUM_THREADS, value_and_gradients) == alone


PROGRAM = """
import hashlib
import numpy as np
import tricycle_nn as nn
from tricycle_autograd import Tensor

x = np.random.default_rng(0).standard_normal((2, 3, 50, 16)).astype(np.float32)
turned = nn.rotary(Tensor(x), np.arange(50)).array
print(hashlib.sha256(turned.tobytes()).hexdigest())
"""


def test_the_run_that_has_kernels_compiled_gives_the_bits_of_later_ones(tmp_path):
    environment = {**os.environ, "TRICYCLE_CACHE": str(tmp_path)}
    first, later = (
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        for _ in range(2)
    )
    assert "compiling kernels" in first.stderr
    assert later.stderr == ""
    assert first.stdout == later.stdout
