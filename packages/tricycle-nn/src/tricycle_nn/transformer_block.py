"""GPT-2's block: read from the others, then think alone; both times add to what is there.

    x + attention(norm(x))          then          x + mlp(norm(x))

The sum that runs through all the blocks, the residual stream, is never normalised itself: each
branch normalises its own copy, so gradients have a straight way back (Radford et al. 2019).

llama_block.py is the same idea with newer parts.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tricycle_autograd.tensor import Tensor
from tricycle_nn.attention import CausalSelfAttention
from tricycle_nn.gelu import gelu
from tricycle_nn.layer_norm import LayerNorm
from tricycle_nn.mlp import MLP
from tricycle_nn.module import Module


class TransformerBlock(Module):
    """LayerNorm, attention, LayerNorm, MLP: (B, T, C) -> (B, T, C).

    width       C
    n_heads     attention heads, each width / n_heads wide
    hidden      width inside the MLP; 4·width if None
    dropout     share of each branch's result dropped while training
    eps         for the norms
    activation  inside the MLP, a function of a tensor

    It has 12·C² + 13·C parameters.  Where a token stands must be in x already.
    """

    def __init__(
        self,
        width: int,
        n_heads: int,
        hidden: int | None = None,
        dropout: float = 0.0,
        eps: float = 1e-5,
        activation: Callable[[Tensor], Tensor] = gelu,
        *,
        rng: np.random.Generator,
    ):
        self.attention_norm = LayerNorm(width, eps)
        self.attention = CausalSelfAttention(width, n_heads, dropout=dropout, rng=rng)
        self.mlp_norm = LayerNorm(width, eps)
        self.mlp = MLP(width, hidden, activation, dropout, rng=rng)

    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        """`cache`: this block's keys and values of earlier positions (see CausalSelfAttention)."""
        branch = self.attention(self.attention_norm(x), cache)
        x, normalised = self.mlp_norm.after_adding(x, branch)
        return x + self.mlp(normalised)
