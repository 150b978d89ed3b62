"""Attention: each position looks back and takes what it needs."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tricycle_autograd import Tensor, definitions_only, no_grad
from tricycle_autograd.modes import observed_by
from tricycle_autograd.testing import check_fused, check_gradients, draw, kept_by
from tricycle_nn import CausalSelfAttention, RotaryScaling, attention, packed_attention
from tricycle_nn.attention import _count_products, attention_fast


def single(*shape, seed=0):
    return draw(*shape, seed=seed).astype(np.float32)


def wave(*shape, phase):
    """Numbers that are easily made again: sin(0.7·n + phase)."""
    return np.sin(0.7 * np.arange(np.prod(shape)) + phase).reshape(shape)


# ---- By hand ----


def test_equal_scores_take_the_average_of_what_may_be_seen():
    # Queries of zeros find all keys equally fitting.
    zeros = Tensor(np.zeros((1, 1, 3, 1), np.float32))
    v = Tensor(np.array([6.0, 2.0, 1.0], np.float32).reshape(1, 1, 3, 1))
    assert attention(zeros, zeros, v).array.ravel().tolist() == [6, (6 + 2) / 2, (6 + 2 + 1) / 3]
    assert attention(zeros, zeros, v, causal=False).array.ravel().tolist() == [3, 3, 3]


def test_two_tokens_by_hand():
    # The second query scores ln 3 with the first key and 0 with the second: weights 3/4 and 1/4.
    q = Tensor(np.array([0.0, 1.0], np.float32).reshape(1, 1, 2, 1))
    k = Tensor(np.array([np.log(3), 0.0], np.float32).reshape(1, 1, 2, 1))
    v = Tensor(np.array([8.0, 4.0], np.float32).reshape(1, 1, 2, 1))
    np.testing.assert_allclose(attention(q, k, v).array.ravel(), [8, 7], rtol=1e-6)


def test_a_window_of_two_sees_itself_and_the_one_before():
    zeros = Tensor(np.zeros((1, 1, 4, 1), np.float32))
    v = Tensor(np.array([6.0, 2.0, 1.0, 5.0], np.float32).reshape(1, 1, 4, 1))
    found = attention(zeros, zeros, v, window=2).array.ravel()
    assert found.tolist() == [6, (6 + 2) / 2, (2 + 1) / 2, (1 + 5) / 2]
    assert attention(zeros, zeros, v, window=1).array.ravel().tolist() == [6, 2, 1, 5]


def test_heads_that_share_keys_read_the_same_values():
    # Four query heads, two key heads: heads 0 and 1 read the first, 2 and 3 the second.
    q, k = np.zeros((1, 4, 1, 1), np.float32), np.zeros((1, 2, 1, 1), np.float32)
    v = np.array([5.0, 9.0], np.float32).reshape(1, 2, 1, 1)
    assert attention(Tensor(q), Tensor(k), Tensor(v)).array.ravel().tolist() == [5, 5, 9, 9]


# ---- The definition, and PyTorch ----

# torch 2.13: scaled_dot_product_attention in float64, of q (1, 2, 3, 2), k and v (1, 1, 4, 2)
# made by `wave` with phases 0, 1 and 2, and the gradients for one made with phase 3.
TORCH = {
    "out": [0.45098, -0.062736, 0.418582, -0.035945, -0.146318, -0.196068]
    + [0.115041, -0.421984, -0.311282, -0.44805, 0.362776, 0.026204],
    "dq": [-0.013884, -0.07946, -0.18694, -0.470529, -0.112164, -0.119504]
    + [0.055227, 0.316073, 0.261376, 0.354867, -0.109104, -0.324194],
    "dk": [-0.989845, -0.964894, 0.72272, 0.859453, 0.272985, 0.132221, -0.00586, -0.02678],
    "dv": [-0.480911, -1.035738, 0.22313, 0.023548, 0.120267, -0.0152, -0.153526, -0.04638],
}


@pytest.mark.parametrize("by_definition", [False, True])
def test_values_and_gradients_are_those_of_pytorch(by_definition):
    arrays = wave(1, 2, 3, 2, phase=0), wave(1, 1, 4, 2, phase=1), wave(1, 1, 4, 2, phase=2)
    dtype = np.float64 if by_definition else np.float32
    q, k, v = (Tensor(array.astype(dtype), requires_grad=True) for array in arrays)
    if by_definition:
        with definitions_only():
            out = attention(q, k, v)
    else:
        out = attention(q, k, v)
    out.backward(wave(1, 2, 3, 2, phase=3))
    results = {"out": out.array, "dq": q.grad, "dk": k.grad, "dv": v.grad}
    for name, expected in TORCH.items():
        np.testing.assert_allclose(results[name].ravel(), expected, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("T", "options"),
    [
        (1, {}),
        (5, {}),
        (5, {"causal": False}),
        (5, {"scale": -1.5}),
        (3, {"scale": 0.0}),
    ],
)
def test_kernels_agree_with_the_definition(T, options):
    q, k, v = draw(2, 2, T, 3), draw(2, 2, T, 3, seed=1), draw(2, 2, T, 3)
    check_fused(attention, q, k, v, keeps=5, **options)


def test_kernels_agree_with_the_definition_when_heads_are_shared():
    check_fused(attention, draw(2, 4, 3, 2), draw(2, 2, 3, 2, seed=1), draw(2, 2, 3, 2))
    check_fused(attention, draw(1, 3, 3, 2), draw(1, 1, 3, 2, seed=1), draw(1, 1, 3, 2))


def test_kernels_agree_with_the_definition_when_there_are_more_keys_than_queries():
    check_fused(attention, draw(1, 2, 2, 3), draw(1, 1, 5, 3), draw(1, 1, 5, 3, seed=1))
    check_fused(attention, draw(2, 4, 1, 3), draw(2, 2, 4, 3), draw(2, 2, 4, 3, seed=1))
    check_fused(attention, draw(1, 1, 0, 2), draw(1, 1, 2, 2), draw(1, 1, 2, 2, seed=1))
    q, k, v = draw(1, 1, 3, 2), draw(1, 1, 2, 2), draw(1, 1, 2, 2, seed=1)
    check_fused(attention, q, k, v, causal=False)


@pytest.mark.parametrize(("T", "S", "causal"), [(33, 33, True), (70, 70, True), (65, 130, True)])
def test_several_blocks_of_queries_agree_with_the_definition(T, S, causal):
    arrays = single(2, 4, T, 8), single(2, 2, S, 8, seed=1), single(2, 2, S, 8, seed=2)
    check_large(attention, *arrays, causal=causal)


def check_large(operation, *arrays, **options):
    """For arrays too large to measure slopes: the definition's are measured on small ones."""
    kernel = values_and_gradients(operation, *arrays, **options)
    with definitions_only():
        definition = values_and_gradients(
            operation, *(array.astype(np.float64) for array in arrays), **options
        )
    for actual, expected in zip(kernel, definition, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def values_and_gradients(operation, *arrays, **options):
    tensors = [Tensor(array, requires_grad=True) for array in arrays]
    out = operation(*tensors, **options)
    out.backward(draw(*out.shape, seed=9).astype(out.dtype))
    return [out.array, *(tensor.grad for tensor in tensors)]


@pytest.mark.parametrize(("T", "H", "G"), [(1, 2, 2), (5, 2, None), (3, 4, 2)])
def test_packed_kernels_agree_with_the_definition(T, H, G):
    qkv = draw(2, T, (H + 2 * (G or H)) * 3)
    check_fused(packed_attention, qkv, keeps=3, n_heads=H, n_key_value_heads=G)


def test_packed_attention_is_attention_of_the_parts():
    B, T, H, D = 2, 70, 3, 4
    qkv = single(B, T, 3, H, D)
    q, k, v = (Tensor(qkv[:, :, i].transpose(0, 2, 1, 3)) for i in range(3))
    apart = attention(q, k, v).array.transpose(0, 2, 1, 3).reshape(B, T, H * D)
    packed = packed_attention(Tensor(qkv.reshape(B, T, 3 * H * D)), H)
    assert packed.array.tobytes() == np.ascontiguousarray(apart).tobytes()


# ---- Properties ----


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 80), st.data())
def test_the_future_cannot_change_the_past(T, data):
    t = data.draw(st.integers(1, T - 1))
    q, k, v = (single(1, 2, T, 4, seed=seed) for seed in range(3))
    before = attention(Tensor(q), Tensor(k), Tensor(v)).array[:, :, :t].copy()
    for array in (q, k, v):
        array[:, :, t:] += 1
    after = attention(Tensor(q), Tensor(k), Tensor(v)).array[:, :, :t]
    np.testing.assert_array_equal(before, after)


