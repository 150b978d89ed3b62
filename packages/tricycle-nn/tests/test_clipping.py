import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricycle_autograd.testing import check_update, on_a_gpu
from tricycle_nn import SGD, Parameter, clip_scale, gradient_norm, scale_for_norm
from tricycle_nn.clipping import CHUNK, sum_of_flat_squares


def parameter(gradient):
    """A parameter of zeros with this gradient."""
    gradient = None if gradient is None else np.asarray(gradient, np.float32)
    made = Parameter(np.zeros(np.shape(gradient), np.float32))
    made.grad = gradient
    return made


# ---- By hand ----


def test_the_norm_is_taken_over_all_parameters_together():
    assert gradient_norm([parameter([3.0]), parameter([[0.0, 4.0]])]) == 5.0


def test_a_gradient_twice_too_long_is_halved():
    assert clip_scale([parameter([3.0, 4.0])], max_norm=2.5) == 0.5


def test_a_short_gradient_is_left_alone():
    assert clip_scale([parameter([3.0, 4.0])], max_norm=5.0) == 1.0
    assert clip_scale([parameter([0.0])], max_norm=5.0) == 1.0


def test_a_step_by_scale_is_a_step_with_the_clipped_gradient():
    weight = parameter([3.0, 4.0])
    SGD([weight], learning_rate=1.0).step(grad_scale=clip_scale([weight], 1.0))
    np.testing.assert_allclose(weight.array, [-0.6, -0.8], rtol=1e-6)
    assert weight.grad.tolist() == [3.0, 4.0]  # the gradient itself was not touched


# ---- Cases ----


def test_parameters_without_a_gradient_or_without_numbers_count_nothing():
    assert gradient_norm([parameter(None), parameter(np.zeros((0, 3))), parameter([2.0])]) == 2.0
    assert gradient_norm([]) == 0.0


def test_a_gradient_that_lies_scattered_is_measured_too():
    weight = Parameter(np.zeros((2, 2), np.float32))
    weight.grad = np.array([[1.0, 2.0], [2.0, 4.0]], np.float32).T
    assert gradient_norm([weight]) == 5.0


def test_a_gradient_that_is_no_number_is_not_called_short():
    weight = parameter([1.0, float("nan")])
    assert np.isnan(gradient_norm([weight]))
    assert np.isnan(clip_scale([weight], 1.0))


def test_squares_beyond_float32_are_summed():
    # (1e30)² is no float32; the sum is taken in float64.
    assert gradient_norm([parameter([1e30])]) == pytest.approx(1e30, rel=1e-6)


@pytest.mark.parametrize("size", [1, 1000, 2 * CHUNK + 3])
def test_kernels_and_definition_agree(size):
    check_update(sum_of_flat_squares, np.random.default_rng(0).standard_normal(size))


# ---- Properties ----


@given(
    sizes=st.lists(st.integers(1, 100_000), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_norm_is_numpys(sizes, seed):
    rng = np.random.default_rng(seed)
    gradients = [rng.standard_normal(size, np.float32) for size in sizes]
    together = np.concatenate(gradients).astype(np.float64)
    norm = gradient_norm([parameter(gradient) for gradient in gradients])
    assert norm == pytest.approx(np.linalg.norm(together), rel=1e-12)


@given(norm=st.floats(0, 1e30), max_norm=st.floats(1e-3, 1e3))
def test_a_clipped_gradient_is_no_longer_than_allowed(norm, max_norm):
    scale = scale_for_norm(norm, max_norm)
    assert 0 < scale <= 1
    assert scale * norm <= max_norm * (1 + 1e-12)
    assert (scale == 1) == (norm <= max_norm)


# ---- Errors ----


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("nan")])
def test_a_largest_norm_that_is_not_above_zero_is_refused(max_norm):
    with pytest.raises(ValueError, match=f"max_norm must be above 0, got {max_norm}"):
        clip_scale([parameter([1.0])], max_norm)


def test_a_gpu_sums_squares_beyond_float32_too():
    gradients = on_a_gpu(np.array([1e30, 2e30], np.float32))
    assert sum_of_flat_squares(gradients) == pytest.approx(5e60)
