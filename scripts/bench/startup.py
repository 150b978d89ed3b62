"""How long until something happens?  Importing each package, and the first training step.

    hatch run bench startup.py

Imports: each package in a process of its own, beside a Python that imports nothing; the median of
five.  First step: from the start of a process to the end of one training step of nanoGPT's model
for a CPU, once with an empty kernel cache (everything is compiled) and then, the median of three,
with the cache that this left.

The limits are for wall time on a machine that does nothing else.  The CPU time beside it (all
threads) hardly depends on what else is running: compare that where a machine is shared.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

PACKAGES = (
    "tricycle_autograd",
    "tricycle_nn",
    "tricycle_bpe",
    "tricycle_datasets",
    "tricycle_gpt",
)
IMPORT_LIMIT = 0.6  # seconds
FIRST_STEP_LIMIT = 1.5

FIRST_STEP = """
import numpy as np
from tricycle_gpt import GPT, PRESETS
from tricycle_nn import AdamW, clip_scale, default_groups

model = GPT(PRESETS["characters"], rng=np.random.default_rng(0))
optimiser = AdamW(default_groups(model, 0.1), 1e-3, betas=(0.9, 0.99))
ids = np.random.default_rng(1).integers(0, 65, (12, 65))
loss = model.loss(ids[:, :-1], ids[:, 1:])
loss.backward()
optimiser.step(grad_scale=clip_scale(model.parameters(), 1.0))
"""


def main() -> None:
    print(f"{'':30} wall s   CPU s")
    measure("python alone", 5, "pass")
    for package in PACKAGES:
        importing = measure(f"import {package}", 5, f"import {package}")  # the last is tricycle_gpt
    with tempfile.TemporaryDirectory() as cache:
        measure("first step, all compiled", 1, FIRST_STEP, cache)
        first_step = measure("first step, kernels cached", 3, FIRST_STEP, cache)
    for claim, took, limit in (
        ("import tricycle_gpt", importing, IMPORT_LIMIT),
        ("first step, kernels cached", first_step, FIRST_STEP_LIMIT),
    ):
        print(f"{'holds' if took <= limit else 'FAILS'}  {claim} within {limit} s")


def measure(name: str, times: int, code: str, cache: str | None = None) -> float:
    """Print the median wall and CPU seconds of processes that run `code`; returns the wall."""
    environment = os.environ | ({"TRICYCLE_CACHE": cache} if cache else {})
    walls, cpus = [], []
    for _ in range(times):
        wall, cpu = time.perf_counter(), cpu_of_children()
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        walls.append(time.perf_counter() - wall)
        cpus.append(cpu_of_children() - cpu)
    print(f"{name:30} {statistics.median(walls):6.2f}  {statistics.median(cpus):6.2f}", flush=True)
    return statistics.median(walls)


def cpu_of_children() -> float:
    """CPU seconds of all processes that this one has started and seen end."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
