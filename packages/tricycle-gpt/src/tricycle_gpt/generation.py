"""Generation: ask for the next token, add it, ask again.

How a token is drawn from the model's scores, sampling.py says.

The model sees a window of limited length.  When it is full, its older half is dropped and the
rest is read again: a pause once every half window, instead of reading everything anew for
each token as a window that slides by one would need.  With and without the cache the model
sees exactly the same tokens, so both give the same text.
"""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import fields
from typing import Any

import numpy as np

from tricycle_autograd import no_grad
from tricycle_gpt.kv_cache import KVCache
from tricycle_gpt.model import GPT
from tricycle_gpt.sampling import Dials, choose
from tricycle_nn import dropout_off


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
    **dials: Any,
) -> Iterator[int]:
    """Continue a text, one token at a time.

    model       in the state it is in; nothing is dropped, also while another thread trains it;
                only its `known_ids` are written
    ids         the prompt, (T,) integers, at least one, of any length
    max_tokens  how many tokens to add at most
    seed        the same seed gives the same text
    stop        ids that end the text; they are not given out
    cache       keep keys and values: the same tokens, much sooner

    temperature, top_k and top_p, and what else there may be, are the dials of `Dials`.

    Iterates over the new ids.  Raises ValueError for an empty prompt or dials out of range,
    TypeError for a dial that there is not and for a prompt other than a row of integers, IndexError
    for an id that is not in the vocabulary, FloatingPointError if the model's scores are not
    numbers.
    """
    prompt = _prompt(ids)
    if max_tokens < 0:
        raise ValueError(f"max_tokens must not be negative, got {max_tokens}")
    _check_prompt(prompt, model.config.vocab_size)
    known = [field.name for field in fields(Dials)]
    if unknown := sorted(dials.keys() - set(known)):
        raise TypeError(f"generate has no {', '.join(unknown)}; its dials are {', '.join(known)}")
    drawing = Dials(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, **dials)
    kept = KVCache(model.config) if cache else None
    return _generate(model, prompt, max_tokens, drawing, set(stop), kept)


def _generate(model, prompt, max_tokens, dials, stop, cache):
    rng = np.random.default_rng(dials.seed)
    window = model.config.context_window
    context = prompt[-window:]
    for _ in range(max_tokens):
        if len(context) > window:
            context = context[-(window - window // 2) :]
            if cache is not None:
                cache.clear()
        scores = next_scores(model, context, cache)
        if model.known_ids is not None:
            scores = np.where(model.known_ids, scores, -np.inf)
        token = choose(scores, dials, rng)
        if token in stop:
            return
        context.append(token)
        yield token


def next_scores(model: GPT, context: list[int], cache: KVCache | None = None) -> np.ndarray:
    """The scores (V,) for the token after `context`, of which the cache may know a beginning."""
    new = context if cache is None else context[cache.length :]
    kept = nullcontext() if cache is None else cache.as_before_if_it_fails()
    with no_grad(), dropout_off(), kept:  # in this thread: another may be training the model
        x = model.hidden(np.array([new]), cache)  # (1, T, C)
        return model.scores(x[0, -1]).numpy()


def _prompt(ids):
    """The ids of a prompt as Python's integers."""
    if isinstance(ids, (str, bytes)):
        raise TypeError(
            f"a prompt is a row of ids, got the text {ids!r}; encode it first: "
            "generate(model, tokeniser.encode(text), ...)"
        )
    array = np.asarray(ids)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise TypeError(
            f"a prompt is one row of integer ids, (T,), got {array.dtype} of shape {array.shape}; "
            "several prompts are continued one after the other"
        )
    return array.tolist()


def _check_prompt(prompt, vocab_size):
    if not prompt:
        raise ValueError("a prompt needs at least one token; an end-of-text token will do")
    for i in prompt:
        if not 0 <= i < vocab_size:
            raise IndexError(f"the prompt has id {i}; this model knows ids 0 to {vocab_size - 1}")
