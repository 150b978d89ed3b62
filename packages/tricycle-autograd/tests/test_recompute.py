"""recompute: less memory, the same numbers."""

import tracemalloc

import numpy as np
import pytest

from tricycle_autograd import Tensor, no_grad, recompute, tanh
from tricycle_autograd.recompute import same_again
from tricycle_autograd.tape import note_that_it_moved


def leaf(values):
    return Tensor(np.array(values, np.float32), requires_grad=True)


def test_the_gradient_of_a_square_is_twice_its_side():
    x = leaf([3.0, -1.0])
    y = recompute(lambda x: x * x, x)
    assert y.array.tolist() == [9.0, 1.0]
    y.sum().backward()
    assert x.grad.tolist() == [6.0, -2.0]


def test_a_parameter_that_the_function_uses_gets_its_gradient():
    x, weight = leaf([2.0]), leaf([5.0])
    recompute(lambda x: x * weight, x).sum().backward()
    assert weight.grad.tolist() == [2.0]
    assert x.grad.tolist() == [5.0]


def test_a_chain_has_the_bits_of_a_chain_that_keeps_everything():
    def chain(x, weight, apply):
        for _ in range(4):
            x = apply(lambda x: tanh(x @ weight) + x, x)
        return (x * x).sum()

    rng = np.random.default_rng(0)
    start, matrix = rng.standard_normal((5, 7)), rng.standard_normal((7, 7))
    results = []
    for apply in (lambda function, x: function(x), recompute):
        x, weight = leaf(start), leaf(matrix)
        loss = chain(x, weight, apply)
        loss.backward()
        results.append((loss.item(), x.grad.tobytes(), weight.grad.tobytes()))
    assert results[0] == results[1]


def test_the_function_runs_once_more_for_each_backward():
    runs = []

    def function(x):
        runs.append(1)
        return x * 2

    y = recompute(function, leaf([1.0]))
    assert len(runs) == 1
    y.sum().backward()
    assert len(runs) == 2


def test_what_the_function_makes_is_not_kept():
    def twenty_tanhs(x):
        for _ in range(20):
            x = tanh(x)
        return x

    def megabytes_kept(apply):
        x = leaf(np.ones(250_000))
        tracemalloc.start()
        y = apply(twenty_tanhs, x)
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert y.shape == x.shape
        return round(size / 1e6)

    assert megabytes_kept(lambda function, x: function(x)) == 20
    assert megabytes_kept(recompute) == 1


def test_a_draw_is_repeated_and_not_drawn_again():
    draws = iter([2.0, 3.0, 5.0])

    def function(x):
        return x * same_again(lambda: next(draws))

    x = leaf([1.0])
    y = recompute(function, x)
    y.sum().backward()
    assert (y.array.tolist(), x.grad.tolist()) == ([2.0], [2.0])
    assert next(draws) == 3.0


def test_one_inside_another_repeats_its_draws_too():
    draws = iter([2.0, 3.0, 5.0, 7.0])

    def inner(x):
        return x * same_again(lambda: next(draws))

    def outer(x):
        return recompute(inner, x) * same_again(lambda: next(draws))

    x = leaf([1.0])
    y = recompute(outer, x)
    y.sum().backward()
    assert (y.array.tolist(), x.grad.tolist()) == ([6.0], [6.0])
    assert next(draws) == 5.0


def test_without_a_tape_it_is_the_function_itself():
    with no_grad():
        y = recompute(lambda x: x + 1, Tensor([1.0]))
    assert (y.array.tolist(), y.requires_grad) == ([2.0], False)


def test_inputs_without_a_gradient_stay_without():
    x, mask = leaf([1.0, 2.0]), Tensor([0.0, 1.0])
    recompute(lambda x, mask: x * mask, x, mask).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0]
    assert not mask.requires_grad


def test_what_cannot_work_is_said():
    with pytest.raises(TypeError, match="recompute keeps tensors, got ndarray; hand over the rest"):
        recompute(lambda x: x, np.ones(2))
    with pytest.raises(ValueError, match="needs an input that requires a gradient"):
        recompute(lambda x: x, Tensor([1.0]))


def test_a_result_from_outside_gets_its_gradient_in_the_walk_that_is_under_way():
    weight, x = leaf(2.0), leaf(3.0)
    outside = weight * weight
    (recompute(lambda x: x * outside, x) + outside).backward()
    assert weight.grad == 16  # d(w²x + w²)/dw = 2wx + 2w
    assert x.grad == 4
    weight, x = leaf(2.0), leaf(3.0)
    outside = weight * weight
    recompute(lambda x: recompute(lambda x: x * outside, x) * outside, x).backward()
    assert weight.grad == 96  # d(x w⁴)/dw
    x, weight = leaf(2.0), leaf(3.0)
    outside = x * weight
    recompute(lambda again: again * outside, outside).backward()
    assert x.grad == 36  # d(x² w²)/dx


def test_a_parameter_that_moved_is_noticed_when_the_function_runs_again():
    x, weight = leaf(2.0), leaf(3.0)
    y = recompute(lambda x: x * weight, x)
    note_that_it_moved(weight.node)
    with pytest.raises(RuntimeError, match=r"moved.*after the forward pass"):
        y.backward()
