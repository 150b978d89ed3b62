"""A linear layer and cross entropy as one operation."""

import importlib

import ml_dtypes
import numpy as np
import pytest

from tricycle_autograd import Tensor, cublaslt, no_grad
from tricycle_autograd.devices import move
from tricycle_autograd.memory import Arena, with_zero_rows
from tricycle_autograd.testing import check_fused, check_on_cuda, draw, kept_by, on_a_gpu
from tricycle_autograd.testing_device import emulated
from tricycle_nn import cross_entropy, linear_cross_entropy, token_scores


def single(*shape, seed=0):
    return draw(*shape, seed=seed).astype(np.float32)


def test_a_table_of_zeros_knows_nothing():
    x, table = Tensor(single(3, 2)), Tensor(np.zeros((8, 2), np.float32), requires_grad=True)
    loss = linear_cross_entropy(x, table, [0, 1, 2])
    assert abs(loss.item() - np.log(8)) < 1e-6


def test_gradients_by_hand():
    # One row x = 2 and two classes with scores 2·0 = 0: belief 1/2 each, the answer is class 0,
    # so the scores' gradient is (-1/2, 1/2); each class takes x times it, x their weighted sum.
    x = Tensor(np.array([[2.0]], np.float32), requires_grad=True)
    table = Tensor(np.array([[0.0], [0.0]], np.float32), requires_grad=True)
    linear_cross_entropy(x, table, [0]).backward()
    np.testing.assert_allclose(table.grad, [[-1], [1]], rtol=1e-6)
    np.testing.assert_allclose(x.grad, [[0]], atol=1e-7)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 3, 3), (0, 3)])
def test_kernels_agree_with_the_definition(shape, label_smoothing):
    targets = np.arange(np.prod(shape[:-1], dtype=int)) % 7
    targets = np.where(targets == 4, -100, targets).reshape(shape[:-1])
    options = {"targets": targets, "label_smoothing": label_smoothing}
    check_fused(linear_cross_entropy, draw(*shape), draw(7, 3, seed=1), keeps=3, **options)


def test_it_equals_cross_entropy_of_the_product():
    targets = np.arange(77) % 301
    targets[5] = -100
    results = []
    for whole in (True, False):
        x, table = Tensor(single(77, 40), requires_grad=True), Tensor(single(301, 40), True)
        if whole:
            loss = linear_cross_entropy(x, table, targets, label_smoothing=0.1)
        else:
            loss = cross_entropy(token_scores(x, table), targets, label_smoothing=0.1)
        (loss * 3.0).backward()
        results.append((loss.array, x.grad, table.grad))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_gradient_goes_into_a_buffer_and_is_added_there():
    x, table = Tensor(single(6, 3)), Tensor(single(5, 3, seed=1), requires_grad=True)
    linear_cross_entropy(x, table, [0, 1, 2, 3, 4, 0]).backward()
    once = table.grad
    table.grad = None
    table.node.buffer = np.full((5, 3), 9.0, np.float32)
    for times in (1, 2):  # the first backward overwrites the nines, the second one adds
        linear_cross_entropy(x, table, [0, 1, 2, 3, 4, 0]).backward()
        np.testing.assert_allclose(table.grad, times * once, rtol=1e-5, atol=1e-7)
    assert table.grad is table.node.buffer


def test_a_tied_table_gets_both_gradients():
    def gradient(end):
        table = Tensor(single(5, 3), requires_grad=True)
        x = table[np.array([4, 0, 4])]  # the embedding
        end(x, table, [1, 2, 3]).backward()
        return table.grad

    apart = gradient(lambda x, table, targets: cross_entropy(x @ table.transpose(), targets))
    np.testing.assert_allclose(gradient(linear_cross_entropy), apart, rtol=1e-5, atol=1e-6)


def test_in_chunks_without_recording_it_is_the_same(monkeypatch):
    x, table = Tensor(single(23, 8), requires_grad=True), Tensor(single(31, 8, seed=1))
    targets = np.arange(23)
    targets[20] = -100
    whole = linear_cross_entropy(x, table, targets).item()
    module = importlib.import_module("tricycle_nn.linear_cross_entropy")
    monkeypatch.setattr(module, "CHUNK", 5 * 31)  # five rows at a time
    with no_grad():
        assert linear_cross_entropy(x, table, targets).item() == whole
    assert linear_cross_entropy(x.detach(), table, targets).item() == whole


def test_inputs_are_left_as_they_are():
    arrays = single(4, 3), single(5, 3, seed=1)
    copies = [array.copy() for array in arrays]
    linear_cross_entropy(*(Tensor(a, requires_grad=True) for a in arrays), [0, 1, 2, 3]).backward()
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_what_cannot_be_is_named():
    x, table = Tensor(single(2, 3)), Tensor(single(5, 3))
    for run in (linear_cross_entropy, linear_cross_entropy.definition):
        with pytest.raises(ValueError, match=r"weight \(V, C\), got \(2, 3\) and \(5, 4\)"):
            run(x, Tensor(single(5, 4)), [0, 1])
        with pytest.raises(ValueError, match="target 5 is not one of 5 classes"):
            run(x, table, [0, 5])
        with pytest.raises(ValueError, match="between 0 and 1, got -0.1"):
            run(x, table, [0, 1], label_smoothing=-0.1)


