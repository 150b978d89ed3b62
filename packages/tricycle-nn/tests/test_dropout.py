"""Dropout: masks from counting."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tricycle_autograd import Tensor, definitions_only
from tricycle_autograd.testing import check_fused, check_on_cuda, draw, on_a_gpu
from tricycle_nn import Dropout, Module, dropout, dropout_off, set_dropout_step
from tricycle_nn.philox import philox


def ones(*shape):
    return Tensor(np.ones(shape, np.float32), requires_grad=True)


def mask(*shape, p=0.5, seed=0, step=0, stream=0):
    return dropout(ones(*shape), p, seed=seed, step=step, stream=stream).array != 0


def test_numbers_are_doubled_or_dropped_and_so_are_their_gradients():
    x = Tensor(np.arange(1, 101, dtype=np.float32), requires_grad=True)
    y = dropout(x, 0.5, seed=1, step=0, stream=0)
    kept = y.array != 0
    assert 30 < kept.sum() < 70
    assert np.array_equal(y.array, np.where(kept, 2 * x.array, 0))
    y.backward(np.full(100, 3, np.float32))
    assert np.array_equal(x.grad, np.where(kept, 6, 0))


def test_the_mask_is_the_words_of_philox_compared_with_p():
    # Number 5 of the second group, 69 of all, has word 0 of block 5 + 16; number 90 word 1 of 26.
    words = philox((np.array([21, 26]), 0, 7, 8), (3, 1))  # key: the seed's halves
    kept = mask(128, p=0.25, seed=3 + 2**32, step=7, stream=8)
    assert kept[69] == (words[0][0] >= 2**30)
    assert kept[90] == (words[1][1] >= 2**30)


@pytest.mark.parametrize("shape", [(), (1,), (63,), (3, 7), (2, 3, 4), (65,)])
@pytest.mark.parametrize("p", [0.3, 1.0])
def test_the_kernel_agrees_with_the_definition(shape, p):
    check_fused(dropout, draw(*shape), p=p, seed=5, step=6, stream=7, keeps=0)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 70_000),
    st.floats(0, 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)
def test_the_kernel_and_the_definition_drop_the_same_numbers(size, p, seed, step, stream):
    settings = {"p": p, "seed": seed, "step": step, "stream": stream}
    kernel = dropout(ones(size), **settings)
    with definitions_only():
        definition = dropout(ones(size), **settings)
    assert np.array_equal(kernel.array, definition.array)


def test_a_longer_array_begins_with_the_same_mask():
    assert np.array_equal(mask(70_000)[:20_001], mask(20_001))


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_the_share_of_dropped_numbers_is_p(p):
    n = 200_000
    deviation = np.sqrt(p * (1 - p) / n)
    assert abs(1 - mask(n, p=p).mean() - p) < 5 * deviation


def test_the_mean_stays_about_the_same():
    assert abs(dropout(ones(200_000), 0.3, seed=0, step=0, stream=0).array.mean() - 1) < 0.01


@pytest.mark.parametrize("change", ["seed", "step", "stream"])
def test_another_seed_step_or_stream_gives_an_unrelated_mask(change):
    same = (mask(100_000) == mask(100_000, **{change: 1})).mean()
    assert abs(same - 0.5) < 0.01


def test_no_dropout_and_nothing_but_dropout():
    x = ones(100)
    assert dropout(x, 0, seed=0, step=0, stream=0) is x
    y = dropout(x, 1, seed=0, step=0, stream=0)
    assert not y.array.any()
    y.sum().backward()
    assert not x.grad.any()


def test_a_dropped_nan_is_gone_and_a_kept_one_is_not():
    y = dropout(Tensor([np.nan] * 100), 0.5, seed=0, step=0, stream=0).array
    assert np.array_equal(np.isnan(y), mask(100))
    assert not y[~mask(100)].any()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"p": 1.5}, "dropout drops a share of the numbers between 0 and 1, got p = 1.5"),
        ({"p": -0.1}, "between 0 and 1, got p = -0.1"),
        ({"p": float("nan")}, "between 0 and 1, got p = nan"),
        ({"seed": -1}, r"dropout needs a seed from 0 to 2\*\*64 - 1, got -1"),
        ({"step": 2**32}, r"dropout needs a step from 0 to 2\*\*32 - 1, got 4294967296"),
        ({"stream": -1}, r"dropout needs a stream from 0 to 2\*\*32 - 1, got -1"),
    ],
)
def test_settings_out_of_range_are_explained(settings, message):
    settings = {"p": 0.5, "seed": 0, "step": 0, "stream": 0} | settings
    for call in (dropout, dropout.definition):
        with pytest.raises(ValueError, match=message):
            call(ones(3), **settings)


# ---- The layer ----


def test_a_layer_uses_a_new_mask_at_every_step_of_training():
    layer = Dropout(0.5, rng=np.random.default_rng(0))
    first, second = layer(ones(100)).array, layer(ones(100)).array
    assert not np.array_equal(first, second)
    assert layer.step == 2


def test_a_layer_in_use_lets_everything_through_and_does_not_count():
    layer = Dropout(0.5, rng=np.random.default_rng(0)).eval()
    x = ones(100)
    assert layer(x) is x
    assert layer.step == 0


def test_two_layers_of_one_model_and_two_streams_of_one_layer_differ():
    rng = np.random.default_rng(0)
    first, second = Dropout(0.5, rng=rng), Dropout(0.5, rng=rng)
    twin = Dropout(0.5, rng=np.random.default_rng(0), stream=1)
    assert twin.seed == first.seed
    masks = [layer(ones(1000)).array for layer in (first, second, twin)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert 400 < (masks[i] == masks[j]).sum() < 600


def test_a_run_that_is_resumed_drops_what_it_would_have_dropped():
    class Net(Module):
        def __init__(self):
            rng = np.random.default_rng(0)
            self.layers = [Dropout(0.5, rng=rng), Dropout(0.5, rng=rng)]

        def forward(self, x):
            return self.layers[1](self.layers[0](x))

    whole, resumed = Net(), Net()
    outputs = [whole(ones(100)).array for _ in range(5)]
    set_dropout_step(resumed, 3)
    for expected in outputs[3:]:
        assert np.array_equal(resumed(ones(100)).array, expected)


def test_an_impossible_share_is_refused_when_the_layer_is_made():
    with pytest.raises(ValueError, match="between 0 and 1, got p = 2"):
        Dropout(2, rng=np.random.default_rng(0))


def test_nothing_is_dropped_or_counted_within_dropout_off():
    layer, x = Dropout(0.5, rng=np.random.default_rng(0)), ones(4, 100)
    with dropout_off():
        assert layer(x) is x
        with dropout_off():
            assert layer(x) is x
        assert layer(x) is x
    assert layer.step == 0
    assert (layer(x).array == 0).any()
    assert layer.step == 1


# ---- On a GPU ----

SETTINGS = {"seed": 2**40 + 7, "step": 3, "stream": 5}


@pytest.mark.parametrize("size", [1, 63, 64, 1000])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_gpu_drops_what_the_cpu_drops(size, dtype):
    there = dropout(Tensor(on_a_gpu(np.ones(size, dtype))), 0.3, **SETTINGS)
    np.testing.assert_array_equal(there.numpy() != 0, mask(size, p=0.3, **SETTINGS))


@pytest.mark.parametrize("p", [0.1, 1.0])
def test_the_cuda_kernel_agrees_with_the_definition(p):
    check_on_cuda(dropout, draw(3, 71), p=p, **SETTINGS)
