"""What the processes of cpu_decode.py share: models, prompt."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from tricycle_gpt import GPT, GPTConfig, from_gguf, read_gguf

PROMPT, TOKENS = 128, 64
TEXT = """Alice was beginning to get very tired of sitting by her sister on the bank, and of having
nothing to do: once or twice she had peeped into the book her sister was reading, but it had no
pictures or conversations in it, "and what is the use of a book," thought Alice "without pictures
or conversations?" So she was considering in her own mind (as well as she could, for the hot day
made her feel very sleepy and stupid), whether the pleasure of making a daisy-chain would be worth
the trouble of getting up and picking the daisies, when suddenly a White Rabbit with pink eyes ran
close by her."""
CONFIGURATIONS = {
    "gpt2": replace(GPTConfig(), vocab_size=50304),
    "shakespeare": GPTConfig(
        vocab_size=1024, context_window=256, embedding_dim=384, n_layers=6, n_heads=6
    ),
}


def model_of(name: str) -> GPT:
    """One of the configurations with drawn weights, or a GGUF file."""
    if name in CONFIGURATIONS:
        return GPT(CONFIGURATIONS[name], rng=np.random.default_rng(0))
    return from_gguf(name)


def prompt_of(name: str) -> np.ndarray:
    """PROMPT ids: of a text, where the model has learned from texts."""
    if name in CONFIGURATIONS:
        return np.random.default_rng(1).integers(0, CONFIGURATIONS[name].vocab_size, PROMPT)
    from tricycle_bpe import Tokeniser

    ids = Tokeniser.from_gguf(read_gguf(Path(name)).settings).encode(TEXT)
    assert len(ids) >= PROMPT, f"the text has {len(ids)} ids only"
    return np.array(ids[:PROMPT])
