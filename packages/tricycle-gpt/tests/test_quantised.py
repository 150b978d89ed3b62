"""A GPT with weights of 8 or 4 bits writes nearly what the GPT it was made from writes."""

import numpy as np
import pytest

from tricycle_autograd import no_grad
from tricycle_gpt import (
    GPT,
    GPTConfig,
    evaluate,
    generate,
    quantise,
    to_gguf,
    to_huggingface,
)
from tricycle_nn import AdamW


@pytest.mark.parametrize(("bits", "near"), [(8, 0.01), (4, 0.2)])
def test_scores_are_nearly_the_same(model, bits, near):
    ids = np.random.default_rng(0).integers(0, 23, (2, 9))
    with no_grad():
        expected, scores = model(ids).array, quantise(model, bits)(ids).array
    assert scores.shape == expected.shape
    assert 0 < abs(scores - expected).max() < near * abs(expected).max()


def test_perplexity_rises_by_less_than_a_thousandth_with_8_bits_and_5_percent_with_4(make_tiny):
    model = make_tiny()
    rng = np.random.default_rng(0)
    text = np.cumsum(rng.integers(1, 4, 2000)) % 23  # the next is one of three
    windows = np.lib.stride_tricks.sliding_window_view(text, 17)
    optimiser = AdamW(model.parameters(), 1e-2)
    for _ in range(150):
        batch = windows[rng.integers(0, len(windows), 16)]
        model.loss(batch[:, :-1], batch[:, 1:]).backward()
        optimiser.step()
        optimiser.zero_grad()
    model.eval()
    with no_grad():
        whole = model.loss(windows[:500, :-1], windows[:500, 1:]).item()
        small, smaller = (
            quantise(model, bits).loss(windows[:500, :-1], windows[:500, 1:]).item()
            for bits in (8, 4)
        )
    assert whole < 1.5  # it has learned: ln 3 = 1.10 is all there is to know, ln 23 = 3.14 nothing
    assert abs(np.exp(small - whole) - 1) < 0.001
    assert abs(np.exp(smaller - whole) - 1) < 0.05


@pytest.mark.parametrize("bits", [8, 4])
def test_it_writes_with_and_without_a_cache(model, bits):
    small = quantise(model, bits)
    with_cache = list(generate(small, [3, 1, 4], 30, temperature=0))
    assert with_cache == list(generate(small, [3, 1, 4], 30, temperature=0, cache=False))


def test_the_model_it_was_made_from_is_left_as_it_was(model):
    before = {name: array.tobytes() for name, array in model.state_dict().items()}
    ids = np.array([[1, 2, 3]])
    loss = model.loss(ids, ids).item()
    quantise(model)
    assert model.loss(ids, ids).item() == loss
    assert {name: array.tobytes() for name, array in model.state_dict().items()} == before


def test_it_is_measured_as_a_gpt_is(model):
    ids = np.random.default_rng(0).integers(0, 23, 200)
    found, exact = evaluate(quantise(model), ids), evaluate(model, ids)
    assert found.tokens == exact.tokens == 199
    assert found.loss == pytest.approx(exact.loss, rel=0.01)


def test_it_cannot_be_trained(model):
    small = quantise(model)
    with pytest.raises(RuntimeError, match="no gradient"):
        small.loss(np.array([[1, 2]]), np.array([[2, 3]])).backward()


def test_ids_that_are_not_in_the_vocabulary_are_refused(model):
    with pytest.raises(IndexError, match="ids go from 0 to 22, got 23 to 23"):
        quantise(model)(np.array([[23]]))


def test_other_bits_are_refused(model):
    with pytest.raises(ValueError, match="weights are kept in 8 or 4 bits, got 3"):
        quantise(model, bits=3)


def test_a_quantised_model_is_neither_written_nor_quantised_again(tmp_path):
    config = GPTConfig(23, 16, 32, n_layers=1, n_heads=2)
    model = quantise(GPT(config, rng=np.random.default_rng(0)))
    for refused in (
        lambda: quantise(model),
        lambda: to_gguf(model, tmp_path / "a.gguf"),
        lambda: to_huggingface(model, tmp_path / "a"),
    ):
        with pytest.raises(ValueError, match="quantised: take the model that quantise.. was given"):
            refused()
    assert not list(tmp_path.iterdir())
