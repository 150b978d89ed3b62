"""A process of cpu_decode.py: PyTorch writes greedily with a cache of keys and values.

    python decode_torch.py CONFIGURATION eager|compile THREADS WEIGHTS.npz

The cache has room for the prompt and the tokens to come, and is written in place, so that the
compiled step has one shape.  Obeys lines on its standard input (see taking_turns.py).
"""

import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from decode_recipe import CONFIGURATIONS, PROMPT, TOKENS, prompt_of
from taking_turns import obey
from torch_gpt import TorchGPT, load_weights

config = CONFIGURATIONS[sys.argv[1]]
torch.set_num_threads(int(sys.argv[3]))
model = TorchGPT(config)
load_weights(model, np.load(sys.argv[4]))
model.eval()
H, D, ROOM = config.n_heads, config.head_size, PROMPT + TOKENS + 2
keys = torch.zeros(config.n_layers, 1, H, ROOM, D)
values = torch.zeros_like(keys)
places = torch.arange(ROOM)


def step(ids, positions):
    """ids (1, T) at `positions` (T,): the best next id; keys and values go into the cache."""
    x = model.token_embedding(ids) + model.position_embedding(positions)
    seen = places[None, :] <= positions[:, None]  # (T, ROOM)
    for i, block in enumerate(model.blocks):
        attention = block.attention
        packed = attention.query_key_value(block.attention_norm(x))
        q, k, v = (part.view(1, -1, H, D).transpose(1, 2) for part in packed.chunk(3, dim=2))
        keys[i].index_copy_(2, positions, k)
        values[i].index_copy_(2, positions, v)
        y = F.scaled_dot_product_attention(q, keys[i], values[i], attn_mask=seen)
        x = x + attention.projection(y.transpose(1, 2).reshape(1, -1, H * D))
        x = x + block.mlp(block.mlp_norm(x))
    scores = model.norm(x[:, -1]) @ model.token_embedding.weight.T
    return scores.argmax(dim=-1)


one_step = torch.compile(step, dynamic=False) if sys.argv[2] == "compile" else step


def write(n):
    with torch.no_grad():
        prompt = torch.from_numpy(prompt_of(config))[None]
        token = step(prompt, torch.arange(PROMPT))
        ids = [int(token)]
        start = time.perf_counter()
        for i in range(int(n)):
            token = one_step(token[None], torch.tensor([PROMPT + i]))
            ids.append(int(token))
        return {"seconds": (time.perf_counter() - start) / int(n), "ids": ids}


obey(write)
