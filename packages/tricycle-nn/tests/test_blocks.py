"""The two MLPs and the two blocks."""

import numpy as np
import pytest

from tricycle_autograd import Tensor, definitions_only, no_grad
from tricycle_autograd.testing import draw
from tricycle_nn import (
    MLP,
    GatedMLP,
    LlamaBlock,
    Olmo2Block,
    TransformerBlock,
    gelu,
    relu,
    silu,
)


def rng():
    return np.random.default_rng(0)


def single(*shape, seed=0):
    return draw(*shape, seed=seed).astype(np.float32)


def count(module):
    return sum(parameter.size for parameter in module.parameters())


class ListCache:
    """The simplest cache: it joins what it is given to what it has."""

    def __init__(self):
        self.length, self.keys, self.values = 0, None, None

    def append(self, k, v):
        if self.length:
            k = np.concatenate([self.keys, k], axis=2)
            v = np.concatenate([self.values, v], axis=2)
        self.keys, self.values, self.length = k, v, k.shape[2]
        return k, v


BLOCKS = {
    "GPT-2's": lambda: TransformerBlock(16, 4, rng=rng()),
    "Llama's": lambda: LlamaBlock(16, 4, rng=rng()),
    "grouped": lambda: LlamaBlock(16, 4, n_key_value_heads=2, qk_norm=True, rng=rng()),
    "biases": lambda: LlamaBlock(16, 3, head_dim=4, bias=True, mlp_bias=True, rng=rng()),
    "OLMo 2's": lambda: Olmo2Block(16, 4, n_key_value_heads=2, rng=rng()),
}


def test_a_block_whose_branches_say_nothing_passes_its_input_on():
    for make in BLOCKS.values():
        block, x = make(), single(2, 5, 16)
        for silent in (block.attention.projection, block.mlp.down):
            for parameter in silent.parameters():
                parameter.array[...] = 0
        np.testing.assert_array_equal(block(Tensor(x)).array, x)


def test_sizes_are_what_the_docstrings_say():
    C, H, G, D, F = 128, 8, 2, 16, 384
    assert count(TransformerBlock(C, H, rng=rng())) == 12 * C * C + 13 * C
    assert count(TransformerBlock(768, 12, rng=rng())) == 7_087_872  # a twelfth of GPT-2's body
    expected = 2 * C * C + 2 * C * G * D + 3 * C * F + 2 * C
    assert count(LlamaBlock(C, H, G, rng=rng())) == expected
    assert count(LlamaBlock(C, H, G, qk_norm=True, rng=rng())) == expected + 2 * D
    assert count(Olmo2Block(C, H, G, rng=rng())) == expected + C + G * D
    biases = {"bias": True, "projection_bias": True, "mlp_bias": True}
    more = (H + 2 * G) * D + C + 2 * F + C
    assert count(LlamaBlock(C, H, G, **biases, rng=rng())) == expected + more
    # 8/3 of 128 is 341.3: the next multiple of 64 is 384.
    assert GatedMLP(C, rng=rng()).up.weight.shape == (C, F)
    assert GatedMLP(96, rng=rng()).up.weight.shape == (96, 256)
    assert count(MLP(C, 10, bias=False, rng=rng())) == 2 * C * 10


def test_parameters_have_the_names_that_files_use():
    names = [name for name, _ in TransformerBlock(8, 2, rng=rng()).named_parameters()]
    assert names == [
        "attention_norm.weight",
        "attention_norm.bias",
        "attention.query_key_value.weight",
        "attention.query_key_value.bias",
        "attention.projection.weight",
        "attention.projection.bias",
        "mlp_norm.weight",
        "mlp_norm.bias",
        "mlp.up.weight",
        "mlp.up.bias",
        "mlp.down.weight",
        "mlp.down.bias",
    ]
    names = [name for name, _ in LlamaBlock(8, 2, qk_norm=True, rng=rng()).named_parameters()]
    assert names == [
        "attention_norm.weight",
        "attention.query_key_value.weight",
        "attention.query_norm.weight",
        "attention.key_norm.weight",
        "attention.projection.weight",
        "mlp_norm.weight",
        "mlp.gate.weight",
        "mlp.up.weight",
        "mlp.down.weight",
    ]


