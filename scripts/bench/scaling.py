"""Does a step's time grow no faster than its arithmetic?  Against batch, context, width and depth.

    hatch run bench scaling.py [--steps 5]

One of the sizes of a small GPT is doubled again and again, the others stay.  Printed are, for each
model, the multiplications and additions of a training step (forward and backward, by the formula
below), the time of the shortest step, and nanoseconds for a thousand of those operations: if that
falls or stays, the time grows as the arithmetic does, or more slowly.  The last line of each table
is the exponent between its ends, log(time) by log(arithmetic): 1 is in step, above 1 is worse.

The arithmetic of a step of N tokens is 6·N for each number in a matrix that is multiplied with,
and for attention 6·2·layers·width·N times what a token sees on average, (context + 1) / 2.
Times are those of one process.  Where other programs use the machine, TRICYCLE_NUM_THREADS=1 in
front counts the processor's time instead of the clock's.
"""

import argparse
import math
import time
from dataclasses import replace

from step_recipe import BETAS, LEARNING_RATE, MAX_NORM, WEIGHT_DECAY, draw_batch

from tricycle_autograd.threads import number_of_threads
from tricycle_gpt import GPT, GPTConfig
from tricycle_nn import AdamW, clip_scale, default_groups

START = GPTConfig(vocab_size=256, context_window=64, embedding_dim=128, n_layers=2, n_heads=4)
BATCH = 4
DOUBLINGS = {"batch": 4, "context_window": 4, "embedding_dim": 3, "n_layers": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5, help="timed for each model")
    options = parser.parse_args()
    threads = number_of_threads()[0]
    clock = time.thread_time if threads == 1 else time.perf_counter
    print(f"{threads} threads; start: {BATCH} windows, {START}")
    for size, doublings in DOUBLINGS.items():
        print(f"\n{size:>16}{'GFLOP a step':>14}{'ms a step':>11}{'ns for 1,000':>14}")
        points = []
        for doubling in range(doublings + 1):
            config, batch, value = grown(size, 2**doubling)
            flops = arithmetic(config, batch)
            seconds = shortest_step(config, batch, options.steps, clock)
            points.append((flops, seconds))
            print(
                f"{value:16}{flops / 1e9:14.2f}{seconds * 1e3:11.1f}{seconds / flops * 1e12:14.1f}"
            )
        (least, shortest), (most, longest) = points[0], points[-1]
        exponent = math.log(longest / shortest) / math.log(most / least)
        print(f"{'exponent':>16}{exponent:39.2f}", flush=True)


def grown(size: str, factor: int) -> tuple[GPTConfig, int, int]:
    """The model and the batch with one size so many times as large; and that size."""
    if size == "batch":
        return START, BATCH * factor, BATCH * factor
    changes = {size: getattr(START, size) * factor}
    if size == "embedding_dim":  # heads stay as wide as they are
        changes["n_heads"] = START.n_heads * factor
    return replace(START, **changes), BATCH, changes[size]


def arithmetic(config: GPTConfig, batch: int) -> int:
    """Multiplications and additions of a training step."""
    C, T, tokens = config.embedding_dim, config.context_window, batch * config.context_window
    multiplied = config.n_layers * 12 * C * C + config.vocab_size * C
    return 6 * tokens * multiplied + 6 * tokens * config.n_layers * C * (T + 1)


def shortest_step(config: GPTConfig, batch: int, steps: int, clock) -> float:
    """Seconds of the shortest of some steps, after two that load kernels and touch memory."""
    import numpy as np

    model = GPT(config, rng=np.random.default_rng(0))
    parameters = model.parameters()
    optimiser = AdamW(default_groups(model, WEIGHT_DECAY), LEARNING_RATE, betas=BETAS)
    ids, targets = draw_batch(config, batch)
    seconds = []
    for _ in range(steps + 2):
        start = clock()
        model.loss(ids, targets).backward()
        optimiser.step(grad_scale=clip_scale(parameters, MAX_NORM))
        optimiser.zero_grad()
        seconds.append(clock() - start)
    return min(seconds[2:])


if __name__ == "__main__":
    main()
