"""Llama's block: the transformer block with newer parts (Touvron et al. 2023).

    GPT-2's block                       here
    LayerNorm                           RMSNorm: scales, but does not centre
    positions added to the input        rotary: queries and keys are turned
    each query head has its own keys    groups of query heads may share keys and values
    MLP with GELU                       MLP with a gate (SwiGLU)
    biases everywhere                   no biases

Optional, from later models: queries and keys normalised before they meet ("QK-norm"), which
keeps scores from growing without bound (Qwen3); biases for queries, keys and values (Qwen2); heads
of any width; slower rotary turns (Llama 3.1); a window beyond which a position does not look back
(Mistral).
"""

from typing import Any

import numpy as np

from tricycle_autograd.tensor import Tensor
from tricycle_nn.attention import CausalSelfAttention
from tricycle_nn.mlp import GatedMLP
from tricycle_nn.module import Module
from tricycle_nn.rms_norm import RMSNorm
from tricycle_nn.rotary import RotaryScaling


class LlamaBlock(Module):
    """RMSNorm, rotary attention, RMSNorm, gated MLP: (B, T, C) -> (B, T, C).

    width              C
    n_heads            attention heads, each D numbers wide, D even
    n_key_value_heads  heads of keys and values, G; n_heads if None
    hidden             width inside the MLP, F; 8/3·width rounded up to a multiple of 64 if None
    dropout            share of each branch's result dropped while training
    eps                for the norms
    qk_norm            normalise queries and keys
    theta              base of the rotary positions' wavelengths
    head_dim           D; width / n_heads if None
    rotary_scaling     slower rotary turns, for longer texts
    window             how many positions, itself among them, each sees at most; None for all
    bias               whether queries, keys and values add a bias
    projection_bias    whether what the heads have found adds one
    mlp_bias           whether the MLP's layers add biases

    It has 2·C·H·D + 2·C·G·D + 3·C·F + 2·C parameters, 2·D more with qk_norm, and the biases.
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
        head_dim: int | None = None,
        rotary_scaling: RotaryScaling | None = None,
        window: int | None = None,
        bias: bool = False,
        projection_bias: bool = False,
        mlp_bias: bool = False,
        *,
        rng: np.random.Generator,
    ):
        self.attention_norm = RMSNorm(width, eps)
        self.attention = CausalSelfAttention(
            width,
            n_heads,
            n_key_value_heads,
            dropout,
            bias=bias,
            qk_norm=qk_norm,
            rotary_theta=theta,
            eps=eps,
            head_dim=head_dim,
            rotary_scaling=rotary_scaling,
            window=window,
            projection_bias=projection_bias,
            rng=rng,
        )
        self.mlp_norm = RMSNorm(width, eps)
        self.mlp = GatedMLP(width, hidden, dropout, mlp_bias, rng=rng)

    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        """`cache`: this block's keys and values of earlier positions (see CausalSelfAttention)."""
        branch = self.attention(self.attention_norm(x), cache)
        x, normalised = self.mlp_norm.after_adding(x, branch)
        return x + self.mlp(normalised)
