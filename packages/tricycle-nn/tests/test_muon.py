"""Muon: steps in all directions alike, and Combined: several optimisers as one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricycle_autograd.testing import check_update
from tricycle_nn import AdamW, Combined, Muon, Parameter
from tricycle_nn.muon import LIKE_ADAMW, ROUNDS, Place, muon_update, orthogonalise
from tricycle_nn.optimiser import Scalars


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def with_gradient(weight, gradient):
    parameter = Parameter(weight.copy())
    parameter.grad = gradient.copy()
    return parameter


def test_a_multiple_of_the_identity_becomes_nearly_the_identity():
    # Both singular values of 3 I divided by its norm are 1/√2, which four polynomials take to
    # between 0.8 and 1.2.
    x = orthogonalise(3 * np.eye(2, dtype=np.float32))
    assert x[0, 1] == x[1, 0] == 0
    assert 0.8 < x[0, 0] == x[1, 1] < 1.2


def test_the_polynomials_bring_all_but_the_smallest_numbers_near_one():
    s = np.geomspace(0.003, 1.001, 100_000)  # a norm may be rounded up
    for a, b, c in ROUNDS:
        s = a * s + b * s**3 + c * s**5
    assert s.min() > 0.8
    assert s.max() < 1.2
    # And what was smaller than all of these grows by the product of the four a.
    assert np.prod([a for a, _, _ in ROUNDS]) == pytest.approx(296, abs=1)


@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 2**32 - 1))
def test_singular_values_end_near_one(rows, columns, seed):
    matrix = np.random.default_rng(seed).standard_normal((rows, columns))
    u, sizes, v = np.linalg.svd(matrix, full_matrices=False)
    sizes = np.linspace(1, 20, len(sizes))  # none too small for four rounds
    found = np.linalg.svd(orthogonalise((u * sizes) @ v), compute_uv=False)
    assert found.min() > 0.79
    assert found.max() < 1.21


@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (9, 5), (33, 70), (64, 16), (60, 120)])
@pytest.mark.parametrize("parts", [1, 3])
def test_kernels_and_definition_agree(shape, parts):
    """On matrices side by side, which start elsewhere in each of the flat arrays."""
    rows, columns = shape
    width = columns * parts
    w, g, u = draw(rows * width + 3), draw(rows * width + 5, seed=1), draw(rows * width, seed=2)
    places = [Place(3, 5, 0, rows, width, i * columns, columns) for i in range(parts)]
    settings = {"places": places, "momentum": 0.9, "weight_decay": 0.2}
    scalars = Scalars(0.1, grad_scale=0.5)
    check_update(muon_update, w, g, u, scalars=scalars, atol=2e-3, **settings)


@pytest.mark.parametrize("parts", [1, 3])
def test_each_part_of_a_parameter_is_a_matrix_of_its_own(parts):
    gradient = draw(9, 5 * parts, seed=1)
    parameter = with_gradient(draw(9, 5 * parts), gradient)
    alone = [
        with_gradient(*pair)
        for pair in zip(
            np.split(parameter.array, parts, axis=1), np.split(gradient, parts, axis=1), strict=True
        )
    ]
    Muon([{"parameters": [parameter], "parts": parts}], 0.1).step()
    Muon(alone, 0.1).step()
    np.testing.assert_array_equal(parameter.array, np.concatenate([p.array for p in alone], axis=1))


def test_a_step_is_as_large_as_one_of_adamw():
    parameter = with_gradient(np.zeros((40, 60), np.float32), draw(40, 60))
    Muon([parameter], 1.0, weight_decay=0.0).step()
    assert LIKE_ADAMW * 0.8 < np.sqrt((parameter.array**2).mean()) < LIKE_ADAMW * 1.2


def test_without_a_gradient_nothing_moves():
    parameter = Parameter(draw(3, 4))
    before = parameter.array.copy()
    Muon([parameter], 1.0).step()
    np.testing.assert_array_equal(parameter.array, before)


def test_a_gradient_of_zeros_only_decays():
    parameter = with_gradient(np.ones((3, 4), np.float32), np.zeros((3, 4), np.float32))
    Muon([parameter], 0.1, weight_decay=0.5).step()
    np.testing.assert_allclose(parameter.array, 0.95)


def both(seed=0, named=False):
    matrix, vector = Parameter(draw(6, 8, seed=seed)), Parameter(draw(8, seed=seed))
    given = [[("m", matrix)], [("v", vector)]] if named else [[matrix], [vector]]
    return matrix, vector, Combined([Muon(given[0], 0.1), AdamW(given[1], 0.1)])


def test_two_optimisers_step_as_one():
    matrix, vector, optimiser = both()
    matrix.grad, vector.grad = draw(6, 8, seed=3), draw(8, seed=3)
    alone = with_gradient(vector.array, vector.grad)
    optimiser.learning_rate = 0.2
    optimiser.step()
    AdamW([alone], 0.2).step()
    assert (optimiser.learning_rate, optimiser.steps_taken) == (0.2, 1)
    np.testing.assert_array_equal(vector.array, alone.array)
    optimiser.zero_grad()
    assert matrix.grad is None
    assert vector.grad is None


def test_a_state_of_two_names_moments_after_parameters():
    assert [*both(named=True)[2].state_dict()] == [
        "0/steps_taken",
        "0/learning_rate",
        "m.velocity",
        "1/steps_taken",
        "1/learning_rate",
        "v.first_moment",
        "v.second_moment",
    ]


@pytest.mark.parametrize(
    "then, now", [(False, False), (True, True), (False, True)], ids=["positions", "names", "older"]
)
def test_what_was_saved_goes_on_bit_for_bit(then, now):
    def steps(matrix, vector, optimiser, seeds):
        for seed in seeds:
            matrix.grad, vector.grad = draw(6, 8, seed=seed), draw(8, seed=seed)
            optimiser.step()

    matrix, vector, optimiser = both(named=then)
    steps(matrix, vector, optimiser, [1, 2])
    state, weights = optimiser.state_dict(), (matrix.array.copy(), vector.array.copy())
    steps(matrix, vector, optimiser, [3, 4])

    again, vector_again, resumed = both(seed=9, named=now)
    again.array[...], vector_again.array[...] = weights
    resumed.load_state_dict(state)
    steps(again, vector_again, resumed, [3, 4])
    assert again.array.tobytes() == matrix.array.tobytes()
    assert vector_again.array.tobytes() == vector.array.tobytes()


def test_what_cannot_work_is_said():
    with pytest.raises(ValueError, match=r"Muon moves matrices, got a parameter of shape \(4,\)"):
        Muon([Parameter(draw(4))])
    with pytest.raises(ValueError, match="parts must divide the columns .* got 3 parts and"):
        Muon([{"parameters": [Parameter(draw(4, 4))], "parts": 3}])
    with pytest.raises(ValueError, match=r"parts must divide the columns .* got 2\.0 parts and"):
        Muon([{"parameters": [Parameter(draw(4, 4))], "parts": 2.0}])
    with pytest.raises(ValueError, match="momentum must be at least 0 and below 1, got 1"):
        Muon([Parameter(draw(4, 4))], momentum=1)
    with pytest.raises(ValueError, match="Combined needs at least one optimiser"):
        Combined([])
    matrix = Parameter(draw(2, 2))
    with pytest.raises(ValueError, match="two optimisers would move one parameter"):
        Combined([Muon([matrix]), AdamW([matrix])])
    with pytest.raises(ValueError, match="two parameters are called w; a state could not tell"):
        Combined([Muon([("w", matrix)]), AdamW([("w", Parameter(draw(2)))])])
    with pytest.raises(ValueError, match="was not saved by 2 optimisers together: it has 7/x"):
        both()[2].load_state_dict({"7/x": np.zeros(1)})
