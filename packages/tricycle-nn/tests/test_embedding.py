"""Embedding: a row of a table for every id."""

import ml_dtypes
import numpy as np
import pytest

from tricycle_autograd import Tensor
from tricycle_autograd.testing import check_fused, check_on_cuda, draw, on_a_gpu
from tricycle_nn import Embedding, Parameter, embedding


def test_three_ids_by_hand():
    table = Tensor([[1.0, 2.0], [3.0, 4.0]])
    assert embedding([1, 0, 1], table).tolist() == [[3.0, 4.0], [1.0, 2.0], [3.0, 4.0]]


def test_an_id_that_stands_twice_receives_both_gradients():
    table = Parameter([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    embedding([1, 0, 1], table).backward([[1.0, 1.0], [7.0, 8.0], [10.0, 20.0]])
    assert table.grad.tolist() == [[7.0, 8.0], [11.0, 21.0], [0.0, 0.0]]


@pytest.mark.parametrize("width", [1, 5, 64, 65, 200])
@pytest.mark.parametrize("shape", [(1,), (3, 4), (2, 1, 3)])
def test_kernels_agree_with_the_definition(shape, width):
    ids = np.random.default_rng(0).integers(0, 3, shape)
    check_fused(embedding, ids, draw(3, width), keeps=2)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64"])
def test_ids_may_be_integers_of_any_size_and_in_any_container(dtype):
    table = Tensor(draw(5, 3).astype(np.float32))
    ids = np.array([[4, 0], [2, 2]], dtype)
    for given in (ids, Tensor(ids), ids.tolist(), ids.T.copy().T):
        assert np.array_equal(embedding(given, table).array, table.array[ids])


def test_one_id_gives_one_vector_and_no_ids_give_none():
    table = Parameter(draw(5, 3).astype(np.float32))
    assert embedding(2, table).shape == (3,)
    y = embedding([], table)
    assert y.shape == (0, 3)
    y.backward(np.zeros((0, 3), np.float32))
    assert not table.grad.any()


def test_a_gradient_is_first_written_and_then_added_to_the_tables_own_buffer():
    table = Parameter(draw(4, 100).astype(np.float32))
    table.node.buffer = np.full((4, 100), np.nan, np.float32)
    for times in (1, 2):
        embedding([3, 0, 3], table).sum().backward()
        assert table.grad is table.node.buffer
        assert (table.grad == times * np.array([[1.0], [0.0], [0.0], [2.0]])).all()


def test_ids_may_be_overwritten_before_the_backward_pass():
    table = Tensor(draw(4, 3).astype(np.float32), requires_grad=True)
    ids = np.array([0, 1])
    y = embedding(ids, table)
    ids[:] = 3
    y.backward(np.ones((2, 3), np.float32))
    assert table.grad[:, 0].tolist() == [1, 1, 0, 0]


def test_an_id_outside_the_table_is_named_with_its_place():
    table = Tensor(np.zeros((10, 4), np.float32))
    for call in (embedding, embedding.definition):
        with pytest.raises(IndexError) as error:
            call([[1, 2, 3], [4, 10, -1]], table)
        assert str(error.value) == (
            "embedding got id 10 at position (1, 1), but its table has 10 rows (ids 0 to 9)"
        )
    with pytest.raises(IndexError, match=r"embedding got id -1 at position \(0,\)"):
        embedding([-1], table)


def test_ids_are_integers_and_tables_have_two_axes():
    with pytest.raises(TypeError, match="embedding expected integer ids, got float64"):
        embedding([0.5], Tensor(np.zeros((10, 4), np.float32)))
    with pytest.raises(ValueError, match=r"expected a table of shape \(V, C\), got \(4,\)"):
        embedding([0], Tensor(np.zeros(4, np.float32)))


def test_a_layer_starts_with_vectors_of_length_about_one():
    layer = Embedding(500, 64, rng=np.random.default_rng(0))
    assert layer.weight.shape == (500, 64)
    lengths = np.linalg.norm(layer(np.arange(500)).array, axis=1)
    assert abs(lengths.mean() - 1) < 0.02


def test_a_table_of_float64_gives_float64_and_such_gradients():
    table = Tensor(draw(3, 2), requires_grad=True)
    y = embedding([1], table)
    y.sum().backward()
    assert y.dtype == table.grad.dtype == np.float64


def test_vectors_of_no_numbers_are_no_trouble():
    check_fused(embedding, np.array([2, 0]), draw(3, 0))


def test_a_table_that_is_an_array_is_not_taken_for_a_tensor():
    with pytest.raises(TypeError, match="embedding works on tensors, got ndarray"):
        embedding([0], np.zeros((3, 2), np.float32))


def test_a_layer_of_no_size_is_refused():
    with pytest.raises(ValueError, match="Embedding needs sizes from 1 up, got 3, 0"):
        Embedding(3, 0, rng=np.random.default_rng(0))


# ---- On a GPU ----


@pytest.mark.parametrize("width", [5, 264])
def test_cuda_kernels_agree_with_the_definition(width):
    # Some ids stand once, some never, and one more often than a thread reads ahead.
    ids = np.minimum(np.random.default_rng(0).geometric(0.3, (2, 30)), 9)
    check_on_cuda(embedding, ids, draw(11, width))


def test_a_gpu_adds_gradients_in_float32_to_those_of_the_other_end():
    ids, dy = np.array([2, 0, 2, 2]), draw(4, 8).astype(ml_dtypes.bfloat16)
    table = Tensor(on_a_gpu(draw(3, 8).astype(ml_dtypes.bfloat16)), requires_grad=True)
    table.node.buffer = on_a_gpu(np.full((3, 8), 1e-3, np.float32))
    table.node.grad = table.node.buffer  # the head's, of the same table
    embedding(ids, table).backward(on_a_gpu(dy))
    wanted = np.full((3, 8), 1e-3)
    np.add.at(wanted, ids, dy.astype(np.float64))
    np.testing.assert_allclose(Tensor(table.grad).numpy(), wanted, rtol=1e-6, atol=1e-7)
