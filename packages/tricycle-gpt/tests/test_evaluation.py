"""Evaluation: every token predicted once, and the three measures agree with each other."""

import numpy as np
import pytest

from tricycle_gpt import evaluate
from tricycle_gpt.evaluation import interval_margin, windows
from tricycle_gpt.quantised import quantise


def test_windows_follow_each_other_and_predict_every_token_but_the_first():
    inputs, targets = windows(np.arange(6), 4, np.arange(2))
    np.testing.assert_array_equal(inputs, [[0, 1, 2, 3], [4, 0, 0, 0]])
    np.testing.assert_array_equal(targets, [[1, 2, 3, 4], [5, -100, -100, -100]])
    np.testing.assert_array_equal(windows(np.arange(6), 4, np.array([1]))[0], inputs[1:])


def test_a_model_that_knows_nothing_needs_ln_v_nats_and_log2_v_bits(make_tiny):
    model = make_tiny()
    model.head_weight.array[...] = 0
    ids = np.random.default_rng(0).integers(0, 23, 101)
    found = evaluate(model, ids, n_bytes=200)
    assert found.tokens == 100
    assert found.loss == pytest.approx(np.log(23), rel=1e-6)
    assert found.perplexity == pytest.approx(23, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(np.log2(23) * 100 / 200, rel=1e-6)


def test_batches_of_any_size_give_the_same_loss(make_tiny):
    model, ids = make_tiny(), np.random.default_rng(0).integers(0, 23, 150)
    losses = [evaluate(model, ids, batch_size=size).loss for size in (1, 3, 100)]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)


def test_some_windows_stand_for_the_whole(make_tiny):
    model, ids = make_tiny(), np.random.default_rng(0).integers(0, 23, 16 * 50 + 1)
    some, whole = (
        evaluate(model, ids, max_windows=10, n_bytes=800),
        evaluate(model, ids, n_bytes=800),
    )
    assert some.tokens == 160
    assert some.bits_per_byte == pytest.approx(whole.bits_per_byte, rel=0.1)


def test_dropout_is_off_while_evaluating_and_on_again_after(make_tiny):
    model, ids = make_tiny(dropout=0.5), np.random.default_rng(0).integers(0, 23, 100)
    assert evaluate(model, ids).loss == evaluate(model, ids).loss
    assert model.training


def test_a_very_large_loss_has_an_infinite_perplexity(make_tiny):
    model = make_tiny()
    model.norm.weight.array[...] = 1e6
    found = evaluate(model, np.random.default_rng(0).integers(0, 23, 50))
    assert found.loss > 1000
    assert found.perplexity == np.inf


@pytest.mark.parametrize("name", ["n_bytes", "batch_size", "max_windows"])
def test_nothing_cannot_be_measured(make_tiny, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        evaluate(make_tiny(), np.arange(20), **{name: 0})


def test_one_token_is_no_text(make_tiny):
    with pytest.raises(ValueError, match=r"at least two tokens, got shape \(1,\)"):
        evaluate(make_tiny(), np.array([3]))


def test_the_margin_comes_from_how_much_windows_differ(make_tiny):
    # Windows of 1, 2 and 3 nats and as many tokens each: deviation 1, standard error 1/sqrt(3).
    assert interval_margin(np.array([1.0, 2, 3]), np.array([5, 5, 5])) == pytest.approx(
        1.96 / np.sqrt(3)
    )
    assert interval_margin(np.array([1.0]), np.array([5])) is None
    ids = np.random.default_rng(0).integers(0, 23, 16 * 50 + 1)
    found = evaluate(make_tiny(), ids, n_bytes=800)
    assert 0 < found.margin < 0.1
    assert found.bits_margin == pytest.approx(found.margin / np.log(2))


def test_a_quantised_model_is_measured_too(make_tiny):
    model = make_tiny()
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, 60)
    assert evaluate(quantise(model), ids).loss == pytest.approx(evaluate(model, ids).loss, rel=0.02)
