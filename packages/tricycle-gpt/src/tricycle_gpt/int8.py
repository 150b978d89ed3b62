"""A GPT with weights of one byte, for writing: see tricycle_nn.int8.

    small = quantise(model)
    for token in generate(small, prompt, 100): ...

Matrices become whole numbers with a scale for each output; norms, biases and the position table
stay as they are.  The token table is kept once, for both ends of the model if it is tied.
"""

import copy
from typing import Any

import numpy as np

from tricycle_autograd import Tensor
from tricycle_autograd.tensor import wrap
from tricycle_gpt.model import GPT
from tricycle_nn import Embedding, Linear, Module, cross_entropy
from tricycle_nn.int8 import Int8Linear, Int8Matrix, int8_outputs


def quantise(model: GPT) -> "Int8GPT":
    """The same model with matrices of int8: a quarter of the memory, for reading only.

    The model itself is left as it is.  Raises ValueError if its weights are not finite.
    """
    return Int8GPT(model)


class Int8GPT(GPT):
    """What `quantise` makes; it is used as a GPT is, but for training."""

    def __init__(self, model: GPT):
        self.config = model.config
        self.head = Int8Matrix(model.head_weight.array)
        tied = model.head_weight is model.token_embedding.weight
        self.token_embedding = Int8Embedding(
            self.head if tied else Int8Matrix(model.token_embedding.weight.array)
        )
        if model.config.family.learned_positions:
            self.position_embedding = model.position_embedding
        self.dropout = model.dropout
        self.blocks = [with_int8(block) for block in model.blocks]
        self.norm = model.norm
        self.known_ids = model.known_ids
        self.end_ids, self.begin_id = model.end_ids, model.begin_id
        self.chat_template = model.chat_template
        self.training = False

    def scores(self, x: Tensor) -> Tensor:
        return int8_outputs(x, self.head)

    def loss_of(self, x: Tensor, targets: Any) -> Tensor:
        """As a GPT's, for measuring: there is no gradient."""
        return cross_entropy(self.scores(x), targets)


class Int8Embedding(Embedding):
    """A table of vectors, whose rows become float32 as they are looked up."""

    def __init__(self, table: Int8Matrix):  # instead of drawing a table of float32
        self.table = table

    def forward(self, ids: np.ndarray) -> Tensor:
        ids = np.array(ids)  # a copy, which is what is checked: the caller's may change meanwhile
        n = len(self.table.scales)
        if ids.size and not 0 <= ids.min() <= ids.max() < n:
            raise IndexError(f"ids go from 0 to {n - 1}, got {ids.min()} to {ids.max()}")
        return wrap(self.table.rows(ids))


def with_int8(module: Module) -> Module:
    """A copy of a module in which every Linear is an Int8Linear; all else is shared."""
    if isinstance(module, Linear):
        return Int8Linear(module)
    changed = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, Module):
            setattr(changed, name, with_int8(value))
    return changed
