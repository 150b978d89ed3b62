"""How long until characters of Shakespeare are learned as well as nanoGPT's recipe does in torch?

    hatch run compat:bench shakespeare.py                      three seeds, about five minutes
    hatch run compat:bench shakespeare.py --seeds 1 --steps 200

Three runs for each seed, one after the other, each a process of its own:

    torch   nanoGPT's recipe for a CPU, in PyTorch                         shakespeare_torch.py
    ours    the same recipe in ours, to be read side by side with it       shakespeare_ours.py
    best    the same text, split and characters; all else as we like       shakespeare_best.py

The recipe: characters of tinyshakespeare, 4 layers, 4 heads, width 128, context 64, batches of 12,
AdamW from 1e-3 down to 1e-4 along a cosine, no dropout, 2,000 steps.  The measure: the loss on the
whole validation split, in windows that follow each other, as long as the model's context, mean of
the seeds; and the seconds of all training steps, with kernels compiled and without the evaluation.

    Does ours learn as well?       not worse than torch by more than 0.01, nor above 1.90
    Does it in less time?          in at most 0.67 of torch's
    Does the best recipe, too?     torch's loss or a lower one, in at most 0.35 of its time

With one seed, ours and torch start from the same weights, drawn by ours, and see the same batches,
so that the first losses must agree to 1e-4; from there rounding leads them apart.
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
from shakespeare_recipe import STEPS, WARMUP

HERE = Path(__file__).parent
ALLOWED_DIFFERENCE = 0.01
ALLOWED_LOSS = 1.90
ALLOWED_TIME = {"ours": 0.67, "best": 0.35}  # of torch's


def main() -> None:
    options = read_options()
    if find_spec("torch") is None:
        sys.exit("this comparison needs torch: hatch run compat:bench shakespeare.py")
    threads = options.threads or os.cpu_count()
    for name in ("OMP_NUM_THREADS", "TRICYCLE_NUM_THREADS"):  # torch's and ours, in both processes
        os.environ[name] = str(threads)
    print(f"{platform.machine()}, {threads} threads, {options.steps} steps", flush=True)
    runs = [compare(seed, options.steps) for seed in range(options.seeds)]
    sys.exit(0 if report(runs, whole=options.steps == STEPS) else 1)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help=f"steps of torch and ours (default {STEPS})"
    )
    parser.add_argument("--threads", type=int, help="threads of each (default: one a core)")
    options = parser.parse_args()
    least = WARMUP + 2  # so that there is a way down
    if options.steps < least or options.seeds < 1:
        parser.error(f"needs --steps of at least {least} and --seeds of at least 1")
    return options


def compare(seed: int, steps: int) -> dict[str, dict]:
    """The results of one seed, by name.  AssertionError if they are not comparable."""
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.npz")
        ours = run("ours", seed, steps, weights)
        theirs = run("torch", seed, steps, weights)
    best = run("best", seed)
    assert ours["data"] == theirs["data"] == best["data"], "they saw different texts or splits"
    assert ours["parameters"] == theirs["parameters"], "their models differ in size"
    assert abs(ours["first_loss"] - theirs["first_loss"]) < 1e-4, "their first losses differ"
    for result in (ours, best):
        assert abs(result["first_loss"] - math.log(65)) < 0.15, "it does not start at ln 65 = 4.174"
    return {"torch": theirs, "ours": ours, "best": best}


def run(name: str, seed: int, *arguments: object) -> dict:
    """One training run in a process of its own; what it prints last is its result, as JSON."""
    command = [sys.executable, HERE / f"shakespeare_{name}.py", *map(str, (seed, *arguments))]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(finished.stdout.splitlines()[-1])
    print(
        f"seed {seed}  {name:6}first loss {result['first_loss']:.4f}  "
        f"validation loss {result['loss']:.4f}  {result['seconds']:.1f} s",
        flush=True,
    )
    return result


def report(runs: list[dict[str, dict]], whole: bool) -> bool:
    """Print means and ratios; do all claims hold?  They are judged after `whole` runs only."""
    names = ("torch", "ours", "best")
    loss = {name: float(np.mean([run[name]["loss"] for run in runs])) for name in names}
    seconds = {name: sum(run[name]["seconds"] for run in runs) for name in names}
    share = {name: seconds[name] / seconds["torch"] for name in names}
    print("\n       validation loss   time / torch's")
    for name in names:
        print(f"{name:6} {loss[name]:15.4f}   {share[name]:14.3f}")
    if not whole:
        return True
    limit = min(loss["torch"] + ALLOWED_DIFFERENCE, ALLOWED_LOSS)
    claims = {
        f"the same recipe learns as well (at most {limit:.4f})": loss["ours"] <= limit,
        f"and in at most {ALLOWED_TIME['ours']} of the time": share["ours"] <= ALLOWED_TIME["ours"],
        "the best recipe reaches torch's loss": loss["best"] <= loss["torch"],
        f"and in at most {ALLOWED_TIME['best']} of the time": share["best"] <= ALLOWED_TIME["best"],
    }
    for claim, holds in claims.items():
        print(f"{claim:50} {'yes' if holds else 'NO'}")
    return all(claims.values())


if __name__ == "__main__":
    main()
