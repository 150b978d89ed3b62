"""Layers and losses beside torch's, values and gradients, on random inputs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from tricycle_autograd import Tensor
from tricycle_nn import (
    attention,
    cross_entropy,
    embedding,
    gelu,
    layer_norm,
    linear,
    linear_cross_entropy,
    log_softmax,
    mean_squared_error,
    rms_norm,
    rotary,
    silu,
    softmax,
    swiglu,
)

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.standard_normal(shape, np.float32)


def assert_same(ours, theirs, *arrays):
    """Both functions give the same result, and the same gradients at all inputs."""
    our_inputs = [Tensor(array, requires_grad=True) for array in arrays]
    their_inputs = [torch.from_numpy(array.copy()).requires_grad_() for array in arrays]
    y, expected = ours(*our_inputs), theirs(*their_inputs)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-5, atol=2e-5)
    dy = RNG.standard_normal(y.shape).astype(np.float32)
    y.backward(dy)
    expected.backward(torch.from_numpy(dy).reshape(expected.shape))
    for i, (mine, other) in enumerate(zip(our_inputs, their_inputs, strict=True)):
        gradient = other.grad.numpy()
        hair = 2e-5 * max(np.abs(gradient).max(), 1e-3)
        np.testing.assert_allclose(mine.grad, gradient, 2e-5, hair, err_msg=f"gradient {i}")


def test_linear():
    assert_same(linear, lambda x, w, b: F.linear(x, w.T, b), draw(3, 5, 7), draw(7, 11), draw(11))
    assert_same(linear, lambda x, w: F.linear(x, w.T), draw(5, 7), draw(7, 11))


def test_embedding():
    ids = RNG.integers(0, 13, (4, 9))
    theirs = torch.from_numpy(ids)
    assert_same(lambda w: embedding(ids, w), lambda w: F.embedding(theirs, w), draw(13, 6))


def test_layer_norm():
    inputs = (draw(4, 9, 33), draw(33), draw(33))
    assert_same(layer_norm, lambda x, w, b: F.layer_norm(x, (33,), w, b, 1e-5), *inputs)


def test_rms_norm():
    inputs = (draw(4, 9, 33), draw(33))
    assert_same(rms_norm, lambda x, w: F.rms_norm(x, (33,), w, 1e-5), *inputs)


@pytest.mark.parametrize("approximate", ["tanh", "none"])
def test_gelu(approximate):
    x = 3 * draw(7, 50)
    assert_same(
        lambda x: gelu(x, approximate=approximate), lambda x: F.gelu(x, approximate=approximate), x
    )


def test_silu_and_swiglu():
    assert_same(silu, F.silu, 3 * draw(7, 50))
    assert_same(swiglu, lambda x, gate: x * F.silu(gate), draw(7, 50), 3 * draw(7, 50))


def test_softmax_and_log_softmax():
    assert_same(softmax, lambda x: F.softmax(x, -1), 4 * draw(5, 3, 40))
    assert_same(lambda x: log_softmax(x, 1), lambda x: F.log_softmax(x, 1), 4 * draw(5, 3, 40))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads, key_heads", [(4, 4), (6, 2), (3, 1)])
def test_attention(heads, key_heads, causal):
    q, k, v = draw(2, heads, 70, 16), draw(2, key_heads, 70, 16), draw(2, key_heads, 70, 16)

    def theirs(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    assert_same(lambda q, k, v: attention(q, k, v, causal=causal), theirs, q, k, v)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy(smoothing, reduction):
    targets = RNG.integers(0, 57, (4, 9))
    targets[1, 2:6] = -100
    theirs = torch.from_numpy(targets).flatten()
    options = {"label_smoothing": smoothing, "reduction": reduction}
    assert_same(
        lambda z: cross_entropy(z, targets, **options),
        lambda z: F.cross_entropy(z.flatten(0, 1), theirs, **options),
        3 * draw(4, 9, 57),
    )


def test_linear_cross_entropy():
    targets = RNG.integers(0, 57, (4, 9))
    targets[1, 2:6] = -100
    theirs = torch.from_numpy(targets).flatten()
    assert_same(
        lambda x, w: linear_cross_entropy(x, w, targets),
        lambda x, w: F.cross_entropy((x @ w.T).flatten(0, 1), theirs),
        draw(4, 9, 16),
        draw(57, 16),
    )


def test_mean_squared_error():
    assert_same(mean_squared_error, F.mse_loss, draw(4, 9), draw(4, 9))


def test_rotary_is_that_of_llama():
    theta, positions = 500.0, np.arange(5, 25)
    table = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=64,
            num_attention_heads=4,
            head_dim=16,
            rope_parameters={"rope_type": "default", "rope_theta": theta},
        )
    )

    def theirs(x):
        cos, sin = table(x, torch.from_numpy(positions)[None])
        return apply_rotary_pos_emb(x, x, cos, sin)[0]

    assert_same(lambda x: rotary(x, positions, theta), theirs, draw(2, 4, 20, 16))