def test_results_lie_between_the_smallest_and_the_largest_value():
    q, k, v = (single(2, 2, 70, 5, seed=seed) for seed in range(3))
    out = attention(Tensor(30 * q), Tensor(k), Tensor(v)).array
    low, high = np.minimum.accumulate(v, axis=2), np.maximum.accumulate(v, axis=2)
    assert (out >= low - 1e-6).all() and (out <= high + 1e-6).all()


def test_large_scores_overflow_nothing():
    q, k, v = (1e4 * single(1, 1, 9, 4, seed=seed) for seed in range(3))
    for result in values_and_gradients(attention, q, k, v):
        assert np.isfinite(result).all()


def test_nan_stays_visible():
    q, k, v = (single(1, 1, 5, 4, seed=seed) for seed in range(3))
    q[0, 0, 3, 1] = np.nan
    out = attention(Tensor(q), Tensor(k), Tensor(v)).array[0, 0]
    assert np.isnan(out[3]).all() and np.isfinite(out[[0, 1, 2, 4]]).all()


@pytest.mark.parametrize(("H", "G", "S", "D"), [(1, 1, 1, 1), (4, 4, 33, 16), (6, 2, 200, 20)])
def test_one_query_reads_any_number_of_keys(H, G, S, D):
    q, k, v = single(2, H, 1, D), single(2, G, S, D, seed=1), single(2, G, S, D, seed=2)
    check_large(attention, q, k, v)
    cache = np.zeros((2, G, S + 7, D), np.float32)  # a view into a longer one, as in a cache
    cache[:, :, :S] = k
    with_view = attention(Tensor(q), Tensor(cache[:, :, :S]), Tensor(v)).array
    np.testing.assert_array_equal(with_view, attention(Tensor(q), Tensor(k), Tensor(v)).array)


