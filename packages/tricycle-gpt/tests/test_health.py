"""Bad steps: judged before the weights move, explained, and run again from a file."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tricycle_autograd import tape
from tricycle_gpt import TrainingConfig, read_metrics, train
from tricycle_gpt.diagnosis import first_bad_operation, load_batches
from tricycle_gpt.health import PATIENCE, Health

IDS = np.tile(np.arange(20), 40)


class Stream:
    """Batches that call `before(step)` first."""

    def __init__(self, before=lambda step: None):
        self.before, self.position = before, (0, 0)

    def __iter__(self):
        while True:
            step = self.position[1]
            self.before(step)
            starts = np.random.default_rng([7, step]).integers(0, 700, 4)
            self.position = (0, step + 1)
            block = np.stack([IDS[s : s + 17] for s in starts])
            yield block[:, :-1], block[:, 1:]


def settings(**changes):
    return TrainingConfig(**{"steps": 6, "warmup": 1, "batch_size": 4, **changes})


def weights(model):
    return {name: array.tobytes() for name, array in model.state_dict().items()}


def test_a_spike_is_counted_in_deviations():
    health = Health(settings(spikes="skip", spike_z=6.0), [1.0, 3.0] * 20)
    assert health.z_score(2.0) == 0
    assert health.z_score(5.0) == 3.0  # mean 2, deviation 1
    assert health.judge(7.9, 1.0)[0] == "go"
    assert Health(settings(spikes="skip"), [1.0, 3.0] * 20).judge(8.1, 1.0)[0] == "skip"


@pytest.mark.parametrize("policy", ["off", "warn", "skip", "stop"])
def test_each_policy_says_what_it_does(policy):
    action, reason = Health(settings(spikes=policy), [1.0, 3.0] * 20).judge(100.0, 1.0)
    assert action == {"off": "go"}.get(policy, policy)
    assert ("jumped to 100.000" in reason) == (policy != "off")


def test_few_losses_judge_nothing():
    assert Health(settings(spikes="stop"), [1.0] * 19).judge(100.0, 1.0) == ("go", "")


def test_leaving_out_step_after_step_is_not_training():
    health = Health(settings(when_not_finite="skip"))
    for _ in range(PATIENCE):
        assert health.judge(float("nan"), 1.0)[0] == "skip"
    action, reason = health.judge(float("nan"), 1.0)
    assert action == "stop"
    assert "10 steps in a row" in reason


def poison_mlp(model, at):
    """Make one layer's result infinite in step `at` alone, as an overflow would."""
    layer = model.blocks[1].mlp.down
    forward = layer.forward
    poisoned = []

    def overflowing(x):
        return forward(x) * np.inf if poisoned else forward(x)

    layer.forward = overflowing

    def before(step):
        poisoned[:] = [True] if step == at else []

    return before


def test_a_step_that_is_no_number_is_left_out_and_explained(tmp_path, make_tiny, capsys):
    model = make_tiny()
    stream = Stream(poison_mlp(model, 3))
    assert train(model, stream, settings(when_not_finite="skip"), tmp_path).finished
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert ["loss" in row for row in rows] == [True, True, True, False, True, True]
    assert rows[3]["unusual"].startswith("skip: the loss is nan")
    said = capsys.readouterr().err
    assert "step 4 is left out; its batches are in" in said
    assert "the result of multiply" in said
    assert "in blocks.1.mlp" in said
    assert "shape (4, 16, 16)" in said
    assert tape.watcher is None
    assert all(np.isfinite(array).all() for array in model.state_dict().values())


def test_the_batches_of_a_bad_step_can_be_run_again(tmp_path, make_tiny):
    model = make_tiny(dropout=0.1)
    before = poison_mlp(model, 3)
    with pytest.raises(FloatingPointError, match="the result of multiply"):
        train(model, Stream(before), settings(micro_batches=2), tmp_path)
    batches, dropout_step = load_batches(tmp_path / "bad-step-00000001.safetensors")
    assert dropout_step == 2
    assert len(batches) == 2
    untouched = weights(model)
    before(3)
    assert "in blocks.1.mlp" in first_bad_operation(model, batches, dropout_step)
    before(0)
    assert "every operation was finite" in first_bad_operation(model, batches, dropout_step)
    assert weights(model) == untouched


def test_bad_weights_are_named(make_tiny):
    model = make_tiny()
    model.blocks[0].mlp.up.weight.array[0, 0] = np.nan
    found = first_bad_operation(model, [(IDS[None, :16], IDS[None, 1:17])], 0)
    assert found == "the weights blocks.0.mlp.up.weight are not finite themselves"


def test_a_bad_gradient_is_named_where_it_arises(make_tiny):
    model = make_tiny()
    norm = model.norm
    forward = norm.forward

    def bad_backward(x):
        from tricycle_autograd import record

        y = forward(x)
        return record(y.array, (y,), lambda dy: (dy * np.nan,))

    norm.forward = bad_backward
    found = first_bad_operation(model, [(IDS[None, :16], IDS[None, 1:17])], 0)
    assert "a gradient of record in norm" in found


HANGING = """
import time
from tricycle_gpt.watchdog import Watchdog
with Watchdog(0.2) as dog:
    dog.alive()
    def a_disk_that_does_not_answer():
        time.sleep(1.0)
    a_disk_that_does_not_answer()
print("went on")
"""


def test_a_step_that_hangs_shows_its_stack_and_may_go_on():
    words = [sys.executable, "-c", HANGING]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ)
    assert "a_disk_that_does_not_answer" in done.stderr
    assert done.stdout == "went on\n"
