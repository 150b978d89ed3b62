"""Cross entropy: how surprised the model is by the right answer."""

from contextlib import nullcontext

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tricycle_autograd import Tensor, definitions_only
from tricycle_autograd.cuda import watched_launches
from tricycle_autograd.devices import move
from tricycle_autograd.testing import check_fused, check_on_cuda, draw, on_a_gpu
from tricycle_nn import cross_entropy
from tricycle_nn.cross_entropy import check_targets


def loss_and_gradient(logits, targets, **options):
    logits = Tensor(np.asarray(logits, np.float32), requires_grad=True)
    loss = cross_entropy(logits, targets, **options)
    loss.backward(np.ones(loss.shape, np.float32))
    return loss.array, logits.grad


# ---- By hand ----


def test_equal_belief_in_v_classes_costs_log_v():
    loss, gradient = loss_and_gradient(np.zeros((1, 4)), [2])
    assert abs(loss - np.log(4)) < 1e-6
    np.testing.assert_allclose(gradient, [[0.25, 0.25, 0.25 - 1, 0.25]], rtol=1e-6)


def test_a_belief_of_three_quarters_costs_log_four_thirds():
    loss, gradient = loss_and_gradient([[np.log(3), 0.0]], [0])
    assert abs(loss - np.log(4 / 3)) < 1e-6
    np.testing.assert_allclose(gradient, [[-0.25, 0.25]], rtol=1e-6)


def test_label_smoothing_asks_for_a_little_belief_everywhere():
    # Smoothing by 0.4 over two classes asks for 0.8 and 0.2, where belief is 0.75 and 0.25.
    loss, gradient = loss_and_gradient([[np.log(3), 0.0]], [0], label_smoothing=0.4)
    assert abs(loss - (0.8 * np.log(4 / 3) + 0.2 * np.log(4))) < 1e-6
    np.testing.assert_allclose(gradient, [[-0.05, 0.05]], rtol=1e-5)


# ---- PyTorch, and the definition ----

# torch 2.13: cross_entropy in float64 of 3·sin(0.7·n) in shape (4, 3).
TARGETS = np.array([2, -100, 0, 1])
TORCH = {
    (0.0, "mean"): 1.0066131073522733,
    (0.0, "sum"): 3.01983932205682,
    (0.0, "none"): [0.34449216, 0.0, 1.32796968, 1.34737748],
    (0.1, "mean"): 1.0568211254017712,
    (0.1, "sum"): 3.170463376205314,
    (0.1, "none"): [0.47716034, 0.0, 1.31502645, 1.37827658],
}
TORCH_GRADIENT = [  # of the mean with smoothing 0.1
    [0.001173, 0.073745, -0.074918],
    [0.0, 0.0, 0.0],
    [-0.222773, 0.052231, 0.170542],
    [0.001584, -0.224471, 0.222886],
]


@pytest.mark.parametrize(("label_smoothing", "reduction"), TORCH)
def test_values_and_gradients_are_those_of_pytorch(label_smoothing, reduction):
    logits = 3 * np.sin(0.7 * np.arange(12)).reshape(4, 3)
    options = {"label_smoothing": label_smoothing, "reduction": reduction}
    loss, gradient = loss_and_gradient(logits, TARGETS, **options)
    np.testing.assert_allclose(loss, TORCH[label_smoothing, reduction], rtol=1e-6, atol=1e-7)
    if options == {"label_smoothing": 0.1, "reduction": "mean"}:
        np.testing.assert_allclose(gradient, TORCH_GRADIENT, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_kernels_agree_with_the_definition(reduction, label_smoothing):
    options = {"reduction": reduction, "label_smoothing": label_smoothing}
    targets = np.array([[3, 0, -100], [6, 6, 1]])
    check_fused(cross_entropy, draw(2, 3, 7), targets, keeps=4, **options)
    check_fused(cross_entropy, draw(1), np.array(0), keeps=4, **options)
    check_fused(cross_entropy, draw(0, 5), np.zeros(0, int), keeps=4, **options)
    check_fused(
        cross_entropy, draw(2, 5), np.array([4, 1], np.uint16), ignore_index=1, keeps=4, **options
    )


# ---- Properties ----


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.floats(-100, 100))
def test_adding_the_same_to_all_logits_changes_nothing(V, N, shift):
    logits, targets = draw(N, V), np.arange(N) % V
    loss, gradient = loss_and_gradient(logits, targets)
    shifted_loss, shifted_gradient = loss_and_gradient(logits + shift, targets)
    np.testing.assert_allclose(shifted_loss, loss, atol=2e-5)
    np.testing.assert_allclose(shifted_gradient, gradient, atol=2e-5)
    np.testing.assert_allclose(gradient.sum(axis=-1), 0, atol=1e-6)


