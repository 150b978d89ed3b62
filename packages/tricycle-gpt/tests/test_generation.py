"""Generation: the window, and the cache that must change nothing."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tricycle_autograd import no_grad
from tricycle_gpt import KVCache, generate
from tricycle_gpt.generation import next_scores
from tricycle_nn import dropout_off


@pytest.mark.slow
def test_the_cache_changes_no_token_for_any_length_of_prompt(model):
    window = model.config.context_window
    for length in (1, 2, window - 1, window, window + 1, 3 * window):
        prompt = np.random.default_rng(length).integers(0, 23, length)
        texts = [
            list(generate(model, prompt, 2 * window + 3, seed=1, cache=cache))
            for cache in (True, False)
        ]
        assert texts[0] == texts[1], f"prompt of {length}"
        assert len(texts[0]) == 2 * window + 3


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 22), min_size=1, max_size=16), st.data())
def test_scores_from_the_cache_are_those_without(make_tiny_once, ids, data):
    model = make_tiny_once
    cache = KVCache(model.config)
    cut = data.draw(st.integers(1, len(ids)))
    next_scores(model, ids[:cut], cache)
    if cut < len(ids):
        assert cache.length == cut
        cached = next_scores(model, ids, cache)
        np.testing.assert_allclose(cached, next_scores(model, ids), atol=1e-5)


@pytest.fixture(scope="module")
def make_tiny_once():
    from tricycle_gpt import GPT, GPTConfig

    config = GPTConfig(23, 16, embedding_dim=16, n_layers=2, n_heads=2)
    return GPT(config, rng=np.random.default_rng(0))


def test_one_seed_writes_one_text(make_tiny):
    model = make_tiny()
    first, second, other = (list(generate(model, [1], 30, seed=seed)) for seed in (5, 5, 6))
    assert first == second
    assert first != other


def test_a_stop_token_ends_the_text_and_is_not_given_out(make_tiny):
    model = make_tiny()
    text = list(generate(model, [1], 30, seed=5))
    stop = text[10]
    assert list(generate(model, [1], 30, seed=5, stop=[stop])) == text[: text.index(stop)]


def test_dropout_does_not_disturb_and_the_model_stays_in_training(make_tiny):
    model = make_tiny(dropout=0.5)
    assert list(generate(model, [1], 10, seed=1)) == list(generate(model, [1], 10, seed=1))
    assert model.training


@pytest.mark.parametrize(
    ("prompt", "dials", "error", "message"),
    [
        ([], {}, ValueError, "at least one token"),
        ([23], {}, IndexError, "id 23; this model knows ids 0 to 22"),
        ([1], {"temperature": -1}, ValueError, "temperature must be 0 or above, got -1"),
        ([1], {"min_p": 0.1}, TypeError, "min_p"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    make_tiny, prompt, dials, error, message
):
    with pytest.raises(error, match=message):
        generate(make_tiny(), prompt, 5, **dials)


def test_a_full_cache_says_so(make_tiny):
    cache = KVCache(make_tiny().config).layers[0]
    with pytest.raises(ValueError, match="holds 16 tokens, and 17 are too many"):
        cache.append(np.zeros((1, 2, 17, 8)), np.zeros((1, 2, 17, 8)))


def test_writing_in_one_thread_leaves_dropout_and_tape_to_another(make_tiny):
    model, ids = make_tiny(dropout=0.5), np.arange(9)[None]
    text = generate(model, [1], 10, seed=1)
    next(text)  # under way, in this thread
    seen = []

    def train():
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        seen.extend([loss.requires_grad, model.training, model.dropout.step])

    thread = threading.Thread(target=train)
    with dropout_off():
        thread.start()
        thread.join()
        hidden = [model.hidden(ids).array for _ in range(2)]
    assert seen == [True, True, 1]
    np.testing.assert_array_equal(*hidden)
    assert not np.array_equal(model.hidden(ids).array, hidden[0])
    assert list(text) == list(generate(model, [1], 10, seed=1))[1:]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("hello", "a prompt is a row of ids, got the text 'hello'; encode it first"),
        (np.zeros((2, 2), int), r"one row of integer ids, \(T,\), got int64 of shape \(2, 2\)"),
        ([1.9], "got float64 of shape"),
        ([True], "got bool of shape"),
    ],
)
def test_a_prompt_that_is_no_row_of_ids_is_refused(make_tiny, prompt, message):
    with pytest.raises(TypeError, match=message):
        generate(make_tiny(), prompt, 3)


def test_a_dial_that_there_is_not_is_named_beside_those_there_are(make_tiny):
    with pytest.raises(
        TypeError, match="generate has no nucleus; its dials are temperature, top_k"
    ):
        generate(make_tiny(), [1], 3, nucleus=3)


def test_after_a_failed_call_the_cache_is_as_before(make_tiny):
    model = make_tiny()
    cache = KVCache(model.config)
    model.blocks[-1] = lambda x, cache: 1 / 0
    with no_grad(), pytest.raises(ZeroDivisionError):
        model(np.array([[1, 2, 3]]), cache)
    assert [layer.length for layer in cache.layers] == [0] * len(cache.layers)


def test_a_cache_has_the_dtype_of_its_model(make_tiny):
    model = make_tiny().to("cpu", np.float64)
    cache = KVCache(model.config)
    with no_grad():
        whole = model(np.array([[1, 2, 3]])).array
        first = model(np.array([[1, 2]]), cache).array
        last = model(np.array([[3]]), cache).array
    assert cache.layers[0].keys.dtype == np.float64
    np.testing.assert_allclose(np.concatenate([first, last], axis=1), whole, rtol=1e-12)


def test_a_cache_for_another_number_of_sequences_is_refused(make_tiny):
    model = make_tiny()
    with no_grad(), pytest.raises(ValueError, match="make one for this many sequences"):
        model(np.array([[1], [2]]), KVCache(model.config))
