"""Does it learn as well as PyTorch?  nanoGPT's recipe for a CPU, in ours and in torch, in turn.

    hatch run compat:bench shakespeare.py                      three seeds, both, 2,000 steps
    hatch run compat:bench shakespeare.py --seeds 1 --steps 200

The recipe: characters of tinyshakespeare, 4 layers, 4 heads, width 128, context 64, batches of 12,
AdamW from 1e-3 down to 1e-4 along a cosine, no dropout.  The measure: the loss on the whole
validation split, in windows that follow each other, mean of the seeds.  Ours must not be worse
by more than 0.01, nor above 1.90 nats per character.

Each run is a process of its own: shakespeare_ours.py and shakespeare_torch.py, to be read side by
side.  With one seed both start from the same weights, drawn by ours, and see the same batches, so
that the first losses must agree to 1e-4; from there rounding leads them apart.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from shakespeare_recipe import WARMUP

HERE = Path(__file__).parent
ALLOWED_DIFFERENCE = 0.01
ALLOWED_LOSS = 1.90


def main() -> None:
    options = read_options()
    if find_spec("torch") is None:
        sys.exit("this comparison needs torch: hatch run compat:bench shakespeare.py")
    threads = options.threads or os.cpu_count()
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):  # torch's and ours, in both processes
        os.environ[name] = str(threads)
    print(f"{platform.machine()}, {threads} threads, {options.steps} steps", flush=True)
    pairs = [compare(seed, options.steps) for seed in range(options.seeds)]
    losses = {name: np.mean([pair[name]["loss"] for pair in pairs]) for name in ("ours", "torch")}
    seconds = {name: sum(pair[name]["seconds"] for pair in pairs) for name in ("ours", "torch")}
    difference = losses["ours"] - losses["torch"]
    print(f"\nmean loss     ours {losses['ours']:.4f}   torch {losses['torch']:.4f}")
    print(f"difference    {difference:+.4f} (at most {ALLOWED_DIFFERENCE:+})")
    print(f"time          ours / torch = {seconds['ours'] / seconds['torch']:.2f}")
    if options.steps == 2000:
        holds = difference <= ALLOWED_DIFFERENCE and losses["ours"] <= ALLOWED_LOSS
        print(f"learns as well, and reaches {ALLOWED_LOSS}: {'yes' if holds else 'NO'}")
        sys.exit(0 if holds else 1)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--steps", type=int, default=2000, help="steps of each (default 2000)")
    parser.add_argument("--threads", type=int, help="threads of each (default: one a core)")
    options = parser.parse_args()
    if options.steps <= WARMUP:
        parser.error(f"--steps must be above the {WARMUP} steps of the warmup")
    return options


def compare(seed: int, steps: int) -> dict[str, dict]:
    """Results of ours and of torch from one seed.  AssertionError if they are not comparable."""
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.npz")
        pair = {
            "ours": run("shakespeare_ours.py", seed, steps, weights),
            "torch": run("shakespeare_torch.py", seed, steps, weights),
        }
    ours, theirs = pair["ours"], pair["torch"]
    assert ours["data"] == theirs["data"], "they saw different texts or splits"
    assert ours["parameters"] == theirs["parameters"], "their models differ in size"
    assert abs(ours["first_loss"] - theirs["first_loss"]) < 1e-4, "their first losses differ"
    assert abs(ours["first_loss"] - math.log(65)) < 0.15, "they do not start at ln 65 = 4.174"
    return pair


def run(script: str, seed: int, steps: int, weights: str) -> dict:
    """One training run in a process of its own; what it prints last is its result, as JSON."""
    command = [sys.executable, HERE / script, str(seed), str(steps), weights]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(finished.stdout.splitlines()[-1])
    print(
        f"seed {seed}  {script.split('_')[1].removesuffix('.py'):6}"
        f"first loss {result['first_loss']:.4f}  validation loss {result['loss']:.4f}  "
        f"{result['seconds']:.1f} s",
        flush=True,
    )
    return result


if __name__ == "__main__":
    main()
