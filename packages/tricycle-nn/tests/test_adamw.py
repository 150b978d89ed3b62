from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricycle_autograd.testing import check_update, draw
from tricycle_nn import AdamW, Parameter
from tricycle_nn.adamw import CHUNK, adamw_update
from tricycle_nn.optimiser import Scalars

GOLDEN = Path(__file__).with_name("optimiser_golden.npz")


def one(*values):
    return Parameter(np.array(values or [1.0], np.float32))


def take_step(optimiser, weight, gradient):
    weight.grad = np.asarray(gradient, np.float32)
    optimiser.step()
    return weight.numpy()


# ---- By hand ----


def test_the_first_step_is_one_learning_rate_whatever_the_gradient():
    # m̂ = g and v̂ = g², so m̂ / √v̂ is the gradient's sign.
    weight = one(1.0, 1.0, 1.0)
    optimiser = AdamW([weight], learning_rate=0.25, weight_decay=0.0)
    moved = take_step(optimiser, weight, [100.0, -0.001, 3.0])
    np.testing.assert_allclose(moved, [0.75, 1.25, 0.75], rtol=1e-5)


def test_the_second_step_by_hand():
    # With both betas ½ and gradients 1 and −1:
    #   m = ½, then −¼;  m̂ = −¼ / ¾ = −⅓;   v = ½, then ¾;  v̂ = ¾ / ¾ = 1.
    weight = one(1.0)
    optimiser = AdamW([weight], learning_rate=0.3, betas=(0.5, 0.5), weight_decay=0.0)
    np.testing.assert_allclose(take_step(optimiser, weight, [1.0]), [0.7], rtol=1e-6)
    np.testing.assert_allclose(take_step(optimiser, weight, [-1.0]), [0.8], rtol=1e-6)


def test_decay_is_taken_from_the_weight_itself():
    # No gradient to speak of: the weight loses learning rate · decay of itself.
    weight = one(2.0)
    optimiser = AdamW([weight], learning_rate=0.1, weight_decay=0.5)
    np.testing.assert_allclose(take_step(optimiser, weight, [0.0]), [2.0 * 0.95], rtol=1e-6)


def test_a_number_that_never_had_a_gradient_stays_exactly():
    weight = one(1.0, 1.0)
    optimiser = AdamW([weight], weight_decay=0.0)
    for _ in range(5):
        moved = take_step(optimiser, weight, [0.0, 1.0])
    assert moved[0] == 1.0 and moved[1] < 1.0


# ---- The array language ----


@pytest.mark.parametrize("shape", [(7, 5), (CHUNK + 3,), ()])
def test_kernels_and_definition_agree(shape):
    w, g, m = (draw(*shape, seed=seed) for seed in range(3))
    v = draw(*shape, seed=3) ** 2
    settings = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.1}
    check_update(adamw_update, w, g, m, v, scalars=Scalars(0.1, 0.5, step=3), **settings)


@given(
    size=st.sampled_from([1, 2, 16, 50, 1000, CHUNK + 3]),
    seed=st.integers(0, 2**32 - 1),
    beta1=st.floats(0, 0.95),
    beta2=st.floats(0.9, 0.9999),
    weight_decay=st.floats(0, 1),
    grad_scale=st.floats(0.01, 2),
)
def test_the_kernel_computes_what_the_array_language_says(
    size, seed, beta1, beta2, weight_decay, grad_scale
):
    rng = np.random.default_rng(seed)
    weight = Parameter(rng.standard_normal(size, np.float32))
    optimiser = AdamW([weight], 0.01, betas=(beta1, beta2), eps=1e-6, weight_decay=weight_decay)
    w = weight.numpy().astype(np.float64)
    m, v = np.zeros(size), np.zeros(size)
    for step in (1, 2, 3):
        gradient = rng.standard_normal(size, np.float32)
        weight.grad = gradient
        optimiser.step(grad_scale)
        scalars = Scalars(0.01, grad_scale, step)
        settings = (scalars, beta1, beta2, 1e-6, weight_decay)
        adamw_update(w, gradient.astype(np.float64), m, v, *settings)
    np.testing.assert_allclose(weight.array, w, rtol=1e-5, atol=1e-5)
    state = optimiser.state_dict()
    np.testing.assert_allclose(state["0.0.first_moment"], m, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state["0.0.second_moment"], v, rtol=1e-5, atol=1e-6)


# ---- PyTorch's numbers ----


@pytest.mark.parametrize(
    "name, settings",
    [
        ("adamw", {"betas": (0.9, 0.999), "weight_decay": 0.0}),
        ("adamw_decay", {"betas": (0.9, 0.95), "weight_decay": 0.1}),
    ],
)
def test_fifty_steps_equal_torchs(name, settings):
    golden = np.load(GOLDEN, allow_pickle=False)
    weight = Parameter(golden["start"])
    optimiser = AdamW([weight], learning_rate=0.01, **settings)
    for gradient, expected in zip(golden["gradients"], golden[name], strict=True):
        weight.grad = gradient
        optimiser.step()
        np.testing.assert_allclose(weight.array, expected, rtol=1e-6, atol=1e-6)


# ---- Errors ----


@pytest.mark.parametrize("wrong", [-0.1, 1.0, float("nan")])
def test_betas_that_are_no_shares_are_refused(wrong):
    with pytest.raises(ValueError, match=f"beta1 must be at least 0 and below 1, got {wrong}"):
        AdamW([one()], betas=(wrong, 0.999))
    with pytest.raises(ValueError, match=f"beta2 must be at least 0 and below 1, got {wrong}"):
        AdamW([one()], betas=(0.9, wrong))


@pytest.mark.parametrize("eps", [0.0, -1e-8])
def test_an_eps_that_would_divide_zero_by_zero_is_refused(eps):
    with pytest.raises(ValueError, match=f"eps must be above 0, got {eps}"):
        AdamW([one()], eps=eps)


def test_an_eps_that_is_zero_in_float32_is_refused():
    with pytest.raises(ValueError, match="above 0 in float32 too, where 1e-50 is 0; take a larger"):
        AdamW([one()], eps=1e-50)


@pytest.mark.parametrize("size", [1e25, 1e19, 3e38])
def test_a_huge_gradient_moves_by_one_learning_rate_and_the_next_ones_are_finite(size):
    weight = one(1.0)
    optimiser = AdamW([weight], 0.1, weight_decay=0.0)
    assert take_step(optimiser, weight, [size]) == pytest.approx([0.9])
    for gradient in (-size, size, 1.0):
        assert np.isfinite(take_step(optimiser, weight, [gradient])).all()


def test_huge_gradients_count_alike_in_definition_and_kernels():
    g = np.array([1e25, -1e25, 1.0, 2e19, 0.0], np.float32)
    w, m = draw(5), np.zeros(5)
    check_update(
        adamw_update, w, g, m, m, scalars=Scalars(0.1), beta1=0.9, beta2=0.99, eps=1e-8,
        weight_decay=0.1,
    )  # fmt: skip


@pytest.mark.parametrize("gradient", [np.inf, np.nan])
def test_a_gradient_that_is_no_number_stays_visible(gradient):
    weight = one(1.0)
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(take_step(AdamW([weight], 0.1), weight, [gradient])).any()


def test_a_late_first_gradient_moves_by_what_the_docstring_says():
    late = one(1.0)
    optimiser = AdamW([late], 0.1, betas=(0.9, 0.999))
    optimiser.steps_taken = 5000
    assert 1 - take_step(optimiser, late, [1.0])[0] == pytest.approx(0.1 * 3.16, rel=0.01)
