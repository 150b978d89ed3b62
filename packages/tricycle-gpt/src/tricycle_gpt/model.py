"""A GPT: predict the next token, from all the tokens before it.

    ids ──► token table (+ position table) ──► block ──► block ──► … ──► norm ──► scores

Each token becomes a vector.  Every block lets the vectors read from earlier ones (attention)
and then think alone (MLP), and *adds* what it found: the sum running through the model is
called the residual stream.  At the end each vector is compared with every row of the token
table; how well a row fits is that token's score, or logit, for being next.

The two kinds of block, tricycle_nn's TransformerBlock (GPT-2's) and LlamaBlock, can be read
side by side; a new idea is a new class there and a `Family` (families.py).
"""

from contextlib import nullcontext
from typing import Any

import numpy as np

from tricycle_autograd import Tensor, recompute
from tricycle_gpt.config import GPTConfig
from tricycle_gpt.initialise import initialise_like_gpt2
from tricycle_nn import (
    Dropout,
    Embedding,
    Module,
    Parameter,
    linear_cross_entropy,
    token_scores,
)
from tricycle_nn.cross_entropy import PlacedTargets
from tricycle_nn.embedding import PlacedIds


class GPT(Module):
    """A generative pre-trained transformer.

    config  its sizes
    rng     draws the first weights, so that one seed gives one model

        model = GPT(PRESETS["characters"], rng=np.random.default_rng(0))
        logits = model(ids)               # (B, T, V)
        loss = model.loss(ids, targets)   # mean over all B·T tokens, in nats

    `model.recompute = True` has blocks forget what their forward pass made, and make it again in
    the backward pass: much less memory, a third more time, the same bits.

    `model.known_ids`, (V,) booleans, are those that its tokeniser can spell, and `generate` writes
    no other; None where it knows all.  `from_huggingface` finds them: the tables of many models
    are longer than their vocabulary.

    `model.end_ids` are the tokens after which a text of its ends, `begin_id` the one that it begins
    with, and `chat_template` how its makers write a conversation, as the folder it was read from
    says; a folder that it is written to says the same.
    """

    recompute = False
    known_ids: np.ndarray | None = None
    end_ids: tuple[int, ...] = ()
    begin_id: int | None = None
    chat_template: str | None = None

    def __init__(self, config: GPTConfig, *, rng: np.random.Generator):
        width = config.embedding_dim
        self.config = config
        self.token_embedding = Embedding(config.vocab_size, width, rng=rng)
        if config.family.learned_positions:
            self.position_embedding = Embedding(config.context_window, width, rng=rng)
        self.dropout = Dropout(config.dropout, rng=rng)
        self.blocks = [config.family.make_block(config, rng=rng) for _ in range(config.n_layers)]
        self.norm = config.family.make_norm(width, config.norm_eps)
        if config.tied_head:
            self.head_weight = self.token_embedding.weight
        else:
            self.head_weight = Parameter(np.empty((config.vocab_size, width), np.float32))
        initialise_like_gpt2(self, config.n_layers, rng)

    def forward(self, ids: Any, cache: Any = None) -> Tensor:
        """The scores of every token for coming next, at every position.

        ids    (B, T) integers, T at most the context window
        cache  a KVCache that holds the keys and values of earlier tokens, and receives these
        returns (B, T, V)

        Raises ValueError for another shape or too many tokens, IndexError for an id that is
        not in the vocabulary.
        """
        with nullcontext() if cache is None else cache.as_before_if_it_fails():
            return self.scores(self.hidden(ids, cache))

    def scores(self, x: Tensor) -> Tensor:
        """How well each token fits vectors x (..., C) of the last block: (..., V)."""
        return token_scores(x, self.head_weight)

    def loss(self, ids: Any, targets: Any) -> Tensor:
        """The mean surprise, −ln p(target), over all positions.

        ids, targets  (B, T) integers; a target of -100 is left out
        returns       one number, in nats.  ln(vocab_size) is knowing nothing

        The same as `cross_entropy(model(ids), targets)` in less memory.
        """
        if np.shape(targets) != np.shape(ids):
            raise ValueError(
                f"ids and targets must have one shape, got {np.shape(ids)} and {np.shape(targets)}"
            )
        return self.loss_of(self.hidden(ids), targets)

    def loss_of(self, x: Tensor, targets: Any) -> Tensor:
        """The mean surprise at targets (...), from vectors x (..., C) of the last block."""
        return linear_cross_entropy(x, self.head_weight, targets)

    def hidden(self, ids: Any, cache: Any = None) -> Tensor:
        """The normalised residual stream after the last block, (B, T, C)."""
        ids = np.asarray(ids)
        past = 0 if cache is None else cache.length
        self._check(ids, past)
        return self._from_ids(ids, np.arange(past, past + ids.shape[1]), cache)

    def loss_of_placed(
        self, ids: PlacedIds, positions: PlacedIds, targets: PlacedTargets
    ) -> Tensor:
        """`loss` of what was checked and lies on the GPU already (runs/micro_steps.py)."""
        return self.loss_of(self._from_ids(ids, positions), targets)

    def _from_ids(self, ids, positions, cache=None):
        x = self.token_embedding(ids)  # (B, T, C)
        if self.config.family.learned_positions:
            x = x + self.position_embedding(positions)
        x = self.dropout(x)
        with nullcontext() if cache is None else cache.as_before_if_it_fails():
            for i, block in enumerate(self.blocks):
                x = self._through(block, x, None if cache is None else cache.layers[i])
            return self.norm(x)

    def _through(self, block, x, cache):
        if self.recompute and cache is None and x.requires_grad:
            return recompute(block, x)
        return block(x, cache=cache)

    def n_parameters(self) -> int:
        """How many numbers are learned; a tied head counts once."""
        return sum(parameter.size for parameter in self.parameters())

    def _check(self, ids, past):
        window = self.config.context_window
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise ValueError(
                f"a GPT reads integer ids of shape (batch, time), got {ids.dtype} {ids.shape}"
            )
        if ids.shape[1] + past > window:
            raise ValueError(
                f"this model looks at {window} tokens at most, got {ids.shape[1] + past}; "
                "give it the last ones, or use generate(), which does"
            )
