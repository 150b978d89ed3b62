"""Any number of threads gives the same bits, and so does the run that compiles the kernels."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # it starts many processes

# Each operation's results and gradients, and each optimiser's weights, as hashes. Enough rows for
# many pieces, and sizes that no number of threads divides.
MANY = """
import hashlib, json
import numpy as np
import tricycle_nn as nn
from tricycle_autograd import Tensor
from tricycle_nn.activated_linear import gelu_linear, swiglu_linear
from tricycle_nn.quantised import QuantisedMatrix

N, C = 1501, 67
random, digests = np.random.default_rng(0), {}
ids, targets = random.integers(0, 50, N), random.integers(0, 301, N)
positions = np.arange(333)

def note(name, *arrays):
    digests[name] = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()

def run(name, operation, *shapes, **options):
    tensors = [Tensor(random.standard_normal(s, np.float32), requires_grad=True) for s in shapes]
    out = operation(*tensors, **options)
    out.backward(random.standard_normal(out.shape, np.float32))
    note(name, out.array, *(tensor.grad for tensor in tensors))

run("linear", nn.linear, (N, C), (C, 51), (51,))
run("gelu_linear", gelu_linear, (N, C), (C, 51), (51,))
run("swiglu_linear", swiglu_linear, (N, C), (N, C), (C, 51))
run("embedding", lambda table: nn.embedding(ids, table), (50, 201))
run("dropout", lambda x: nn.dropout(x, 0.1, seed=1, step=2, stream=3), (N, C))
run("layer_norm", nn.layer_norm, (N, C), (C,), (C,))
run("rms_norm", nn.rms_norm, (N, C), (C,))
run("gelu", nn.gelu, (N, C))
run("relu", nn.relu, (N, C))
run("relu_squared", nn.relu_squared, (N, C))
run("silu", nn.silu, (N, C))
run("swiglu", nn.swiglu, (N, C), (N, C))
run("softmax", nn.softmax, (N, C))
run("log_softmax", nn.log_softmax, (N, C))
run("cross_entropy", nn.cross_entropy, (N, 301), targets=targets, label_smoothing=0.1)
run("linear_cross_entropy", nn.linear_cross_entropy, (N, C), (301, C), targets=targets)
run("token_scores", nn.token_scores, (N, C), (301, C))
run("mean_squared_error", nn.mean_squared_error, (N, C), target=np.zeros((N, C), np.float32))
run("attention", nn.attention, (2, 6, 70, 8), (2, 3, 90, 8), (2, 3, 90, 8))
run("attention of one query", nn.attention, (2, 6, 1, 8), (2, 3, 90, 8), (2, 3, 90, 8))
run("packed_attention", nn.packed_attention, (3, 130, 48), n_heads=4, n_key_value_heads=2)
run("rotary", nn.rotary, (2, 3, 333, 8), positions=positions)
for bits in (8, 4):
    matrix = QuantisedMatrix(random.standard_normal((3001, C), np.float32), bits)
    for n_rows in (1, 70):
        x = random.standard_normal((n_rows, C), np.float32)
        note(f"{bits} bits, {n_rows} rows", matrix.outputs(x))
for optimiser in (nn.SGD, nn.AdamW, nn.Muon):
    weights = [nn.Parameter(random.standard_normal((N, C), np.float32)) for _ in range(3)]
    moves = optimiser(weights, 0.1)
    for _ in range(2):
        for weight in weights:
            (weight * weight * weight).sum().backward()
        moves.step(nn.clip_scale(weights, 1.0))
        moves.zero_grad()
    note(optimiser.__name__, *(weight.array for weight in weights))
print(json.dumps(digests))
"""


def test_any_number_of_threads_gives_the_same_bits():
    def digests(threads):
        environment = {**os.environ, "TRICYCLE_NUM_THREADS": threads}
        command = [sys.executable, "-c", MANY]
        found = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    alone = digests("1")
    assert len(alone) == 29
    assert digests("2") == alone
    assert digests("4") == alone


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
