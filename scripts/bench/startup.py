"""How long until something happens?  Importing each package, and the first training step.

    hatch run bench startup.py

Imports: each package in a process of its own, beside a Python that imports nothing; the median of
five.  First step: from the start of a process to the end of one training step of nanoGPT's model
for a CPU, once with an empty kernel cache (everything is compiled) and then, the median of three,
with the cache that this left.
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
FIRST_STEP_LIMIT = 2.0

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
    nothing = median(5, "pass")
    print(f"python alone       {nothing:6.2f} s")
    imports = {package: median(5, f"import {package}") for package in PACKAGES}
    for package, took in imports.items():
        print(f"{package:18} {took:6.2f} s")
    report(f"import tricycle_gpt <= {IMPORT_LIMIT} s", imports["tricycle_gpt"] <= IMPORT_LIMIT)

    with tempfile.TemporaryDirectory() as cache:
        compiled = seconds(FIRST_STEP, cache)
        cached = statistics.median(seconds(FIRST_STEP, cache) for _ in range(3))
    print(f"first step, everything compiled   {compiled:6.2f} s")
    print(f"first step, kernels cached        {cached:6.2f} s")
    report(f"first step, cached <= {FIRST_STEP_LIMIT} s", cached <= FIRST_STEP_LIMIT)


def median(times: int, code: str) -> float:
    return statistics.median(seconds(code) for _ in range(times))


def seconds(code: str, cache: str | None = None) -> float:
    """From the start of a Python process that runs `code` to its end."""
    environment = os.environ | ({"TRICYCLE_CACHE": cache} if cache else {})
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return time.perf_counter() - began


def report(claim: str, holds: bool) -> None:
    print(f"{'holds' if holds else 'FAILS':6} {claim}", flush=True)


if __name__ == "__main__":
    main()
