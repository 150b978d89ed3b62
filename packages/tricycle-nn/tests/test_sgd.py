from pathlib import Path

import numpy as np
import pytest

from tricycle_autograd.testing import check_update, draw
from tricycle_nn import SGD, Parameter
from tricycle_nn.optimiser import Scalars
from tricycle_nn.sgd import CHUNK, sgd_update

GOLDEN = Path(__file__).with_name("optimiser_golden.npz")


def moves(optimiser, weight, gradients):
    """The weight after each step, given one gradient (a number) a step."""
    seen = []
    for gradient in gradients:
        weight.grad = np.array([gradient], np.float32)
        optimiser.step()
        seen.append(weight.item())
    return seen


def one():
    return Parameter(np.array([1.0], np.float32))


# ---- By hand ----


def test_plain_descent_by_hand():
    weight = one()
    assert moves(SGD([weight], 0.5), weight, [1.0, -1.0, 4.0]) == [0.5, 1.0, -1.0]


def test_momentum_by_hand():
    # velocities 1, 0.5 + 1 = 1.5, 0.75 + 0 = 0.75: it goes on where there is no slope any more.
    weight = one()
    seen = moves(SGD([weight], 1.0, momentum=0.5), weight, [1.0, 1.0, 0.0])
    assert seen == [0.0, -1.5, -2.25]


def test_nesterov_by_hand():
    # velocities as above; each step is gradient + half the new velocity: 1.5, 1.75, 0.375.
    weight = one()
    seen = moves(SGD([weight], 1.0, momentum=0.5, nesterov=True), weight, [1.0, 1.0, 0.0])
    assert seen == [-0.5, -2.25, -2.625]


def test_weight_decay_by_hand():
    # gradient 0 + 0.5 · w: the weight loses a quarter of itself with each step of half.
    weight = one()
    assert moves(SGD([weight], 0.5, weight_decay=0.5), weight, [0.0, 0.0]) == [0.75, 0.5625]


# ---- The array language ----


@pytest.mark.parametrize("shape", [(7, 5), (CHUNK + 3,), ()])
@pytest.mark.parametrize("nesterov", [False, True])
def test_kernels_and_definition_agree(shape, nesterov):
    w, g, u = (draw(*shape, seed=seed) for seed in range(3))
    settings = {"momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.1}
    check_update(sgd_update, w, g, u, scalars=Scalars(0.1, grad_scale=0.5), **settings)


# ---- PyTorch's numbers ----


@pytest.mark.parametrize(
    "name, settings",
    [
        ("sgd", {}),
        ("sgd_momentum", {"momentum": 0.9}),
        ("sgd_nesterov", {"momentum": 0.9, "nesterov": True}),
        ("sgd_nesterov_decay", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ],
)
def test_fifty_steps_equal_torchs(name, settings):
    golden = np.load(GOLDEN, allow_pickle=False)
    weight = Parameter(golden["start"])
    optimiser = SGD([weight], learning_rate=0.05, **settings)
    for gradient, expected in zip(golden["gradients"], golden[name], strict=True):
        weight.grad = gradient
        optimiser.step()
        np.testing.assert_allclose(weight.array, expected, rtol=1e-6, atol=1e-6)


# ---- Errors ----


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ValueError, match="nesterov looks ahead .*: give a momentum above 0"):
        SGD([one()], nesterov=True)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_a_momentum_that_is_no_share_is_refused(momentum):
    with pytest.raises(
        ValueError, match=f"momentum must be at least 0 and below 1, got {momentum}"
    ):
        SGD([one()], momentum=momentum)
