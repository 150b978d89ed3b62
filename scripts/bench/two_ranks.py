"""What do two ranks gain, what do they send, and how much of it is hidden behind the backward pass?

    hatch run bench two_ranks.py
    hatch run bench two_ranks.py 2     threads of each rank; the one rank alone has as many

The laptop preset of train-gpt2 (6 layers, 256 wide, context 256, vocabulary 4,096), 8 windows a
step, AdamW: by one rank, and by two that mpiexec starts on this machine, in turns, three times
each.  Two ranks on one machine share its memory, so what is measured is the machinery, not a
network: see docs/many_machines.md of tricycle-gpt for that.

- step: the median of the steps of a run; the median of the runs is shown
- sent: bytes from each rank to others in a step, beside the least there is, (n - 1)/n of the
  gradients and as much of the parameters
- sums: from the first bucket's start to the last one's end; hidden is the part of it that passed
  before the backward pass ended
- moving: the optimiser and the gathering of parameters
"""

import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from tricycle_gpt import GPT, GPTConfig, TrainingConfig, communicate
from tricycle_gpt.runs.data_parallel import DealtOptimiser, totals
from tricycle_gpt.runs.optimiser import make_optimiser
from tricycle_gpt.runs.step import divisors

MODEL = GPTConfig(vocab_size=4096, context_window=256, embedding_dim=256, n_layers=6, n_heads=8)
RECIPE = TrainingConfig(batch_size=8)
TURNS, STEPS, UNCOUNTED = 3, 8, 2


def answer() -> None:
    """On each rank: train for a few steps; rank 0 says what they took."""
    with communicate() as ranks:
        model = GPT(MODEL, rng=np.random.default_rng(0))
        optimiser = make_optimiser(model, RECIPE)
        dealt = None
        if ranks.size > 1:
            dealt = optimiser = DealtOptimiser(optimiser, model.parameters(), ranks)
        windows, batches = RECIPE.share(ranks.size)
        rng = np.random.default_rng(ranks.rank)
        found: dict[str, list[float]] = {name: [] for name in ("step", "sums", "hidden", "moving")}
        for step in range(UNCOUNTED + STEPS):
            shape = (batches, windows, MODEL.context_window + 1)
            ids = rng.integers(0, MODEL.vocab_size, shape)
            ranks.wait()  # begin together
            ranks.sent, began = 0, time.perf_counter()
            source = [(batch[:, :-1], batch[:, 1:]) for batch in ids]
            loss = 0.0
            for i, divisor in enumerate(divisors(source, ranks), 1):
                part = model.loss(*source[i - 1]) / divisor
                with dealt.summing() if dealt and i == batches else nullcontext():
                    part.backward()
                loss += part.item()
            totals(loss, optimiser, ranks)
            summed = time.perf_counter()
            optimiser.step()
            optimiser.zero_grad()
            ended = time.perf_counter()
            if step < UNCOUNTED:
                continue
            found["step"].append(ended - began)
            found["moving"].append(ended - summed)
            if dealt:
                first, last = dealt.timeline[0][0], dealt.timeline[-1][1]
                found["sums"].append(last - first)
                found["hidden"].append(min(dealt.walked, last) - first)
        if ranks.rank == 0:
            result = {name: statistics.median(values or [0.0]) for name, values in found.items()}
            least = 2 * (ranks.size - 1) / ranks.size * 4 * model.n_parameters()
            result |= {
                "sent": ranks.sent,
                "least": least,
                "buckets": len(dealt.buckets) if dealt else 0,
            }
            print(json.dumps(result))


def ask(ranks: int, threads: str) -> dict[str, float]:
    """One run of so many ranks."""
    words = [sys.executable, __file__, "--answer"]
    if ranks > 1:
        words = [str(Path(sys.executable).with_name("mpiexec")), "-n", str(ranks), *words]
    done = subprocess.run(
        words,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TRICYCLE_NUM_THREADS": threads},
    )
    return json.loads(done.stdout)


def main() -> None:
    """Ask one rank and two in turns, and print the medians."""
    threads = sys.argv[1] if sys.argv[1:] else "1"
    runs: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(TURNS):
        for ranks in runs:
            runs[ranks].append(ask(ranks, threads))
    print(
        f"{threads} threads a rank   step, ms   sent, MB (least)   sums, ms   hidden   moving, ms"
    )
    for ranks, found in runs.items():
        middle = {name: statistics.median(run[name] for run in found) for name in found[0]}
        hidden = middle["hidden"] / middle["sums"] if middle["sums"] else 0.0
        print(
            f"{ranks} ranks {1e3 * middle['step']:20.0f}"
            f"{middle['sent'] / 1e6:12.1f} ({middle['least'] / 1e6:4.1f})"
            f"{1e3 * middle['sums']:11.1f}{hidden:9.0%}{1e3 * middle['moving']:13.1f}"
        )
    ratios = [one["step"] / two["step"] for one, two in zip(runs[1], runs[2], strict=True)]
    print(f"two ranks are {statistics.median(ratios):.2f} times as fast as one")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--answer"]:
        answer()
    else:
        main()
