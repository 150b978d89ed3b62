"""A process of cpu_step.py: training steps of ours, through the public API.

    python step_ours.py CONFIGURATION DROPOUT

Obeys lines on its standard input, and answers each with a line of JSON (see taking_turns.py).
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from step_recipe import (
    BETAS,
    CONFIGURATIONS,
    LEARNING_RATE,
    MAX_NORM,
    WEIGHT_DECAY,
    draw_batch,
    forget_peak_memory,
    peak_memory,
)
from taking_turns import obey

from tricycle_gpt import GPT
from tricycle_nn import AdamW, clip_scale, cross_entropy, default_groups

config, batch, _ = CONFIGURATIONS[sys.argv[1]]
config = replace(config, dropout=float(sys.argv[2]))
model = GPT(config, rng=np.random.default_rng(0))
parameters = model.parameters()
optimiser = AdamW(default_groups(model, WEIGHT_DECAY), LEARNING_RATE, betas=BETAS)
ids, targets = draw_batch(config, batch)


def fused_loss():
    return model.loss(ids, targets)


def loss_of_logits():
    return cross_entropy(model(ids), targets)


def step(make_loss):
    start = time.perf_counter()
    loss = make_loss()
    loss.backward()
    optimiser.step(grad_scale=clip_scale(parameters, MAX_NORM))
    optimiser.zero_grad()
    loss.item()
    return time.perf_counter() - start


def steps(n):
    return {"seconds": [step(fused_loss) for _ in range(int(n))]}


def steps_of_logits(n):
    return {"seconds": [step(loss_of_logits) for _ in range(int(n))]}


def memory():
    return {"peak": peak_memory()}


def forget_memory():
    forget_peak_memory()
    return {}


def gradients(folder):
    """Write the weights and the gradients of one loss without dropout, for the others."""
    model.eval()
    loss = fused_loss()
    loss.backward()
    for name, parameter in model.named_parameters():
        np.save(Path(folder, f"{name}.weight.npy"), parameter.array)
        np.save(Path(folder, f"{name}.gradient.npy"), parameter.grad)
    optimiser.zero_grad()
    model.train()
    return {"loss": loss.item()}


def library():
    """What multiplies, and what runs the threads."""
    import numba

    from tricycle_autograd import gemm_tile

    product = f"own product, {gemm_tile.LANES} lanes"
    layer = f"numba {numba.threading_layer()}, {numba.get_num_threads()} threads"
    return {"library": f"{product}; {layer}"}


obey(steps, steps_of_logits, memory, forget_memory, gradients, library)