def test_extreme_logits_overflow_nothing():
    logits = np.array([[1e4, -1e4, 0.0], [1e4, 1e4 - 1, -1e4]])
    loss, gradient = loss_and_gradient(logits, [1, 1], reduction="none")
    np.testing.assert_allclose(loss, [2e4, 1 + np.log(1 + np.exp(-1))], rtol=1e-6)
    belief = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(gradient, [[1, -1, 0], [belief, -belief, 0]], atol=1e-6)


def test_logits_are_left_as_they_are():
    logits = draw(3, 5).astype(np.float32)
    before = logits.copy()
    loss_and_gradient(logits, [0, 1, 2])
    np.testing.assert_array_equal(logits, before)


def test_rows_that_are_ignored_change_nothing():
    logits = draw(3, 5)
    loss, gradient = loss_and_gradient(logits, [1, -100, 4])
    kept, kept_gradient = loss_and_gradient(logits[[0, 2]], [1, 4])
    assert loss == kept
    np.testing.assert_array_equal(gradient[[0, 2]], kept_gradient)
    np.testing.assert_array_equal(gradient[1], 0)


@pytest.mark.parametrize("by_definition", [False, True])
def test_nothing_but_ignored_rows_costs_nothing(by_definition):
    logits = Tensor(np.full((2, 3), np.nan, np.float32), requires_grad=True)
    if by_definition:
        logits = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    loss = (cross_entropy.definition if by_definition else cross_entropy)(logits, [-100, -100])
    loss.backward()
    assert loss.item() == 0
    np.testing.assert_array_equal(logits.grad, 0)


def test_nan_stays_visible():
    logits = draw(2, 40).astype(np.float32)
    logits[1, 7] = np.nan
    loss, gradient = loss_and_gradient(logits, [0, 1], reduction="none")
    assert np.isfinite(loss[0]) and np.isnan(loss[1])
    assert np.isfinite(gradient[0]).all() and np.isnan(gradient[1]).all()


def test_an_impossible_class_costs_nothing_until_it_is_the_answer():
    # A logit of -inf is how a class is ruled out.
    loss, gradient = loss_and_gradient([[0.0, -np.inf, 0.0]], [0])
    assert abs(loss - np.log(2)) < 1e-6
    np.testing.assert_allclose(gradient, [[-0.5, 0, 0.5]], atol=1e-6)
    assert loss_and_gradient([[0.0, -np.inf, 0.0]], [1])[0] == np.inf


@pytest.mark.parametrize("by_definition", [True, False])
def test_where_all_classes_are_impossible_the_answer_costs_everything(by_definition):
    with definitions_only() if by_definition else nullcontext(), np.errstate(invalid="ignore"):
        loss, gradient = loss_and_gradient([[-np.inf, -np.inf]], [0])
    assert loss == np.inf
    np.testing.assert_allclose(gradient, [[-1, 0]], atol=1e-37)


# ---- Errors ----


@pytest.mark.parametrize(
    ("targets", "options", "error", "message"),
    [
        ([0, 5], {}, ValueError, r"target 5 is not one of 5 classes, 0 to 4 .*ignore_index=-100"),
        ([0, -1], {}, ValueError, "target -1 is not one of 5 classes"),
        ([0, -100], {"ignore_index": 0}, ValueError, "target -100 is not one of 5 classes"),
        ([0.0, 1.0], {}, TypeError, "integer targets, got float64"),
        ([0, 1, 2], {}, ValueError, r"of shape \(2,\), got \(3,\)"),
        ([0, 1], {"reduction": "max"}, ValueError, "one of mean, sum, none, got 'max'"),
        ([0, 1], {"label_smoothing": 1.5}, ValueError, "between 0 and 1, got 1.5"),
    ],
)
def test_what_cannot_be_is_named(targets, options, error, message):
    logits = Tensor(np.zeros((2, 5), np.float32))
    for run in (cross_entropy, cross_entropy.definition):
        with pytest.raises(error, match=message):
            run(logits, targets, **options)


