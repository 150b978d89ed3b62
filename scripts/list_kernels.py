"""Write down which kernels a training step asks for: tricycle_gpt's kernels_*.txt.

    hatch run python scripts/list_kernels.py

Run it after kernels were added, or their arguments changed; a test says when.

Routines, which other kernels need while they are compiled, come last: the compiler that works
ahead begins at the end, and nothing should be compiled twice.
"""

import subprocess
import sys
from pathlib import Path

TRAINING_STEP = """
import importlib
import json
import sys
import numpy as np
from tricycle_autograd import compiling
from tricycle_autograd.machine_code import Routine
from tricycle_gpt import GPT, GPTConfig, TrainingConfig
from tricycle_gpt.runs.optimiser import make_optimiser
from tricycle_nn import clip_scale

block = sys.argv[1]
sizes = {"vocab_size": 65, "context_window": 64, "embedding_dim": 128, "n_layers": 4, "n_heads": 4}
config = GPTConfig(**sizes, block=block, qk_norm=block == "llama")
model = GPT(config, rng=np.random.default_rng(0))
optimiser = make_optimiser(model, TrainingConfig())
ids = np.random.default_rng(1).integers(0, 65, (12, 65))
for _ in range(2):
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    loss.backward()
    optimiser.step(clip_scale(model.parameters(), 1.0))
    optimiser.zero_grad()

def is_routine(request):
    called = json.loads(request)
    found = getattr(importlib.import_module(called["module"]), called["name"], None)
    return isinstance(found, Routine)

print("\\n".join(sorted(dict.fromkeys(compiling.service.asked_for), key=is_routine)))
"""
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "packages" / "tricycle-gpt" / "src" / "tricycle_gpt" / "runs"


def kernels_of(block: str) -> str:
    """A line for each kernel that training asks for, in the order of asking."""
    command = [sys.executable, "-c", TRAINING_STEP, block]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    for block in ("gpt2", "llama"):
        (FOLDER / f"kernels_{block}.txt").write_text(kernels_of(block), "utf-8")
