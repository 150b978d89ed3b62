"""A process of cpu_decode.py: ours writes greedily, with float32 weights or those of 8 or 4 bits.

    python decode_ours.py MODEL float32|8|4 FOLDER

With float32 it leaves in the folder what the others read: weights.npz and config.json, and, of a
model from a file, float32.gguf and Q8_0.gguf.  Obeys lines on its standard input, and answers each
with a line of JSON (see taking_turns.py).
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from decode_recipe import CONFIGURATIONS, PROMPT, model_of, prompt_of
from taking_turns import obey

from tricycle_autograd import cpu_math, no_grad
from tricycle_autograd.cpu import cpu_kernel, prange
from tricycle_bpe import Tokeniser
from tricycle_gpt import generate, quantise, read_gguf, to_gguf

name, kind, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
full = model_of(name)
prompt = prompt_of(name)
if kind == "float32":
    np.savez(folder / "weights.npz", **full.state_dict())
    recipe = {"config": asdict(full.config), "prompt": prompt.tolist()}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    if name not in CONFIGURATIONS:
        tokeniser = Tokeniser.from_gguf(read_gguf(name).settings)
        to_gguf(full, folder / "float32.gguf", "F32", tokeniser)
        to_gguf(full, folder / "Q8_0.gguf", "Q8_0", tokeniser)
weights = sum(parameter.array.nbytes for parameter in full.parameters())
model = full if kind == "float32" else quantise(full, int(kind))
model.eval()
del full
memory = np.ones((1024, 2**17), np.float32)  # 512 MB, more than any cache
row_sum = cpu_math.row_sum


@cpu_kernel
def read(rows, sums):
    for i in prange(len(rows)):
        sums[i] = row_sum(rows[i])


def write(n):
    """Seconds of the prompt, seconds a token, of n behind the first, and their ids."""
    words = generate(model, prompt, int(n) + 1, temperature=0)
    start = time.perf_counter()
    first = next(words)
    then = time.perf_counter()
    ids = list(words)
    assert len(ids) == int(n), "the text ended"
    seconds = (time.perf_counter() - then) / len(ids)
    return {"prompt": then - start, "seconds": seconds, "ids": [first, *ids]}


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
    config = model.config
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
