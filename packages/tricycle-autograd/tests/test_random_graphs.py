"""Expressions drawn at random, with values used several times, against measured slopes.

One random direction in the space of all inputs is tried for each expression: how fast the result
changes along it, measured by central differences, against what the gradients say.
"""

import os

import numpy as np
import pytest

import tricycle_autograd as tri
from tricycle_autograd import Tensor, no_grad

GRAPHS = 20_000 if os.environ.get("TRICYCLE_TEST_LONG") == "1" else 2_000
CHUNKS = 20
SHAPES = [(), (1,), (3,), (2, 3), (3, 1), (2, 1, 3), (2, 2, 3)]
MOST = 64  # numbers in one value; longer results are cut
STEP = 1e-6

# Each keeps its values in bounds: tanh where they could grow, abs + 0.5 where 0 would be a corner.
ONE = [
    lambda x: -x,
    lambda x: 1.5 - x,
    lambda x: tri.exp(tri.tanh(x)),
    lambda x: tri.expm1(tri.tanh(x)),
    lambda x: tri.log(abs(x) + 0.5),
    lambda x: tri.log1p(abs(x)),
    lambda x: tri.sqrt(abs(x) + 0.5),
    tri.sin,
    tri.cos,
    tri.tanh,
    tri.erf,
    tri.sigmoid,
    tri.abs,
    tri.sign,
    lambda x: x.clip(-0.7, 0.8),
    lambda x: tri.tanh(x) ** 2,
    lambda x: tri.tanh(x) ** 3,
    lambda x: 2 / (abs(x) + 0.5),
    lambda x: 2 ** tri.tanh(x),
    lambda x: tri.where(x > 0.1, x, 0.3 * x),
]
TWO = [
    lambda x, y: (x + y) / 2,
    lambda x, y: x - 0.5 * y,
    lambda x, y: x * tri.tanh(y),
    lambda x, y: x / (abs(y) + 1),
    tri.maximum,
    tri.minimum,
    lambda x, y: tri.where(x > y, tri.sin(x), y),
    lambda x, y: (abs(x) + 0.5) ** tri.tanh(y),
]
REDUCTIONS = [
    lambda x, **how: 0.3 * tri.tanh(x).sum(**how),
    tri.mean,
    tri.max,
    tri.min,
    tri.logsumexp,
    lambda x, **how: tri.tanh(x).var(**how),
    lambda x, **how: tri.tanh(x).prod(**how),
]
# These take the value and a source of random choices.
ANY_RANK = [
    lambda x, rng: x.reshape(-1),
    lambda x, rng: x.T,
    lambda x, rng: tri.expand_dims(x, int(rng.integers(-x.ndim - 1, x.ndim + 1))),
    lambda x, rng: x.squeeze(),
    lambda x, rng: tri.flip(x),
    lambda x, rng: tri.roll(x, int(rng.integers(-3, 4))),
    lambda x, rng: tri.tile(x, (2, 1)),
    lambda x, rng: x.repeat(2),
    lambda x, rng: tri.broadcast_to(x, (2, *x.shape)),
    lambda x, rng: tri.stack([x, tri.sin(x), x], axis=int(rng.integers(0, x.ndim + 1))),
    lambda x, rng: 0.2 * tri.tanh(x).cumsum(),
    lambda x, rng: tri.std(tri.concatenate([x.ravel(), Tensor(np.array([0.0, 1.0]))])),
    lambda x, rng: tri.outer(tri.tanh(x.ravel()[:3]), x.ravel()[-2:]),
    lambda x, rng: x.astype("float64"),
]
WITH_AN_AXIS = [
    lambda x, axis, rng: tri.flip(x, axis),
    lambda x, axis, rng: tri.roll(x, 1, axis),
    lambda x, axis, rng: tri.moveaxis(x, axis, 0),
    lambda x, axis, rng: x.swapaxes(axis, -1),
    lambda x, axis, rng: x.repeat(2, axis),
    lambda x, axis, rng: 0.2 * tri.tanh(x).cumsum(axis),
    lambda x, axis, rng: tri.concatenate([x, tri.cos(x)], axis),
    lambda x, axis, rng: tri.split(x, [1], axis)[int(rng.integers(0, 2))],
    lambda x, axis, rng: tri.pad(x, 1, constant_values=0.5),
    lambda x, axis, rng: x[int(rng.integers(-len(x), len(x)))] if len(x) else x,
    lambda x, axis, rng: x[::-1],
    lambda x, axis, rng: x[..., 1:, None],
    lambda x, axis, rng: x[rng.integers(-len(x), len(x), 4)] if len(x) else x,
    lambda x, axis, rng: (
        x.take(rng.integers(0, x.shape[axis], (2, 2)), axis) if x.shape[axis] else x
    ),
    lambda x, axis, rng: tri.take_along_axis(
        x, np.argsort(rng.standard_normal(x.shape), axis), axis
    ),
    lambda x, axis, rng: 0.3 * tri.einsum("...i,...i->...", x, tri.tanh(x)),
    lambda x, axis, rng: 0.3 * (x @ tri.tanh(x).T) if x.ndim < 3 else x,
]
MATRICES = [
    lambda x, rng: tri.tril(x, int(rng.integers(-1, 2))),
    lambda x, rng: tri.triu(x, int(rng.integers(-1, 2))),
    lambda x, rng: x.diagonal(),
    lambda x, rng: 0.3 * x.trace(),
    lambda x, rng: 0.3 * (x @ tri.tanh(x).swapaxes(-1, -2)),
    lambda x, rng: 0.3 * tri.einsum("...ij,...kj->...ki", x, tri.tanh(x)),
    lambda x, rng: x.swapaxes(-1, -2),
]


