"""Initial weights: their size, and the same ones for the same seed."""

import numpy as np
import pytest

from tricycle_nn import kaiming, normal, uniform, xavier


def rng():
    return np.random.default_rng(0)


def test_normal_numbers_have_the_standard_deviation_asked_for():
    numbers = normal(rng(), (100, 1000), 0.02)
    assert numbers.dtype == np.float32
    assert abs(numbers.std() - 0.02) < 0.0002
    assert abs(numbers.mean()) < 0.0002


def test_uniform_numbers_lie_evenly_between_the_bounds():
    numbers = uniform(rng(), 100_000, 3.0)
    assert numbers.dtype == np.float32
    assert -3 <= numbers.min() < -2.99 and 2.99 < numbers.max() <= 3
    quarters = np.histogram(numbers, 4, (-3, 3))[0] / 100_000
    assert abs(quarters - 0.25).max() < 0.01


def test_xavier_looks_at_both_sizes():
    assert abs(xavier(rng(), (300, 100)).std() - np.sqrt(2 / 400)) < 0.001


def test_kaiming_looks_at_the_inputs():
    assert abs(kaiming(rng(), (200, 500)).std() - 0.1) < 0.001


def test_relu_layers_with_kaiming_weights_keep_a_signal_alive():
    generator = rng()
    x = generator.standard_normal((100, 500))
    for _ in range(20):
        x = np.maximum(x @ kaiming(generator, (500, 500)), 0)
    assert 0.3 < (x**2).mean() < 3


def test_one_seed_gives_one_set_of_weights():
    assert np.array_equal(normal(rng(), (3, 4), 1.0), normal(rng(), (3, 4), 1.0))


@pytest.mark.parametrize("initialiser", [normal, uniform])
def test_a_seed_is_not_a_generator(initialiser):
    with pytest.raises(TypeError, match=r"numpy\.random\.default_rng\(0\) say; got int"):
        initialiser(0, (3, 4), 1.0)
