"""nanoGPT's recipe for a CPU, in tricycle.  Its twin is shakespeare_torch.py.

    python shakespeare_ours.py SEED STEPS WEIGHTS

Writes the weights it starts from to the file WEIGHTS, for the twin, and prints its result.
"""

import json
import sys
import time

import numpy as np
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

from tricycle_datasets import Batches
from tricycle_gpt import GPT, GPTConfig, evaluate
from tricycle_nn import AdamW, CosineSchedule, clip_scale, default_groups

seed, steps, weights = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
training, validation, vocab_size, digest = load_ids()
batches = Batches(training, BATCH, CONTEXT, seed=seed)

config = GPTConfig(
    vocab_size=vocab_size,
    context_window=CONTEXT,
    embedding_dim=WIDTH,
    n_layers=LAYERS,
    n_heads=HEADS,
)
model = GPT(config, rng=np.random.default_rng(seed))
np.savez(weights, **model.state_dict())

parameters = model.parameters()
optimiser = AdamW(default_groups(model, WEIGHT_DECAY), PEAK, betas=BETAS)
schedule = CosineSchedule(PEAK, FLOOR, WARMUP, steps)

losses = []
for step in range(steps):
    optimiser.learning_rate = schedule(step)
    loss = model.loss(*next(batches))
    loss.backward()
    optimiser.step(grad_scale=clip_scale(parameters, MAX_NORM))
    optimiser.zero_grad()
    losses.append(loss.item())
    if step == 0:  # the clock starts when kernels are compiled and pages touched
        began = time.perf_counter()
seconds = time.perf_counter() - began

result = {
    "loss": evaluate(model, validation).loss,
    "first_loss": losses[0],
    "seconds": seconds,
    "parameters": model.n_parameters(),
    "data": digest,
}
print(json.dumps(result))