def test_one_query_that_finds_many_keys_alike_takes_their_mean_exactly():
    values = single(1, 2, 4000, 8)
    q, k = np.zeros((1, 2, 1, 8), np.float32), np.ones((1, 2, 4000, 8), np.float32)
    found = attention(Tensor(q), Tensor(k), Tensor(values + 3)).array[:, :, 0]
    mean = (values + 3).mean(axis=2, dtype=np.float64)
    np.testing.assert_allclose(found, mean, rtol=3e-6)


def test_no_table_of_weights_is_kept():
    # What the backward pass holds on to is q, k, v, the result and one number a query: nothing
    # that grows with the square of the time.
    q, k, v = (Tensor(single(1, 1, 300, 4, seed=seed), requires_grad=True) for seed in range(3))
    kept, _ = kept_by(attention(q, k, v))
    assert sorted(array.size for array in kept) == [300] + 4 * [300 * 4]


# ---- The layer ----


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


LAYERS = {
    "GPT-2's": {"n_heads": 4},
    "grouped": {"n_heads": 4, "n_key_value_heads": 2, "bias": False},
    "rotary": {"n_heads": 4, "rotary_theta": 100.0},
    "all": {"n_heads": 4, "n_key_value_heads": 1, "rotary_theta": 1e4, "qk_norm": True},
    "wide heads": {"n_heads": 3, "head_dim": 8, "projection_bias": False},
    "window": {"n_heads": 4, "window": 3, "rotary_theta": 1e4, "rotary_scaling": RotaryScaling(2)},
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_what_its_parts_say(name):
    layer = CausalSelfAttention(16, **LAYERS[name], rng=np.random.default_rng(0))
    x = single(2, 6, 16)
    fast = layer(Tensor(x)).array
    with definitions_only():
        slow = layer(Tensor(x)).array
    np.testing.assert_allclose(fast, slow, rtol=1e-4, atol=1e-5)
    check_gradients(layer.to("cpu", np.float64), draw(1, 3, 16))


@pytest.mark.parametrize("name", LAYERS)
def test_token_by_token_with_a_cache_equals_all_at_once(name):
    layer = CausalSelfAttention(16, **LAYERS[name], rng=np.random.default_rng(0))
    x = single(2, 7, 16)
    whole = layer(Tensor(x)).array
    cache = ListCache()
    with no_grad():
        pieces = [layer(Tensor(x[:, a:b]), cache).array for a, b in ((0, 3), (3, 4), (4, 7))]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=1e-5, atol=1e-5)
    assert cache.length == 7


