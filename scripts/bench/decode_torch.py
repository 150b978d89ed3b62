"""A process of cpu_decode.py: PyTorch writes greedily with a cache of keys and values.

    python decode_torch.py eager|compile THREADS FOLDER

The folder has weights and recipe from decode_ours.py.  The cache has room for the prompt and the
tokens to come, and is written in place, so that the compiled step has one shape.  Obeys lines on
its standard input (see taking_turns.py).
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from decode_recipe import PROMPT, TOKENS
from taking_turns import obey
from torch_gpt import TorchGPT, load_weights

from tricycle_gpt import GPTConfig

mode, folder = sys.argv[1], Path(sys.argv[3])
torch.set_num_threads(int(sys.argv[2]))
recipe = json.loads((folder / "recipe.json").read_text())
config = GPTConfig(**recipe["config"])
model = TorchGPT(config)
load_weights(model, np.load(folder / "weights.npz"))
model.eval()
H, G, D, ROOM = config.n_heads, config.key_value_heads, config.head_size, PROMPT + TOKENS + 2
keys = torch.zeros(config.n_layers, 1, G, ROOM, D)
values = torch.zeros_like(keys)
places = torch.arange(ROOM)


def turned(x, positions, rotary):
    """x (1, H, T, D) with the rotary turns of these positions."""
    first, second = x.chunk(2, dim=-1)
    swapped = torch.cat((-second, first), dim=-1)
    return x * rotary.cos[positions] + swapped * rotary.sin[positions]


def step(ids, positions):
    """ids (1, T) at `positions` (T,): the best next id; keys and values go into the cache."""
    x = model.token_embedding(ids)
    if model.position_embedding is not None:
        x = x + model.position_embedding(positions)
    seen = places[None, :] <= positions[:, None]  # (T, ROOM)
    for i, block in enumerate(model.blocks):
        attention = block.attention
        packed = attention.query_key_value(block.attention_norm(x)).view(1, -1, H + 2 * G, D)
        q, k, v = packed.transpose(1, 2).split([H, G, G], dim=1)
        if attention.rotary is not None:
            q, k = (turned(part, positions, attention.rotary) for part in (q, k))
        keys[i].index_copy_(2, positions, k)
        values[i].index_copy_(2, positions, v)
        y = F.scaled_dot_product_attention(q, keys[i], values[i], attn_mask=seen, enable_gqa=G < H)
        x = x + attention.projection(y.transpose(1, 2).reshape(1, -1, H * D))
        x = x + block.mlp(block.mlp_norm(x))
    scores = model.norm(x[:, -1]) @ model.token_embedding.weight.T
    return scores.argmax(dim=-1)


one_step = torch.compile(step, dynamic=False) if mode == "compile" else step


def write(n):
    with torch.no_grad():
        prompt = torch.tensor(recipe["prompt"])[None]
        start = time.perf_counter()
        token = step(prompt, torch.arange(PROMPT))
        ids = [int(token)]
        then = time.perf_counter()
        for i in range(int(n)):
            token = one_step(token[None], torch.tensor([PROMPT + i]))
            ids.append(int(token))
        seconds = (time.perf_counter() - then) / int(n)
        return {"prompt": then - start, "seconds": seconds, "ids": ids}


obey(write)
