"""What does recomputation cost, and what does it save?

    hatch run bench recompute.py

A GPT as nanoGPT trains it (6 layers, 6 heads, 384 wide, context 256, vocabulary 1,024) at two
batch sizes, with and without `model.recompute`, each in a process of its own: the median of
five steps (forward, backward, clip, AdamW), and how far memory rose above what the process had
when model and optimiser were made.  Losses of all steps must be equal, bit for bit.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

BATCHES = (4, 16)
STEPS = 5


def peak_megabytes(which: str) -> float:
    """VmRSS is what this process has now, VmHWM the most it had (Linux)."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(which))
    return int(line.split()[1]) / 1e3


def run(recompute: bool, batch: int) -> dict:
    """Train in this process; the losses, seconds a step, and megabytes."""
    import numpy as np

    from tricycle_gpt import GPT, GPTConfig
    from tricycle_nn import AdamW, clip_scale, default_groups

    config = GPTConfig(
        vocab_size=1024, context_window=256, embedding_dim=384, n_layers=6, n_heads=6
    )
    model = GPT(config, rng=np.random.default_rng(0))
    model.recompute = recompute
    optimiser = AdamW(default_groups(model, 0.1), 1e-3)
    ids = np.random.default_rng(1).integers(0, 1024, (batch, 257))

    def step():
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimiser.step(clip_scale(model.parameters(), 1.0))
        optimiser.zero_grad()
        return loss.item()

    small = GPT(config, rng=np.random.default_rng(0))  # loads the kernels
    small.loss(ids[:1, :-1], ids[:1, 1:]).backward()
    del small
    before = peak_megabytes("VmRSS")
    losses, seconds = [step()], []
    for _ in range(STEPS):
        start = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - start)
    risen = peak_megabytes("VmHWM") - before
    return {"losses": losses, "seconds": statistics.median(seconds), "megabytes": risen}


def main() -> None:
    print(f"{'batch':>5}{'':>14}{'ms a step':>11}{'MB':>8}")
    for batch in BATCHES:
        found = []
        for recompute in (False, True):
            arguments = [sys.executable, __file__, str(int(recompute)), str(batch)]
            output = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
            found.append(json.loads(output))
            name = "recomputing" if recompute else "keeping"
            ms, mb = found[-1]["seconds"] * 1e3, found[-1]["megabytes"]
            print(f"{batch:>5}{name:>14}{ms:>11.0f}{mb:>8.0f}", flush=True)
        assert found[0]["losses"] == found[1]["losses"], "recomputation changed the losses"
        kept, again = found
        seconds = again["seconds"] / kept["seconds"]
        memory = again["megabytes"] / kept["megabytes"]
        print(f"      {seconds:.2f} of the time, {memory:.2f} of the memory")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(run(bool(int(sys.argv[1])), int(sys.argv[2]))))
    else:
        main()