def pick(rng, choices):
    return choices[rng.integers(len(choices))]


def one_step(rng, values):
    """One more value, made from values that are there; recent ones are more likely to be used."""
    x = values[-1] if rng.random() < 0.5 else pick(rng, values)
    kind = rng.integers(6)
    if kind == 0:
        return pick(rng, ONE)(x)
    if kind == 1:
        fitting = [y for y in values if fit(x, y)]
        return pick(rng, TWO)(x, pick(rng, fitting))
    if kind == 2 and x.size:
        axis = int(rng.integers(-x.ndim, x.ndim)) if x.ndim and rng.random() < 0.8 else None
        return pick(rng, REDUCTIONS)(x, axis=axis, keepdims=bool(rng.integers(2)))
    if kind == 3 and x.ndim >= 1:
        return pick(rng, WITH_AN_AXIS)(x, int(rng.integers(-x.ndim, x.ndim)), rng)
    if kind == 4 and x.ndim >= 2:
        return pick(rng, MATRICES)(x, rng)
    return pick(rng, ANY_RANK)(x, rng)


def fit(x, y):
    """Whether broadcasting can bring two values to one shape."""
    pairs = zip(reversed(x.shape), reversed(y.shape), strict=False)
    return all(m == n or 1 in (m, n) for m, n in pairs)


def expression(seed, leaves):
    """The expression with this number: a tensor with one number in it."""
    rng = np.random.default_rng(seed)
    values = list(leaves)
    for _ in range(rng.integers(2, 31)):
        value = one_step(rng, values)
        values.append(value if value.size <= MOST else value.ravel()[:MOST])
    # Everything counts, whether another value used it or not.
    return sum([(value * float(rng.standard_normal())).sum() for value in values])


def check(seed):
    rng = np.random.default_rng([seed, 1])
    starts = [rng.standard_normal(SHAPES[i]) for i in rng.integers(0, len(SHAPES), 3)]
    directions = [rng.standard_normal(start.shape) for start in starts]

    leaves = [Tensor(start, requires_grad=True) for start in starts]
    expression(seed, leaves).backward()
    slope = sum([(leaf.grad * d).sum() for leaf, d in zip(leaves, directions, strict=True)])

    def moved(step):
        with no_grad():
            inputs = [Tensor(s + step * d) for s, d in zip(starts, directions, strict=True)]
            return expression(seed, inputs).item()

    measured = (moved(STEP) - moved(-STEP)) / (2 * STEP)
    assert slope == pytest.approx(measured, rel=1e-5, abs=1e-5), f"expression {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_gradients_of_random_expressions_are_their_slopes(chunk):
    for seed in range(chunk, GRAPHS, CHUNKS):
        check(seed)


@pytest.mark.slow
def test_random_expressions_use_values_more_than_once_and_grow_deep():
    lengths = []
    for seed in range(50):
        leaves = [Tensor(np.full(shape, 0.5), requires_grad=True) for shape in SHAPES[:3]]
        end = expression(seed, leaves).node
        seen, stack, edges = {end}, [end], 0
        while stack:
            for parent in stack.pop().parents:
                if parent is not None:
                    edges += 1
                    if parent not in seen:
                        seen.add(parent)
                        stack.append(parent)
        assert edges > len(seen)
        lengths.append(len(seen))
    assert max(lengths) > 60
