"""Operations are written once for all devices: what is the CPU's own is in the CPU's kernels."""

import numpy as np
import pytest

from tricycle_autograd import Tensor
from tricycle_autograd.testing import draw
from tricycle_autograd.testing_device import EmulatedArray, emulated
from tricycle_nn import (
    attention,
    cross_entropy,
    linear_cross_entropy,
    log_softmax,
    packed_attention,
    softmax,
    token_scores,
)

TARGETS = np.array([1, -100, 3])
CASES = [
    (attention, [(2, 4, 5, 3), (2, 2, 5, 3), (2, 2, 5, 3)], {}),
    (packed_attention, [(2, 5, 12)], {"n_heads": 2, "n_key_value_heads": 1}),
    (softmax, [(3, 4, 5)], {"axis": 1}),
    (log_softmax, [(3, 4, 5)], {"axis": 1}),
    (cross_entropy, [(3, 5)], {"targets": TARGETS}),
    (cross_entropy, [(3, 5)], {"targets": [1, 2, 3], "reduction": "none"}),
    (linear_cross_entropy, [(3, 4), (5, 4)], {"targets": TARGETS}),
    (token_scores, [(2, 3, 4), (5, 4)], {}),
]


class OnEmulatedGPU:
    """The CPU's kernels for arrays that say they are on the GPU; numpy's own are refused."""

    def __init__(self, kernels):
        self.kernels = kernels

    def __getattr__(self, name):
        kernel = getattr(self.kernels, name)
        return lambda *arguments: uploaded(kernel(*map(downloaded, arguments)))


def downloaded(value):
    assert type(value) is not np.ndarray, "an array of numpy's for a kernel on the GPU"
    return value.view(np.ndarray) if isinstance(value, EmulatedArray) else value


def uploaded(value):
    if isinstance(value, tuple):
        return tuple(map(uploaded, value))
    return emulated(value) if isinstance(value, (np.ndarray, np.generic)) else value


@pytest.mark.parametrize(("operation", "shapes", "options"), CASES)
def test_an_operation_takes_any_device_that_has_kernels(operation, shapes, options, monkeypatch):
    kernels = OnEmulatedGPU(operation.by_device["cpu"])
    monkeypatch.setitem(operation.by_device, "cuda", kernels)
    results = []
    for upload in (np.asarray, emulated):
        arrays = [draw(*shape, seed=i).astype(np.float32) for i, shape in enumerate(shapes)]
        tensors = [Tensor(upload(array), requires_grad=True) for array in arrays]
        out = operation(*tensors, **options)
        out.backward(upload(draw(*out.shape, seed=9).astype(np.float32)))
        results.append([out.array, *(tensor.grad for tensor in tensors)])
        assert all(type(array) is type(tensors[0].array) for array in results[-1][1:])
    assert out.device == "cuda"
    for on_cpu, on_gpu in zip(*results, strict=True):
        assert np.asarray(on_gpu).tobytes() == np.asarray(on_cpu).tobytes()