def test_layers_have_the_parameters_that_their_shapes_say():
    def count(*args, **options):
        layer = CausalSelfAttention(*args, **options, rng=np.random.default_rng(0))
        return sum(parameter.size for parameter in layer.parameters())

    C, H, G, D = 24, 6, 2, 4
    assert count(C, H) == 4 * C * C + 4 * C
    assert count(C, H, G, bias=False) == 2 * C * C + 2 * C * G * D
    assert count(C, H, G, bias=False, qk_norm=True) == 2 * C * C + 2 * C * G * D + 2 * D


# ---- Errors ----


@pytest.mark.parametrize(
    ("q", "k", "v", "message"),
    [
        ((2, 3, 4), (2, 3, 4), (2, 3, 4), r"expected \(batch, heads, time, head size\), got q"),
        ((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 5, 4), "a value of any width for each"),
        ((1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3, 5), "the queries' batch and head size"),
        ((1, 3, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4), "3 query heads cannot share 2 key-value heads"),
        ((1, 2, 3, 4), (1, 2, 2, 4), (1, 2, 2, 4), "a key for each query to see"),
    ],
)
def test_shapes_that_do_not_fit_are_named(q, k, v, message):
    for run in (attention, attention.definition):
        with pytest.raises(ValueError, match=message):
            run(Tensor(single(*q)), Tensor(single(*k)), Tensor(single(*v)))


def test_a_packed_width_that_does_not_divide_is_named():
    with pytest.raises(ValueError, match=r"2 heads and 1 key-value heads expected .* of 4\)"):
        packed_attention(Tensor(single(1, 3, 6)), 2, 1)
    with pytest.raises(ValueError, match=r"got \(3, 6\)"):
        packed_attention(Tensor(single(3, 6)), 2)


def test_float64_runs_the_definition_and_its_gradients_are_slopes():
    q, k, v = (Tensor(draw(1, 2, 3, 2, seed=seed), requires_grad=True) for seed in range(3))
    out = attention(q, k, v)
    out.sum().backward()
    assert [array.dtype for array in (out.array, q.grad, k.grad, v.grad)] == 4 * [np.float64]
    qkv = Tensor(draw(1, 3, 12), requires_grad=True)
    packed = packed_attention(qkv, 2)
    packed.sum().backward()
    assert packed.dtype == qkv.grad.dtype == np.float64
    nudge = np.zeros((1, 2, 3, 2))
    nudge[0, 1, 2, 0] = 1e-6
    higher, lower = (attention(Tensor(q.array + step), k, v) for step in (nudge, -nudge))
    slope = (higher.array - lower.array).sum() / 2e-6
    np.testing.assert_allclose(q.grad[0, 1, 2, 0], slope, rtol=1e-6, atol=1e-9)


