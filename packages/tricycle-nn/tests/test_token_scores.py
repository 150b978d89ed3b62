"""Token scores: how well each row of a table fits a vector."""

import tracemalloc

import numpy as np
import pytest

from tricycle_autograd import Tensor
from tricycle_autograd.testing import check_fused, check_on_cuda, draw, kept_by
from tricycle_nn import token_scores
from tricycle_nn.token_scores import CPU


def test_a_vector_is_compared_with_every_row():
    # (1, 2)·(3, 4) = 11,  (1, 2)·(5, 6) = 17,  (1, 2)·(0, 1) = 2
    table = Tensor([[3.0, 4.0], [5.0, 6.0], [0.0, 1.0]])
    np.testing.assert_array_equal(token_scores(Tensor([1.0, 2.0]), table).array, [11, 17, 2])


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 5, 8), (0, 8)])
def test_kernels_agree_with_the_definition(shape):
    check_fused(token_scores, draw(*shape), draw(7, 8), keeps=2)


@pytest.mark.parametrize("shape", [(8,), (2, 5, 7)])
def test_cuda_kernels_agree_with_the_definition(shape):
    check_on_cuda(token_scores, draw(*shape), draw(11, shape[-1]))


def test_the_gradient_goes_into_a_buffer_and_is_added_there():
    x = Tensor(draw(4, 3).astype(np.float32))
    table = Tensor(draw(5, 3).astype(np.float32), requires_grad=True)
    table.node.buffer = np.full((5, 3), 9.0, np.float32)
    for times in (1, 2):  # the first backward overwrites the nines, the second one adds
        token_scores(x, table).sum().backward()
        expected = times * x.array.sum(axis=0, dtype=np.float64)
        np.testing.assert_allclose(table.grad, np.broadcast_to(expected, (5, 3)), rtol=1e-5)
    assert table.grad is table.node.buffer


def test_widths_that_differ_are_named():
    with pytest.raises(ValueError, match=r"expected x \(\.\.\., C\).*\(2, 3\) and \(5, 4\)"):
        token_scores(Tensor(np.ones((2, 3), np.float32)), Tensor(np.ones((5, 4), np.float32)))


def test_vectors_of_no_numbers_have_scores_of_zero():
    check_fused(token_scores, draw(2, 0), draw(3, 0))


def test_the_way_back_from_many_tokens_makes_no_copy_of_the_table():
    rng = np.random.default_rng(0)
    d_scores = rng.standard_normal((200, 20_000), np.float32)
    table = rng.standard_normal((20_000, 64), np.float32)
    CPU.gradient_of_vectors(d_scores, table)  # loads the kernels
    tracemalloc.start()
    try:
        dx = CPU.gradient_of_vectors(d_scores, table)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(dx, d_scores.astype(np.float64) @ table, atol=2e-3)
    assert peak < 0.8 * table.nbytes


def test_only_what_the_wanted_gradients_need_is_kept():
    def kept(x_learns, table_learns):
        x = Tensor(draw(4, 3).astype(np.float32), requires_grad=x_learns)
        table = Tensor(draw(5, 3).astype(np.float32), requires_grad=table_learns)
        return [array.shape for array in kept_by(token_scores(x, table))[0]]

    assert kept(True, False) == [(5, 3)]
    assert sorted(kept(False, True)) == [(4, 3), (5, 3)]  # the table says how large its gradient is


def test_float64_runs_the_definition_gradients_too():
    x, table = (Tensor(draw(n, 3), requires_grad=True) for n in (4, 5))
    scores = token_scores(x, table)
    scores.sum().backward()
    np.testing.assert_allclose(scores.array, x.array @ table.array.T, rtol=1e-12)
    assert scores.dtype == x.grad.dtype == table.grad.dtype == np.float64


def test_float16_is_refused_by_name():
    x, table = Tensor(draw(2, 3).astype(np.float16)), Tensor(draw(5, 3).astype(np.float32))
    with pytest.raises(TypeError, match=r"token_scores has kernels .* x is float16"):
        token_scores(x, table)
