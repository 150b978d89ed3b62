"""nanoGPT's recipe for a CPU, in plain PyTorch.  Its twin is shakespeare_ours.py.

    python shakespeare_torch.py SEED STEPS [WEIGHTS]

Starts from the weights in the file WEIGHTS, or, without one, from its own, drawn by the same
scheme.  Names of modules are those of ours, so that the two models can be compared line by line.
"""

import json
import math
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from shakespeare_recipe import (
    BATCH,
    BETAS,
    CONTEXT,
    FLOOR,
    HEADS,
    LAYERS,
    MAX_NORM,
    PEAK,
    WARMUP,
    WEIGHT_DECAY,
    WIDTH,
    load_ids,
)
from torch import nn

from tricycle_datasets import Batches, windows


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.projection = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, HEADS, C // HEADS).transpose(1, 2)
            for part in self.query_key_value(x).split(C, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.projection(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.mlp_norm, self.mlp = nn.LayerNorm(WIDTH), MLP()

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, WIDTH)
        self.position_embedding = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(WIDTH)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim >= 2:
                    to_stream = name.endswith(("projection.weight", "down.weight"))
                    parameter.normal_(std=0.02 / math.sqrt(2 * LAYERS) if to_stream else 0.02)
                else:
                    parameter.fill_(0.0 if name.endswith("bias") else 1.0)

    def loss(self, ids, targets):
        x = self.token_embedding(ids) + self.position_embedding(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.token_embedding.weight.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def load_weights(model, path):
    """Copy our weights; matrices of linear layers lie the other way round here."""
    weights = np.load(path, allow_pickle=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            array = weights[name]
            is_linear = parameter.ndim == 2 and "embedding" not in name
            parameter.copy_(torch.from_numpy(array.T if is_linear else array))


def learning_rate(step, steps):
    if step < WARMUP:
        return PEAK * (step + 1) / (WARMUP + 1)
    progress = (step - WARMUP) / (steps - 1 - WARMUP)
    return FLOOR + (PEAK - FLOOR) * (1 + math.cos(math.pi * progress)) / 2


seed, steps = int(sys.argv[1]), int(sys.argv[2])
training, validation, vocab_size, digest = load_ids()
batches = Batches(training, BATCH, CONTEXT, seed=seed)

torch.manual_seed(seed)
model = GPT(vocab_size)
if len(sys.argv) > 3:
    load_weights(model, sys.argv[3])

parameters = list(model.parameters())
matrices = [p for p in parameters if p.ndim >= 2]
vectors = [p for p in parameters if p.ndim < 2]
optimiser = torch.optim.AdamW(
    [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ],
    betas=BETAS,
)

losses = []
for step in range(steps):
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(step, steps)
    inputs, targets = (torch.from_numpy(ids) for ids in next(batches))
    loss = model.loss(inputs, targets)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, MAX_NORM)
    optimiser.step()
    optimiser.zero_grad()
    losses.append(loss.item())
    if step == 0:
        began = time.perf_counter()
seconds = time.perf_counter() - began

total = 0.0
with torch.no_grad():
    for inputs, targets in windows(validation, CONTEXT, batch_size=64):
        mean = model.loss(torch.from_numpy(inputs), torch.from_numpy(targets)).item()
        total += mean * targets.size

result = {
    "loss": total / (len(validation) - 1),
    "first_loss": losses[0],
    "seconds": seconds,
    "parameters": sum(parameter.numel() for parameter in parameters),
    "data": digest,
}
print(json.dumps(result))