def test_mlps_compute_what_they_say():
    x = Tensor(single(3, 8))
    mlp = MLP(8, 6, activation=relu, rng=rng())
    np.testing.assert_array_equal(mlp(x).array, mlp.down(relu(mlp.up(x))).array)
    mlp = MLP(8, rng=rng())
    np.testing.assert_array_equal(mlp(x).array, mlp.down(gelu(mlp.up(x))).array)
    gated = GatedMLP(8, 6, rng=rng())
    expected = gated.down(silu(gated.gate(x)) * gated.up(x)).array
    np.testing.assert_allclose(gated(x).array, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BLOCKS)
def test_kernels_and_definitions_agree_on_a_whole_block(name):
    block, x, dy = BLOCKS[name](), single(2, 9, 16), single(2, 9, 16, seed=1)

    def results():
        given = Tensor(x, requires_grad=True)
        out = block(given)
        out.backward(dy)
        gradients = [given.grad, *(parameter.grad for parameter in block.parameters())]
        block.zero_grad()
        return [out.array, *gradients]

    fast = results()
    with definitions_only():
        slow = results()
    for one, other in zip(fast, slow, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize("name", BLOCKS)
def test_the_future_cannot_change_the_past(name):
    block, x = BLOCKS[name](), single(1, 9, 16)
    before = block(Tensor(x)).array[:, :5].copy()
    x[:, 5:] += 1
    np.testing.assert_allclose(block(Tensor(x)).array[:, :5], before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BLOCKS)
def test_token_by_token_with_a_cache_equals_all_at_once(name):
    block, x = BLOCKS[name](), single(2, 7, 16)
    whole, cache = block(Tensor(x)).array, ListCache()
    with no_grad():
        pieces = [block(Tensor(x[:, t : t + 1]), cache).array for t in range(7)]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=1e-5, atol=1e-5)


def test_a_llama_block_sees_distances_and_nothing_else():
    # The last token's result does not change when the same text stands further along.
    block, x = BLOCKS["Llama's"](), single(1, 4, 16)
    cache = ListCache()
    with no_grad():
        here = block(Tensor(x)).array
        cache.length = 100  # keys so far: none, but counting starts at 100
        cache.append = lambda k, v: (k, v)
        there = block(Tensor(x), cache).array
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5)


def test_dropout_is_for_training_alone():
    block, x = TransformerBlock(16, 4, dropout=0.5, rng=rng()), Tensor(single(1, 5, 16))
    plain = TransformerBlock(16, 4, rng=rng())
    plain.load_state_dict(block.state_dict())
    assert not np.array_equal(block(x).array, plain(x).array)
    np.testing.assert_array_equal(block.eval()(x).array, plain(x).array)


def test_olmo2s_norms_stand_behind_the_branches():
    block, x = Olmo2Block(16, 4, rng=rng()), Tensor(draw(1, 5, 16).astype(np.float32))
    middle = x + block.attention_norm(block.attention(x))
    expected = middle + block.mlp_norm(block.mlp(middle))
    np.testing.assert_allclose(block(x).array, expected.array, rtol=1e-6)


def test_olmo2s_queries_are_normalised_over_all_heads_at_once():
    attention = Olmo2Block(16, 4, rng=rng()).attention
    q = Tensor(draw(1, 4, 1, 4).astype(np.float32))  # four heads, at position 0: not turned
    found, _ = attention._prepare(q, q, start=0)
    size = np.sqrt((q.array.astype(np.float64) ** 2).mean() + 1e-5)
    np.testing.assert_allclose(found.array, q.array / size, rtol=1e-5)
