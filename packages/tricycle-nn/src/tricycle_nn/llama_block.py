"""Llama's block: the transformer block with newer parts (Touvron et al. 2023).

    GPT-2's block                       here
    LayerNorm                           RMSNorm: scales, but does not centre
    positions added to the input        rotary: queries and keys are turned
    each query head has its own keys    groups of query heads may share keys and values
    MLP with GELU                       MLP with a gate (SwiGLU)
    biases everywhere                   no biases

Optional, from later models: queries and keys normalised before they meet ("QK-norm"), which
keeps scores from growing without bound.
"""

from typing import Any

import numpy as np

from tricycle_autograd.tensor import Tensor
from tricycle_nn.attention import CausalSelfAttention
from tricycle_nn.mlp import GatedMLP
from tricycle_nn.module import Module
from tricycle_nn.rms_norm import RMSNorm


class LlamaBlock(Module):
    """RMSNorm, rotary attention, RMSNorm, gated MLP: (B, T, C) -> (B, T, C).

    width              C
    n_heads            attention heads, each D = width / n_heads wide, D even
    n_key_value_heads  heads of keys and values, G; n_heads if None
    hidden             width inside the MLP, F; 8/3·width rounded up to a multiple of 64 if None
    dropout            share of each branch's result dropped while training
    eps                for the norms
    qk_norm            normalise queries and keys
    theta              base of the rotary positions' wavelengths

    It has 2·C² + 2·C·G·D + 3·C·F + 2·C parameters, and 2·D more with qk_norm.
    """

    def __init__(
        self,
        width: int,
        n_heads: int,
        n_key_value_heads: int | None = None,
        hidden: int | None = None,
        dropout: float = 0.0,
        eps: float = 1e-5,
        qk_norm: bool = False,
        theta: float = 10000.0,
        *,
        rng: np.random.Generator,
    ):
        self.attention_norm = RMSNorm(width, eps)
        self.attention = CausalSelfAttention(
            width,
            n_heads,
            n_key_value_heads,
            dropout,
            bias=False,
            qk_norm=qk_norm,
            rotary_theta=theta,
            eps=eps,
            rng=rng,
        )
        self.mlp_norm = RMSNorm(width, eps)
        self.mlp = GatedMLP(width, hidden, dropout, rng=rng)

    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        """`cache`: this block's keys and values of earlier positions (see CausalSelfAttention)."""
        branch = self.attention(self.attention_norm(x), cache)
        x, normalised = self.mlp_norm.after_adding(x, branch)
        return x + self.mlp(normalised)
