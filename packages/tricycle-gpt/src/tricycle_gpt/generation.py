"""Generation: ask for the next token, add it, ask again.

Between the model's scores and a token stand three dials:

    temperature  divides the scores: below 1 bolder, above 1 wilder, 0 takes the best
    top_k        only the k best tokens may be drawn
    top_p        only the best tokens that together have probability p may be drawn
                 (Holtzman et al., The Curious Case of Neural Text Degeneration, 2019)

The model sees a window of limited length.  When it is full, its older half is dropped and the
rest is read again: a pause once every half window, instead of reading everything anew for
each token as a window that slides by one would need.  With and without the cache the model
sees exactly the same tokens, so both give the same text.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tricycle_autograd import no_grad
from tricycle_gpt.kv_cache import KVCache
from tricycle_gpt.model import GPT


def generate(
    model: GPT,
    ids: Any,
    max_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop: Iterable[int] = (),
    cache: bool = True,
) -> Iterator[int]:
    """Continue a text, one token at a time.

    model       in the state it is in; generate() switches dropout off while it runs
    ids         the prompt, (T,) integers, at least one, of any length
    max_tokens  how many tokens to add at most
    seed        the same seed gives the same text
    stop        ids that end the text; they are not given out
    cache       keep keys and values: the same tokens, much sooner

    Iterates over the new ids.  Raises ValueError for an empty prompt or dials out of range,
    IndexError for an id that is not in the vocabulary, FloatingPointError if the model's scores
    are not numbers.
    """
    prompt = [int(i) for i in np.asarray(ids).reshape(-1)]
    _check_dials(max_tokens, temperature, top_k, top_p, seed)
    _check_prompt(prompt, model.config.vocab_size)
    return _generate(model, prompt, max_tokens, temperature, top_k, top_p, seed, set(stop), cache)


def _generate(model, prompt, max_tokens, temperature, top_k, top_p, seed, stop, use_cache):
    rng = np.random.default_rng(seed)
    window = model.config.context_window
    context = prompt[-window:]
    cache = KVCache(model.config) if use_cache else None
    for _ in range(max_tokens):
        if len(context) > window:
            context = context[-(window - window // 2) :]
            if cache is not None:
                cache.clear()
        scores = next_scores(model, context, cache)
        token = choose(scores, temperature, top_k, top_p, rng)
        if token in stop:
            return
        context.append(token)
        yield token


def next_scores(model: GPT, context: list[int], cache: KVCache | None = None) -> np.ndarray:
    """The scores (V,) for the token after `context`, of which the cache may know a beginning."""
    new = context if cache is None else context[cache.length :]
    was_training = model.training
    if was_training:  # telling every layer takes longer than a small model's token
        model.eval()
    try:
        with no_grad():
            x = model.hidden(np.array([new]), cache)  # (1, T, C)
            return model.scores(x[0, -1]).numpy()
    finally:
        if was_training:
            model.train()


def choose(
    scores: np.ndarray,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    rng: np.random.Generator,
) -> int:
    """Draw a token from its scores (V,).  Temperature 0 takes the best, the first of equals."""
    if np.isnan(scores).any():
        raise FloatingPointError("the model's scores are not numbers: its weights are spoilt")
    if temperature == 0:
        return int(np.argmax(scores))
    scores = scores.astype(np.float64)
    with np.errstate(over="ignore"):  # as far below the best as a float can say: probability 0
        probabilities = np.exp((scores - scores.max()) / temperature)
    order = np.argsort(-probabilities, kind="stable")  # best first
    if top_k is not None:
        order = order[:top_k]
    if top_p is not None:
        cumulative = np.cumsum(probabilities[order])
        # The token that crosses the line still belongs.
        order = order[: np.searchsorted(cumulative, top_p * cumulative[-1]) + 1]
    kept = np.cumsum(probabilities[order])
    return int(order[np.searchsorted(kept, rng.random() * kept[-1], side="right")])


def _check_dials(max_tokens, temperature, top_k, top_p, seed):
    if max_tokens < 0:
        raise ValueError(f"max_tokens must not be negative, got {max_tokens}")
    if not temperature >= 0:
        raise ValueError(f"temperature must be 0 or above, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")


def _check_prompt(prompt, vocab_size):
    if not prompt:
        raise ValueError("a prompt needs at least one token; an end-of-text token will do")
    for i in prompt:
        if not 0 <= i < vocab_size:
            raise IndexError(f"the prompt has id {i}; this model knows ids 0 to {vocab_size - 1}")