def test_logits_without_classes_are_named():
    with pytest.raises(ValueError, match=r"expected logits \(\.\.\., V\), got \(2, 0\)"):
        cross_entropy(Tensor(np.zeros((2, 0), np.float32)), [0, 0])


def test_float64_runs_the_definition_gradients_too():
    logits = Tensor(np.array([[np.log(3), 0.0]]), requires_grad=True)
    loss = cross_entropy(logits, [0])
    loss.backward()
    assert loss.dtype == logits.grad.dtype == np.float64
    np.testing.assert_allclose(loss.array, np.log(4 / 3), rtol=1e-12)
    np.testing.assert_allclose(logits.grad, [[-1 / 4, 1 / 4]], rtol=1e-12)


def test_float16_is_refused_by_name():
    with pytest.raises(TypeError, match=r"cross_entropy has kernels .* logits is float16"):
        cross_entropy(Tensor(np.ones((2, 5), np.float16)), [0, 1])


@pytest.mark.parametrize("by_definition", [False, True])
def test_targets_that_are_refilled_before_the_way_back_change_nothing(by_definition):
    targets = np.array([3, 0, -100])
    gradients = []
    for refill in (False, True):
        logits = Tensor(draw(3, 5).astype(np.float32), requires_grad=True)
        with definitions_only() if by_definition else nullcontext():
            loss = cross_entropy(logits, targets)
        if refill:
            targets[:] = 10**9
        loss.backward()
        gradients.append(logits.grad)
    np.testing.assert_array_equal(*gradients)


def test_what_is_checked_is_a_copy_of_the_targets():
    targets = np.array([3, 0])
    checked = check_targets(Tensor(draw(2, 5)), targets, 5, -100, 0.0)
    assert not np.shares_memory(checked, targets)
    assert not np.shares_memory(
        check_targets(Tensor(draw(2, 5)), Tensor(targets), 5, 0, 0), targets
    )


# ---- On a GPU ----


@pytest.mark.parametrize(
    ("classes", "options"),
    [(7, {}), (7, {"reduction": "none"}), (300, {"label_smoothing": 0.1, "reduction": "sum"})],
)
def test_cuda_kernels_agree_with_the_definition(classes, options):
    targets = np.random.default_rng(0).integers(0, classes, (2, 3))
    targets[1, 1] = -100
    logits = 3 * draw(2, 3, classes)
    check_on_cuda(cross_entropy, logits, targets, value_in_float32=True, **options)


def test_a_gpu_reads_a_row_of_gpt2_once():
    logits = on_a_gpu(3 * draw(1, 50257).astype(ml_dtypes.bfloat16))
    with watched_launches() as launches:
        loss = cross_entropy(Tensor(logits), on_a_gpu(np.array([50256])))
    row = move(logits, "cpu")[0].astype(np.float64)
    assert abs(loss.item() - (np.log(np.exp(row).sum()) - row[50256])) < 1e-5
    assert launches[0].report.moved["reads"] < 1.03 * logits.nbytes


def test_rows_too_long_to_be_held_are_read_again():
    cuda, V = cross_entropy.by_device["cuda"], 3000  # 32 threads hold 2048
    rows, targets = on_a_gpu(3 * draw(2, V).astype(np.float32)), on_a_gpu(np.array([V - 1, 5]))
    held = cuda.forward(rows, targets, 0.1)
    again = [on_a_gpu(np.zeros(2, np.float32)) for _ in held]
    kernel = cuda.FILE.get("forward", rows.dtype, V=V, THREADS=32)
    kernel((2,), (32,), *again, rows, targets, np.float32(0.1))
    for one, other in zip(held, again, strict=True):
        np.testing.assert_allclose(move(one, "cpu"), move(other, "cpu"), rtol=1e-5)


def test_a_gpu_believes_in_nothing_where_all_scores_are_minus_infinity():
    logits = Tensor(on_a_gpu(np.full((1, 4), -np.inf, np.float32)), requires_grad=True)
    loss = cross_entropy(logits, on_a_gpu(np.array([1])))
    loss.backward()
    assert loss.item() == np.inf
    np.testing.assert_array_equal(Tensor(logits.grad).numpy(), [[0, -1, 0, 0]])
