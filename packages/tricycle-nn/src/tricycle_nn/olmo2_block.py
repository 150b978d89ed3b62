"""OLMo 2's block: Llama's parts, with the norms behind the branches (Walsh et al. 2024).

    Llama's block                         here
    x + attention(norm(x))                x + norm(attention(x))
    x + mlp(norm(x))                      x + norm(mlp(x))
    queries and keys as they are          normalised, each over all its heads at once

A branch's result has one size whatever it read, so that none can flood the residual stream.
"""

from typing import Any

import numpy as np

from tricycle_autograd.tensor import Tensor
from tricycle_nn.attention import CausalSelfAttention, heads_apart, heads_together
from tricycle_nn.mlp import GatedMLP
from tricycle_nn.module import Module
from tricycle_nn.rms_norm import RMSNorm
from tricycle_nn.rotary import RotaryScaling


class WholeNormAttention(CausalSelfAttention):
    """`CausalSelfAttention` whose queries, and keys, are normalised over all heads together."""

    def __init__(self, width: int, n_heads: int, n_key_value_heads: int | None = None, **options):
        super().__init__(width, n_heads, n_key_value_heads, **options)
        D = self.projection.weight.shape[0] // n_heads
        self.query_norm = RMSNorm(n_heads * D, options["eps"])
        self.key_norm = RMSNorm(self.n_key_value_heads * D, options["eps"])

    def _prepare(self, q, k, start):
        q = heads_apart(self.query_norm(heads_together(q)), self.n_heads)
        k = heads_apart(self.key_norm(heads_together(k)), self.n_key_value_heads)
        return super()._prepare(q, k, start)


class Olmo2Block(Module):
    """Rotary attention, RMSNorm, gated MLP, RMSNorm: (B, T, C) -> (B, T, C).

    width              C
    n_heads            attention heads, each D = width / n_heads wide, D even
    n_key_value_heads  heads of keys and values, G; n_heads if None
    hidden             width inside the MLP, F; 8/3·width rounded up to a multiple of 64 if None
    dropout            share of each branch's result dropped while training
    eps                for the norms
    theta              base of the rotary positions' wavelengths
    rotary_scaling     slower rotary turns, for longer texts
    bias               whether the four projections of attention add biases

    It has 2·C² + 2·C·G·D + 3·C·F + 3·C + G·D parameters, and the biases.
    """

    def __init__(
        self,
        width: int,
        n_heads: int,
        n_key_value_heads: int | None = None,
        hidden: int | None = None,
        dropout: float = 0.0,
        eps: float = 1e-5,
        theta: float = 10000.0,
        rotary_scaling: RotaryScaling | None = None,
        bias: bool = False,
        *,
        rng: np.random.Generator,
    ):
        self.attention = WholeNormAttention(
            width,
            n_heads,
            n_key_value_heads,
            dropout=dropout,
            bias=bias,
            rotary_theta=theta,
            eps=eps,
            rotary_scaling=rotary_scaling,
            rng=rng,
        )
        self.attention_norm = RMSNorm(width, eps)
        self.mlp = GatedMLP(width, hidden, dropout, rng=rng)
        self.mlp_norm = RMSNorm(width, eps)

    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        """`cache`: this block's keys and values of earlier positions (see CausalSelfAttention)."""
        x = x + self.attention_norm(self.attention(x, cache))
        return x + self.mlp_norm(self.mlp(x))
