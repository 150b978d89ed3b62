"""A GPT with weights of 8 or 4 bits, for writing: see tricycle_nn.quantised.

    small = quantise(model)
    for token in generate(small, prompt, 100): ...

Matrices become whole numbers with a scale for each block of 32; norms, biases and the position
table stay as they are.  The token table is kept once, for both ends of the model if it is tied.
"""

import copy
from typing import Any

import numpy as np

from tricycle_autograd import Tensor
from tricycle_autograd.tensor import wrap
from tricycle_gpt.model import GPT
from tricycle_nn import Embedding, Linear, Module, cross_entropy
from tricycle_nn.quantised import QuantisedLinear, QuantisedMatrix, quantised_outputs


def quantise(model: GPT, bits: int = 8) -> "QuantisedGPT":
    """The same model with matrices of whole numbers, for reading only.

    bits   8: a quarter of the memory, and the same loss to about 0.001 nats; 4: a sixth, and a
           loss that is clearly higher, but of a model whose weights were written so before

    The model itself is left as it is.  Raises ValueError for other bits, for a model that is
    quantised, and if its weights are not finite or too large for float16.
    """
    return QuantisedGPT(model, bits)


class QuantisedGPT(GPT):
    """What `quantise` makes; it is used as a GPT is, but for training."""

    def __init__(self, model: GPT, bits: int = 8):
        check_not_quantised(model)
        self.config = model.config
        self.head = QuantisedMatrix(model.head_weight.array, bits)
        tied = model.head_weight is model.token_embedding.weight
        self.token_embedding = QuantisedEmbedding(
            self.head if tied else QuantisedMatrix(model.token_embedding.weight.array, bits)
        )
        if model.config.family.learned_positions:
            self.position_embedding = model.position_embedding
        self.dropout = model.dropout
        self.blocks = [quantised(block, bits) for block in model.blocks]
        self.norm = model.norm
        self.known_ids = model.known_ids
        self.end_ids, self.begin_id = model.end_ids, model.begin_id
        self.chat_template = model.chat_template
        self.training = False

    def scores(self, x: Tensor) -> Tensor:
        return quantised_outputs(x, self.head)

    def loss_of(self, x: Tensor, targets: Any) -> Tensor:
        """As a GPT's, for measuring: there is no gradient."""
        return cross_entropy(self.scores(x), targets)


class QuantisedEmbedding(Embedding):
    """A table of vectors, whose rows become float32 as they are looked up."""

    def __init__(self, table: QuantisedMatrix):  # instead of drawing a table of float32
        self.table = table

    def forward(self, ids: np.ndarray) -> Tensor:
        ids = np.array(ids)  # a copy, which is what is checked: the caller's may change meanwhile
        n = self.table.shape[0]
        if ids.size and not 0 <= ids.min() <= ids.max() < n:
            raise IndexError(f"ids go from 0 to {n - 1}, got {ids.min()} to {ids.max()}")
        return wrap(self.table.rows(ids))


def check_not_quantised(model: GPT) -> None:
    """Raise ValueError for what `quantise` made: it has no weights to write, or to quantise."""
    if isinstance(model, QuantisedGPT):
        raise ValueError(
            "this model's weights are quantised: take the model that quantise() was given"
        )


def quantised(module: Module, bits: int) -> Module:
    """A copy of a module in which every Linear is a QuantisedLinear; all else is shared."""
    if isinstance(module, Linear):
        return QuantisedLinear(module, bits)
    changed = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, Module):
            setattr(changed, name, quantised(value, bits))
    return changed
