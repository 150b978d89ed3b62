"""The model of tricycle_gpt in plain PyTorch, to compare with.

Names of modules are those of ours, so that the two can be compared line by line and weights can
be copied by name; matrices of linear layers lie the other way round here.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class RotaryPositions(nn.Module):
    def __init__(self, head_size, context, theta=10000.0):
        super().__init__()
        frequencies = theta ** (-torch.arange(0, head_size, 2).double() / head_size)
        angles = torch.outer(torch.arange(context).double(), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, x):
        T, half = x.shape[-2], x.shape[-1] // 2
        turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
        return x * self.cos[:T] + turned * self.sin[:T]


class Attention(nn.Module):
    def __init__(self, config, bias, rotary=None):
        super().__init__()
        width, self.heads, self.groups = (
            config.embedding_dim,
            config.n_heads,
            config.key_value_heads,
        )
        self.head_size = config.head_size
        packed = (self.heads + 2 * self.groups) * self.head_size
        self.query_key_value = nn.Linear(width, packed, bias)
        self.projection = nn.Linear(width, width, bias)
        self.dropout = nn.Dropout(config.dropout)
        self.rotary = rotary

    def forward(self, x):
        B, T, C = x.shape
        sizes = [n * self.head_size for n in (self.heads, self.groups, self.groups)]
        q, k, v = (
            part.view(B, T, -1, self.head_size).transpose(1, 2)
            for part in self.query_key_value(x).split(sizes, dim=2)
        )
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        if self.groups < self.heads:
            # Faster here than enable_gqa=True, which leaves the fused kernel.
            k, v = (part.repeat_interleave(self.heads // self.groups, dim=1) for part in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.dropout(self.projection(y.transpose(1, 2).reshape(B, T, C)))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(config.embedding_dim, config.mlp_width)
        self.down = nn.Linear(config.mlp_width, config.embedding_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        return self.dropout(self.down(F.gelu(self.up(x), approximate="tanh")))


class GatedMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate = nn.Linear(config.embedding_dim, config.mlp_width, bias=False)
        self.up = nn.Linear(config.embedding_dim, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.embedding_dim, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        return self.dropout(self.down(self.up(x) * F.silu(self.gate(x))))


class Block(nn.Module):
    def __init__(self, config, rotary):
        super().__init__()
        is_gpt2 = config.block == "gpt2"
        make_norm = nn.LayerNorm if is_gpt2 else nn.RMSNorm
        self.attention_norm = make_norm(config.embedding_dim, config.norm_eps)
        self.attention = Attention(config, is_gpt2, rotary)
        self.mlp_norm = make_norm(config.embedding_dim, config.norm_eps)
        self.mlp = MLP(config) if is_gpt2 else GatedMLP(config)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class TorchGPT(nn.Module):
    """A twin of GPT(config), with weights of its own drawn by the same scheme."""

    def __init__(self, config):
        super().__init__()
        width, is_gpt2 = config.embedding_dim, config.block == "gpt2"
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.position_embedding = nn.Embedding(config.context_window, width) if is_gpt2 else None
        self.dropout = nn.Dropout(config.dropout)
        rotary = None
        if not is_gpt2:
            rotary = RotaryPositions(config.head_size, config.context_window, config.rotary_theta)
        self.blocks = nn.ModuleList([Block(config, rotary) for _ in range(config.n_layers)])
        self.norm = (nn.LayerNorm if is_gpt2 else nn.RMSNorm)(width, config.norm_eps)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim >= 2:
                    to_stream = name.endswith(("projection.weight", "down.weight"))
                    scale = 1 / math.sqrt(2 * config.n_layers) if to_stream else 1.0
                    parameter.normal_(std=0.02 * scale)
                else:
                    parameter.fill_(0.0 if name.endswith("bias") else 1.0)

    def loss(self, ids, targets):
        x = self.token_embedding(ids)
        if self.position_embedding is not None:
            x = x + self.position_embedding(torch.arange(ids.shape[1], device=ids.device))
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.token_embedding.weight.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def two_groups(self, weight_decay):
        """Decay for matrices, none for vectors: default_groups in PyTorch's words."""
        parameters = list(self.parameters())
        return [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]


def like_ours(name, parameter):
    """A parameter or its gradient as an array in our layout: linear matrices are (in, out)."""
    array = parameter.detach().numpy()
    return array.T if array.ndim == 2 and "embedding" not in name else array


def load_weights(model, weights):
    """Copy our weights, arrays by name."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            like_ours(name, parameter)[...] = np.asarray(weights[name])
