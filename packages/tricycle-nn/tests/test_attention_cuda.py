"""Attention's GPU kernels: against the definition, on a GPU or on the emulated one."""

import ml_dtypes
import numpy as np
import pytest

from tricycle_autograd import Tensor, definitions_only
from tricycle_autograd.cuda import watched_launches
from tricycle_autograd.testing import check_on_cuda, draw, value_and_gradients
from tricycle_autograd.testing_device import emulated
from tricycle_nn import attention, attention_cuda, packed_attention, rms_norm, rotary
from tricycle_nn.attention import heads_together, split_heads

BF16 = ml_dtypes.bfloat16


def heads(B, T, S, H, G, D):
    """q, k and v."""
    return draw(B, H, T, D), draw(B, G, S, D, seed=1), draw(B, G, S, D, seed=2)


# ---- The definition ----


def test_several_heads_read_one_that_lies_beside_them():
    # 70 queries: more than a block of 64, and no multiple of anything.
    check_on_cuda(packed_attention, draw(1, 70, 5 * 16), n_heads=3, n_key_value_heads=1)


@pytest.mark.parametrize(
    ("B", "T", "S", "H", "G", "D"),
    [(2, 17, 33, 2, 1, 32), (1, 3, 66, 1, 1, 64), (1, 2, 17, 1, 1, 128), (1, 5, 5, 3, 3, 6)],
)
def test_the_last_queries_of_many_positions(B, T, S, H, G, D):
    check_on_cuda(attention, *heads(B, T, S, H, G, D))


def test_every_query_may_see_every_key():
    check_on_cuda(attention, *heads(1, 17, 7, 1, 1, 16), causal=False, scale=-0.5)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1, 16), (1, 1, 130, 3, 1, 16), (2, 1, 9, 2, 2, 5)])
def test_one_query_looks_at_all_keys(shape):
    check_on_cuda(attention, *heads(*shape))


def test_a_scale_of_nothing_takes_the_average():
    q, k, v = (emulated(array.astype(np.float32)) for array in heads(1, 2, 2, 1, 1, 16))
    out = attention(Tensor(q), Tensor(k), Tensor(v), scale=0).numpy()
    np.testing.assert_allclose(out[0, 0], [v[0, 0, 0], v[0, 0].mean(axis=0)], rtol=1e-6)


# ---- As it is used ----


def test_a_cache_is_read_where_it_lies():
    # Nine positions of room, of which five are filled; the GPU copies nothing.
    cache = draw(2, 2, 9, 16).astype(np.float32)
    q = draw(2, 4, 1, 16, seed=1).astype(np.float32)
    k = v = cache[:, :, :5]
    with definitions_only():
        expected = attention(Tensor(q), Tensor(k), Tensor(v)).array
    room = emulated(cache)
    with watched_launches() as launches:
        out = attention(Tensor(emulated(q)), Tensor(room[:, :, :5]), Tensor(room[:, :, :5]))
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert [launch.name for launch in launches] == ["look_at_chunks", "join_chunks"]


def test_normalised_and_turned_heads_as_in_a_llama_block():
    def block(qkv, weight):
        q, k, v = split_heads(qkv, 2, 1)
        q, k = rms_norm(q, weight), rms_norm(k, weight)
        q, k = rotary(q, np.arange(9)), rotary(k, np.arange(9))
        return heads_together(attention(q, k, v))

    arrays = [array.astype(np.float32) for array in (draw(2, 9, 4 * 16), draw(16, seed=1))]
    dy = draw(2, 9, 32, seed=2)
    with definitions_only():
        value, gradients = value_and_gradients(block, [a.astype(float) for a in arrays], dy)
    results = value_and_gradients(block, [emulated(a) for a in arrays], emulated(dy))
    for actual, expected in zip([results[0], *results[1]], [value, *gradients], strict=True):
        near = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-5, atol=near)


def test_no_queries_send_nothing_back():
    q, k, v = (emulated(array.astype(np.float32)) for array in heads(1, 0, 3, 1, 1, 16))
    tensors = [Tensor(array, requires_grad=True) for array in (q, k, v)]
    attention(*tensors).backward(emulated(np.zeros((1, 1, 0, 16), np.float32)))
    assert [np.count_nonzero(np.asarray(tensor.grad)) for tensor in tensors] == [0, 0, 0]
    assert tensors[1].grad.shape == (1, 1, 3, 16)


def test_too_long_heads_are_refused():
    q = Tensor(emulated(np.zeros((1, 1, 2, 130), np.float32)))
    with pytest.raises(ValueError, match="heads of up to 128 numbers, got 130; take more heads"):
        attention(q, q, q)


# ---- Facts of speed ----


@pytest.mark.parametrize("D", [32, 64, 128])
def test_nobody_waits_for_a_bank(D):
    launches = training_step(T=65, D=D)
    names = ["forward", "dot", "backward_queries", "backward_keys"]
    assert [launch.name for launch in launches] == names
    for _, _, _, report in launches:
        assert report.turns == report.accesses
    # Rows go out whole, 16 bytes a lane.
    assert launches[0].report.asked["writes"] >= 0.9 * launches[0].report.moved["writes"]


def test_products_are_most_of_the_work():
    # PTX instructions for each product of tiles.  Longer texts take fewer: 14, 10, 9 at 256.
    limits = {"forward": 17.5, "backward_queries": 12, "backward_keys": 11}
    for name, _, _, report in training_step(T=128, D=64):
        if name in limits:
            assert report.instructions.total() < limits[name] * report.instructions["mma"], name


def training_step(T, D):
    """The launches of one head's way there and back, in bfloat16."""
    qkv = Tensor(emulated(draw(1, T, 3 * D).astype(BF16)), requires_grad=True)
    with watched_launches() as launches:
        out = packed_attention(qkv, 1)
        out.backward(out.array)
    return launches


def test_only_so_many_queries_share_registers():
    together = [attention_cuda.queries_together(n) for n in (1, 2, 5, 6, 8, 12)]
    assert together == [1, 2, 1, 3, 4, 4]