def test_float16_is_refused_by_name():
    q, k, v = (Tensor(draw(1, 2, 3, 2).astype(np.float16)) for _ in range(3))
    with pytest.raises(TypeError, match=r"attention has kernels for float32 .* q is float16"):
        attention(q, k, v)
    with pytest.raises(TypeError, match=r"packed_attention has kernels .* qkv is float16"):
        packed_attention(Tensor(draw(1, 3, 12).astype(np.float16)), 2)


def test_a_layer_whose_heads_do_not_divide_is_named():
    with pytest.raises(ValueError, match="got width 10, 4 heads and 4 key-value heads"):
        CausalSelfAttention(10, 4, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="got width 12, 4 heads and 3 key-value heads"):
        CausalSelfAttention(12, 4, 3, rng=np.random.default_rng(0))


def test_a_cache_while_recording_is_refused():
    layer = CausalSelfAttention(4, 2, rng=np.random.default_rng(0))
    with pytest.raises(RuntimeError, match=r"no gradient flows.*no_grad\(\)"):
        layer(Tensor(single(1, 2, 4)), ListCache())


def test_no_queries_are_no_trouble():
    check_fused(attention, draw(2, 2, 0, 3), draw(2, 1, 4, 3), draw(2, 1, 4, 3))
    check_fused(attention, draw(2, 2, 0, 3), draw(2, 1, 0, 3), draw(2, 1, 0, 3))


def test_heads_of_no_numbers_and_no_heads_are_refused():
    with pytest.raises(ValueError, match="attention expected heads with at least one number"):
        attention(*(Tensor(single(1, 2, 3, 0)) for _ in range(3)))
    with pytest.raises(ValueError, match="packed_attention needs at least one head, got 0 and 0"):
        packed_attention(Tensor(single(1, 3, 6)), 0)
    with pytest.raises(ValueError, match="got width 12, 0 heads and 0 key-value heads"):
        CausalSelfAttention(12, 0, rng=np.random.default_rng(0))


# ---- Masks, and values of another width ----


