"""A process of cpu_step.py: training steps of PyTorch, eager or compiled.

    python step_torch.py CONFIGURATION DROPOUT THREADS eager|compile

Obeys lines on its standard input, and answers each with a line of JSON (see taking_turns.py).
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
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
from torch_gpt import TorchGPT, like_ours, load_weights

config, batch, _ = CONFIGURATIONS[sys.argv[1]]
config = replace(config, dropout=float(sys.argv[2]))
torch.set_num_threads(int(sys.argv[3]))
torch.manual_seed(0)
model = TorchGPT(config)
parameters = list(model.parameters())
optimiser = torch.optim.AdamW(
    model.two_groups(WEIGHT_DECAY), LEARNING_RATE, betas=BETAS, fused=True
)
ids, targets = (torch.from_numpy(array) for array in draw_batch(config, batch))
make_loss = torch.compile(model.loss) if sys.argv[4] == "compile" else model.loss


def step():
    start = time.perf_counter()
    loss = make_loss(ids, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
    optimiser.step()
    optimiser.zero_grad()
    loss.item()
    return time.perf_counter() - start


def steps(n):
    return {"seconds": [step() for _ in range(int(n))]}


def memory():
    return {"peak": peak_memory()}


def forget_memory():
    forget_peak_memory()
    return {}


def gradients(folder):
    """With our weights: the loss, and the largest difference of any gradient from ours.

    For each parameter, relative to its largest gradient.
    """
    names = [name for name, _ in model.named_parameters()]
    load_weights(model, {n: np.load(Path(folder, f"{n}.weight.npy"), mmap_mode="r") for n in names})
    model.eval()
    loss = make_loss(ids, targets)
    loss.backward()
    worst = {}
    for name, parameter in model.named_parameters():
        ours = np.load(Path(folder, f"{name}.gradient.npy"), mmap_mode="r")
        theirs = like_ours(name, parameter.grad)
        worst[name] = float(abs(ours - theirs).max() / abs(theirs).max())
    name = max(worst, key=worst.__getitem__)
    return {"loss": loss.item(), "difference": worst[name], "where": name}


def library():
    """What multiplies, and what runs the threads."""
    blas = "MKL" if torch.backends.mkl.is_available() else "no MKL"
    openmp = "OpenMP" if torch.backends.openmp.is_available() else "no OpenMP"
    return {
        "library": f"torch {torch.__version__}, {blas}, oneDNN "
        f"{torch.backends.mkldnn.is_available()}; {openmp}, {torch.get_num_threads()} threads"
    }


obey(steps, memory, forget_memory, gradients, library)