def test_vectors_of_no_numbers_and_tables_of_no_classes():
    check_fused(linear_cross_entropy, draw(2, 0), draw(3, 0), targets=np.array([0, 2]))
    with pytest.raises(ValueError, match="linear_cross_entropy expected at least one class"):
        linear_cross_entropy(Tensor(single(2, 4)), Tensor(single(0, 4)), np.array([-100, -100]))


def test_vectors_are_not_kept_for_a_table_that_learns_nothing():
    x, table = Tensor(single(6, 3), requires_grad=True), Tensor(single(5, 3, seed=1))
    kept, _ = kept_by(linear_cross_entropy(x, table, [0, 1, 2, 3, 4, 0]))
    assert sorted(array.shape for array in kept) == [(5, 3), (6, 5)]


def test_targets_that_are_refilled_before_the_way_back_change_nothing():
    targets, gradients = np.array([3, 0, -100]), []
    for refill in (False, True):
        x, table = Tensor(single(3, 4), requires_grad=True), Tensor(single(5, 4))
        loss = linear_cross_entropy(x, table, targets)
        if refill:
            targets[:] = 10**9
        loss.backward()
        gradients.append(x.grad)
    np.testing.assert_array_equal(*gradients)


def test_float64_runs_the_definition_gradients_too():
    x, table = Tensor(np.array([[2.0]]), requires_grad=True), Tensor(np.zeros((2, 1)), True)
    loss = linear_cross_entropy(x, table, [0])
    loss.backward()
    assert loss.dtype == x.grad.dtype == table.grad.dtype == np.float64
    np.testing.assert_allclose(loss.array, np.log(2), rtol=1e-12)
    np.testing.assert_allclose(table.grad, [[-1], [1]], rtol=1e-12)


def test_float16_is_refused_by_name():
    x, table = Tensor(single(2, 3)), Tensor(single(5, 3).astype(np.float16))
    with pytest.raises(TypeError, match=r"linear_cross_entropy has kernels .* weight is float16"):
        linear_cross_entropy(x, table, [0, 1])


# ---- On a GPU ----


def test_cuda_kernels_agree_with_the_definition():
    targets = np.array([[0, 66, -100], [5, 5, 7]])
    x, table = draw(2, 3, 19), draw(67, 19)
    check_on_cuda(linear_cross_entropy, x, table, targets, value_in_float32=True)
    check_on_cuda(
        linear_cross_entropy, x, table, targets, value_in_float32=True, label_smoothing=0.1
    )


def test_what_lies_between_rows_on_a_gpu_is_zeros():
    x, table, answers = single(3, 8), single(67, 8), np.array([4, -1, 66])
    arrays = [emulated(array) for array in (x, table, answers)]
    _, block = linear_cross_entropy.by_device["cuda"].loss(*arrays, 0.0, 0.5, True)
    assert block.shape == (3, 128)
    whole = block.view(np.ndarray)
    assert not whole[:, 67:].any() and not whole[1].any()
    np.testing.assert_allclose(whole[[0, 2]].sum(axis=1), 0, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_products_on_a_gpu_take_the_zero_rows_of_an_arena_for_classes(dtype, monkeypatch):
    x, weight, targets = (
        draw(3, 8).astype(dtype),
        draw(67, 8).astype(dtype),
        np.array([4, -100, 66]),
    )
    results, shapes = [], []
    product = cublaslt.product
    monkeypatch.setattr(
        cublaslt, "product", lambda out, *args: (shapes.append(out.shape), product(out, *args))
    )
    for at_home in (False, True):
        rows, table = [Tensor(on_a_gpu(a), requires_grad=True) for a in (x, weight)]
        arena = Arena([table]) if at_home else None
        for _ in range(2):  # the second gradient is added
            loss = linear_cross_entropy(rows, table, targets)
            loss.backward()
        results.append([Tensor(a).numpy() for a in (loss.array, rows.grad, table.grad)])
    assert shapes == [(3, 67), (3, 8), (67, 8)] * 2 + [(3, 128), (3, 8), (128, 8)] * 2
    assert arena is not None and not move(with_zero_rows(table.grad), "cpu")[67:].any()
    for one, other in zip(*results, strict=True):
        near = 1e-6 if dtype is np.float32 else 0.01
        np.testing.assert_allclose(one, other, rtol=near, atol=near)


def test_a_gpu_evaluates_in_chunks(monkeypatch):
    monkeypatch.setattr(importlib.import_module("tricycle_nn.linear_cross_entropy"), "CHUNK", 128)
    x, table, targets = single(5, 8), single(67, 8), np.array([0, 1, 2, 3, 66])
    with no_grad():
        there = linear_cross_entropy(*(Tensor(on_a_gpu(a)) for a in (x, table)), on_a_gpu(targets))
        here = linear_cross_entropy(Tensor(x), Tensor(table), targets)
    assert abs(there.item() - here.item()) < 1e-5
