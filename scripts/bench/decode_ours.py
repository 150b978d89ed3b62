"""A process of cpu_decode.py: ours writes greedily, with float32 weights or those of 8 bits.

    python decode_ours.py CONFIGURATION float32|int8 WEIGHTS.npz

Obeys lines on its standard input, and answers each with a line of JSON (see taking_turns.py).
"""

import sys
import time

import numpy as np
from decode_recipe import CONFIGURATIONS, PROMPT, prompt_of
from taking_turns import obey

from tricycle_autograd import no_grad
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_gpt import GPT, generate, quantise

config = CONFIGURATIONS[sys.argv[1]]
full = GPT(config, rng=np.random.default_rng(0))
if sys.argv[2] == "float32":
    np.savez(sys.argv[3], **full.state_dict())
weights = sum(parameter.array.nbytes for parameter in full.parameters())
model = full if sys.argv[2] == "float32" else quantise(full)
model.eval()
prompt = prompt_of(config)
memory = np.ones((1024, 2**17), np.float32)  # 512 MB, more than any cache


@cpu_kernel
def read(rows, sums):
    for i in prange(len(rows)):
        sums[i] = sum_of(rows[i])


@cpu_function
def sum_of(row):
    total = np.float32(0)
    for j in range(row.size):
        total += row[j]
    return total


def write(n):
    """Seconds a token, of n behind the first, and their ids."""
    words = generate(model, prompt, int(n) + 1, temperature=0)
    first = next(words)
    start = time.perf_counter()
    ids = list(words)
    return {"seconds": (time.perf_counter() - start) / len(ids), "ids": [first, *ids]}


def bandwidth():
    """Bytes a second, read on all threads: the best of five passes over 512 MB."""
    sums, seconds = np.empty(len(memory), np.float32), []
    for _ in range(5):
        start = time.perf_counter()
        read(memory, sums)
        seconds.append(time.perf_counter() - start)
    return {"bytes": memory.nbytes / min(seconds)}


def size():
    return {"bytes": weights}


def prefill():
    """Tokens a second: a prompt that fills half the window, in one pass; and a forward pass."""
    long = np.random.default_rng(2).integers(0, config.vocab_size, config.context_window // 2)
    start = time.perf_counter()
    next(generate(model, long, 1, temperature=0))
    prompt_seconds = time.perf_counter() - start
    with no_grad():
        start = time.perf_counter()
        model.hidden(long[None])
        forward_seconds = time.perf_counter() - start
    return {"prompt": len(long) / prompt_seconds, "forward": len(long) / forward_seconds}


assert len(prompt) == PROMPT
obey(write, bandwidth, size, prefill)