def test_a_mask_hides_keys_by_hand():
    zeros = Tensor(np.zeros((1, 1, 2, 1), np.float32))
    v = Tensor(np.array([6.0, 2.0], np.float32).reshape(1, 1, 2, 1))
    mask = np.array([[True, False], [True, True]])
    assert attention(zeros, zeros, v, causal=False, mask=mask).array.ravel().tolist() == [6, 4]
    # A number that is added: ln 3 in favour of the first key makes 3/4 and 1/4.
    favour = np.array([np.log(3), 0.0], np.float32)
    out = attention(zeros, zeros, v, causal=False, mask=favour).array.ravel()
    np.testing.assert_allclose(out, [5, 5], rtol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", [bool, float])
def test_kernels_and_definition_agree_with_masks_and_other_widths(causal, kind, monkeypatch):
    monkeypatch.setattr(attention, "by_device", {"cpu": attention.by_device["cpu"]})  # knows them
    B, H, G, T, S, D, E = 2, 4, 2, 5, 7, 3, 6
    may_look = draw(B, 1, T, S, seed=4) > -0.5
    may_look[0, 0, 1] = False  # a query that may look nowhere
    mask = may_look if kind is bool else np.where(may_look, draw(B, 1, T, S, seed=5), -np.inf)
    arrays = draw(B, H, T, D), draw(B, G, S, D, seed=1), draw(B, G, S, E, seed=2)
    check_fused(attention, *arrays, causal=causal, mask=mask)
    tensors = [Tensor(array.astype(np.float32), requires_grad=True) for array in arrays]
    out = attention(*tensors, causal=causal, mask=mask)
    out.sum().backward()
    assert out.shape == (B, H, T, E)
    assert not out.array[0, :, 1].any()
    assert not tensors[0].grad[0, :, 1].any()
    assert all(np.isfinite(tensor.grad).all() for tensor in tensors)


def test_a_mask_of_one_query_and_one_that_hides_nothing():
    q, k, v = (Tensor(single(1, 2, n, 4, seed=n)) for n in (1, 6, 6))
    hidden = np.array([True, True, True, False, False, False])
    some = attention(q, k, v, mask=hidden).array
    few = attention(q, k[:, :, :3], v[:, :, :3]).array
    np.testing.assert_allclose(some, few, rtol=1e-5, atol=1e-6)
    q = Tensor(single(1, 2, 6, 4))
    plain, masked = attention(q, k, v).array, attention(q, k, v, mask=np.ones(6, bool)).array
    np.testing.assert_allclose(masked, plain, rtol=1e-5, atol=1e-6)


def test_masks_that_do_not_fit_or_want_a_gradient_are_refused():
    q = Tensor(single(1, 1, 3, 2))
    with pytest.raises(
        ValueError, match=r"\(batch, heads, queries, keys\), \(1, 1, 3, 3\), got \(4,\)"
    ):
        attention(q, q, q, mask=np.ones(4, bool))
    with pytest.raises(TypeError, match=r"a mask of booleans.*give mask.astype\(bool\)"):
        attention(q, q, q, mask=np.ones(3, int))
    bias = Tensor(single(3, 3), requires_grad=True)
    with pytest.raises(TypeError, match="no gradient for a mask; give it mask.detach()"):
        attention(q, q, q, mask=bias)
    with definitions_only():
        attention(q, q, q, mask=bias).sum().backward()
    assert bias.grad.shape == (3, 3)


def test_kernels_that_know_no_masks_say_so():
    q = Tensor(single(1, 1, 3, 2))
    with pytest.raises(ValueError, match="kernels on cpu do not know a mask or a window; move"):
        attention_fast(object(), q, q, q, mask=np.ones(3, bool))


# ---- A window ----


@pytest.mark.parametrize(
    ("T", "S", "window"), [(33, 33, 7), (65, 130, 64), (70, 200, 70), (150, 150, 1), (1, 90, 7)]
)
def test_a_window_agrees_with_the_definition(T, S, window):
    arrays = single(2, 4, T, 8), single(2, 2, S, 8, seed=1), single(2, 2, S, 8, seed=2)
    check_large(attention, *arrays, window=window)


def test_a_window_that_hides_nothing_changes_no_bit():
    q, k, v = (Tensor(single(1, 2, 30, 4, seed=seed)) for seed in range(3))
    found = attention(q, k, v, window=30).array
    np.testing.assert_array_equal(found, attention(q, k, v).array)


@pytest.mark.parametrize(("T", "S", "window"), [(5, 5, 2), (3, 9, 4), (1, 6, 2), (4, 9, 8)])
def test_the_products_of_a_window_are_counted_over_what_is_seen(T, S, window):
    q, k = Tensor(single(1, 1, T, 2)), Tensor(single(1, 1, S, 2))
    seen = sum(min(window, S - T + t + 1) for t in range(T))
    watching = SimpleNamespace(flops=0)
    with observed_by(watching):
        _count_products(2, q, k, True, window)
    assert watching.flops == 2 * 2 * 2 * seen


def test_a_window_that_cannot_be_is_named():
    x = Tensor(np.zeros((1, 1, 3, 2), np.float32))
    for run in (attention, attention.definition):
        with pytest.raises(ValueError, match="a window of 1 or more, causal and without a mask, g"):
            run(x, x, x, window=0)
        with pytest.raises(ValueError, match="got 2, causal False and no mask"):
            run(x, x, x, causal=False, window=2)
        with pytest.raises(ValueError, match="got 2, causal True and a mask"):
            run(x, x, x, window=2, mask=np.ones(3, bool))
