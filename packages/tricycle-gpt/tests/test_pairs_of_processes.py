"""Two processes started for one folder, again and again, and killed: no run is lost or mixed."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from tricycle_gpt import load_newest_checkpoint
from tricycle_gpt.runs.checkpoint import list_checkpoints

pytestmark = pytest.mark.slow  # it starts many processes

PAIRS = 24 if os.environ.get("TRICYCLE_TEST_LONG") == "1" else 2
STEPS = 60 * PAIRS

PROGRAM = """
import sys, time, numpy as np
sys.path.insert(0, {tests!r})
from small_runs import Stream, text, settings
from tricycle_gpt import GPT, GPTConfig, train
class Slow(Stream):
    def __iter__(self):
        for batch in super().__iter__():
            time.sleep({pause})
            yield batch
model = GPT(GPTConfig(23, 16, 16, n_layers=1, n_heads=2, dropout=0.1), rng=np.random.default_rng(0))
config = settings(steps={steps}, checkpoint_every=3, evaluate_every=0, keep_checkpoints={keep})
train(model, Slow(text(), 4, 16), config, {folder!r}, resume=True)
"""


def start(folder, pause=0.02, keep=2):
    program = PROGRAM.format(
        tests=os.path.dirname(__file__), folder=str(folder), pause=pause, keep=keep, steps=STEPS
    )
    words = [sys.executable, "-c", program]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def newest(folder):
    """The step of the newest checkpoint in a run's folder; 0 for none."""
    return max(
        (int(path.name[5:13]) for path in list_checkpoints(folder / "checkpoints")), default=0
    )


def the_refused_and_the_other(pair):
    """Wait until one of two processes has ended."""
    while True:
        for process, other in (pair, pair[::-1]):
            if process.poll() is not None:
                return process, other
        time.sleep(0.05)


def test_of_two_processes_in_one_folder_one_is_refused_and_nothing_is_lost_or_mixed(tmp_path):
    whole = start(tmp_path / "whole", pause=0, keep=STEPS)
    assert whole.wait() == 0, whole.communicate()[1]
    whole.communicate()
    rng = np.random.default_rng(0)
    reached = 0
    for _ in range(PAIRS):
        refused, holder = the_refused_and_the_other([start(tmp_path / "run") for _ in range(2)])
        assert "is in use: " in refused.communicate()[1]  # of whom, it may be too early to tell
        assert refused.returncode == 1
        while newest(tmp_path / "run") <= reached and holder.poll() is None:
            time.sleep(0.02)
        time.sleep(float(rng.uniform(0, 0.3)))
        holder.kill()
        holder.communicate()
        found = load_newest_checkpoint(tmp_path / "run" / "checkpoints")
        assert found is not None, "a run was lost"
        assert found.step > reached, "a checkpoint was lost"
        reached, name = found.step, f"step-{found.step:08d}"
        for arrays in (found.parameters, found.optimiser):
            assert all(np.isfinite(array).all() for array in arrays.values())
        for file in sorted((tmp_path / "whole" / "checkpoints" / name).iterdir()):
            ours = tmp_path / "run" / "checkpoints" / name / file.name
            assert ours.read_bytes() == file.read_bytes(), f"{name}/{file.name} is mixed"
    assert reached >= 3 * PAIRS
