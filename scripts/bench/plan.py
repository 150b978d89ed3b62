"""Does a run take what its plan expected?

    hatch run bench plan.py                      three small runs made for the question
    hatch run bench plan.py runs/gpt2 runs/mine  what earlier runs left in their plan.json

Each row is a plan made in one process and the run made in another: the peak of its memory, and the
seconds of its steps.  The last row was given less memory than its batch takes, and runs as the
plan then proposed.  Memory must be expected to within 15 percent, and stay within what was given.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tricycle_gpt import GPT, GPTConfig, Plan, TrainingConfig, compare_with_plan, plan, train

SIZES = {
    "narrow": (GPTConfig(1024, 128, 128, 4, 4), TrainingConfig(steps=60, batch_size=8)),
    "wide": (GPTConfig(4096, 128, 256, 4, 4), TrainingConfig(steps=12, batch_size=16)),
    "long": (
        GPTConfig(1024, 512, 192, 4, 4, "llama"),
        TrainingConfig(steps=8, batch_size=8, optimiser="muon"),
    ),
    "short of memory": (
        GPTConfig(1024, 256, 128, 4, 4),
        TrainingConfig(steps=6, batch_size=48, checkpoint_every=2),
    ),
}
GIVEN = {"short of memory": 500_000_000}  # bytes; the batch asked for takes more


class RandomTokens:
    """Batches that need no text."""

    position = (0, 0)

    def __init__(self, model: GPTConfig, windows: int):
        self.shape, self.vocabulary = (windows, model.context_window + 1), model.vocab_size

    def __iter__(self):
        rng = np.random.default_rng(0)
        while True:
            ids = rng.integers(0, self.vocabulary, self.shape)
            yield ids[:, :-1], ids[:, 1:]


def answer(name: str, folder: str) -> None:
    """In a process of its own: plan, or run with the batches that were planned."""
    model, training = SIZES[name]
    path = Path(folder) / "planned.json"
    if not path.exists():
        planned = plan(model, training, available=GIVEN.get(name))
        path.write_text(json.dumps(vars(planned)))
        return
    found = json.loads(path.read_text())
    batches = {"batch_size": found["batch_size"], "micro_batches": found["micro_batches"]}
    training = TrainingConfig(**{**vars(training), **batches})
    network = GPT(model, rng=np.random.default_rng(0))
    train(network, RandomTokens(model, training.batch_size), training, folder)
    compare_with_plan(folder, Plan(**found))


def show(name: str, found: dict) -> float:
    """One row; the ratio of the memory it took to what was expected."""
    planned, took = found["planned"], found["took"]
    memory = took["memory"] / planned["memory"]
    seconds = planned["seconds"] * took["steps"] / planned["steps"]
    print(
        f"{name:20} {planned['batch_size']:3} x {planned['micro_batches']:<4}"
        f"{planned['memory'] / 1e6:8.0f} {took['memory'] / 1e6:8.0f} {memory:6.2f}"
        f"{seconds:10.1f} {took['seconds']:8.1f} {took['seconds'] / seconds:6.2f}"
    )
    return memory


def main() -> None:
    """Ask, and hold memory to its promise."""
    print(f"{'':32}memory, MB: expected, taken  steps, s: expected, taken")
    for folder in sys.argv[1:]:
        show(folder, json.loads((Path(folder) / "plan.json").read_text(encoding="utf-8")))
    if sys.argv[1:]:
        return
    for name in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, __file__, "--answer", name, folder]
            for _ in ("plan", "run"):
                subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
            found = json.loads((Path(folder) / "plan.json").read_text(encoding="utf-8"))
        ratio = show(name, found)
        assert 1 / 1.15 < ratio < 1.15, f"{name}: memory was not expected to within 15 percent"
        limit = GIVEN.get(name)
        assert limit is None or found["took"]["memory"] < limit, f"{name}: more than was given"
        assert limit is None or found["planned"]["batch_size"] < SIZES[name][1].batch_size


if __name__ == "__main__":
    if sys.argv[1:2] == ["--answer"]:
        answer(*sys.argv[2:])
    else:
        main()
