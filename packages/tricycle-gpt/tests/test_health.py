"""Bad steps: judged before the weights move, explained, and run again from a file."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tricycle_autograd import definitions_only
from tricycle_autograd.modes import current
from tricycle_gpt import TrainingConfig, read_metrics, train
from tricycle_gpt.runs import diagnosis
from tricycle_gpt.runs.diagnosis import first_bad_operation, load_batches
from tricycle_gpt.runs.health import PATIENCE, Health
from tricycle_gpt.runs.whole_files import write_arrays

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
    layer = model.blocks[1].mlp.dropout  # the last thing that an MLP calls
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
    assert current().observer is None
    assert all(np.isfinite(array).all() for array in model.state_dict().values())


def test_a_run_that_a_bad_step_stopped_goes_on_without_it(tmp_path, make_tiny):
    model = make_tiny()
    with pytest.raises(FloatingPointError, match="--resume --training.when-not-finite skip$"):
        train(model, Stream(poison_mlp(model, 3)), settings(checkpoint_every=2), tmp_path)
    model = make_tiny(seed=1)
    skipping = settings(when_not_finite="skip", checkpoint_every=2)
    assert train(model, Stream(poison_mlp(model, 3)), skipping, tmp_path, resume=True).finished
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert ["loss" in row for row in rows] == [True, True, True, False, True, True]


def test_a_resumed_run_remembers_how_many_steps_it_left_out(tmp_path, make_tiny):
    model = make_tiny()
    layer = model.blocks[1].mlp.dropout  # the last thing that an MLP calls
    forward, poisoned = layer.forward, []
    layer.forward = lambda x: forward(x) * np.inf if poisoned else forward(x)

    def before(step):
        poisoned[:] = [True] if step >= 2 else []

    config = settings(steps=16, when_not_finite="skip", checkpoint_every=4)
    for resume in (False, True):  # the checkpoint is that of ten steps left out, 2 to 11
        with pytest.raises(FloatingPointError, match="at step 13 .* after 10 steps in a row"):
            train(model, Stream(before), config, tmp_path, resume=resume)


@pytest.mark.parametrize("policy", ["warn", "skip", "stop"])
def test_a_spike_in_a_run_is_dealt_with_as_was_asked(tmp_path, make_tiny, policy, capsys):
    model = make_tiny()
    forward, spiking = model.norm.forward, []
    model.norm.forward = lambda x: forward(x) * 1000.0 if spiking else forward(x)
    seen = {}

    def before(step):
        spiking[:] = [True] if step == 24 else []
        seen[step] = weights(model)

    config = settings(steps=26, spikes=policy)
    if policy == "stop":
        advice = "in a run of its own; .*: --resume --training.spikes skip"
        with pytest.raises(FloatingPointError, match=f"at step 25 the loss jumped to.*{advice}"):
            train(model, Stream(before), config, tmp_path)
        assert weights(model) == seen[24]
    else:
        assert train(model, Stream(before), config, tmp_path).finished
        assert (seen[25] == seen[24]) == (policy == "skip")
        row = read_metrics(tmp_path / "metrics.jsonl")[24]
        assert row["unusual"].startswith(f"{policy}: the loss jumped to")
        assert ("loss" in row) == (policy == "warn")
        assert "step 25: the loss jumped to" in capsys.readouterr().err
    kept = tmp_path / "bad-step-00000025.safetensors"
    assert kept.exists() == (policy != "warn")


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # which is what it is about
def test_the_batches_of_a_bad_step_can_be_run_again(tmp_path, make_tiny):
    model = make_tiny(dropout=0.1)
    before = poison_mlp(model, 3)
    with pytest.raises(FloatingPointError, match="the result of multiply"):
        train(model, Stream(before), settings(micro_batches=2), tmp_path)
    batches, dropout_step = load_batches(tmp_path / "bad-step-00000002.safetensors")
    assert dropout_step == 2
    assert len(batches) == 2
    untouched = weights(model)
    before(3)
    assert "in blocks.1.mlp" in first_bad_operation(model, batches, dropout_step)
    before(0)
    assert "every operation was finite" in first_bad_operation(model, batches, dropout_step)
    assert weights(model) == untouched


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("disk", ["fine", "full"])
def test_a_bad_step_of_uneven_batches_is_told_as_any_other(tmp_path, make_tiny, monkeypatch, disk):
    model = make_tiny()
    model.blocks[0].mlp.up.weight.array[0, 0] = np.nan
    given = [(IDS[None, :n], IDS[None, 1 : n + 1]) for n in (16, 9)]
    if disk == "full":

        def full(*words, **options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(diagnosis, "write_arrays", full)
    with pytest.raises(FloatingPointError, match="the loss is nan.*up.weight") as raised:
        train(model, given, settings(micro_batches=2), tmp_path)
    if disk == "full":
        assert "its batches could not be kept ([Errno 28] No space" in str(raised.value)
    else:
        batches, _ = load_batches(tmp_path / "bad-step-00000001.safetensors")
        assert [part.tolist() for batch in batches for part in batch] == [
            part.tolist() for batch in given for part in batch
        ]


def test_batches_that_an_older_version_kept_are_read(tmp_path):
    block = np.arange(24).reshape(2, 3, 4)
    arrays = {"inputs": block, "targets": block + 1, "dropout_step": np.array(6)}
    write_arrays(tmp_path / "old.safetensors", arrays)
    batches, dropout_step = load_batches(tmp_path / "old.safetensors")
    assert dropout_step == 6
    assert [inputs.tolist() for inputs, _ in batches] == block.tolist()
    assert [targets.tolist() for _, targets in batches] == (block + 1).tolist()


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_bad_operation_is_found_where_definitions_run(make_tiny, dtype):
    model = make_tiny().to("cpu", dtype)
    batch = IDS[None, :16], IDS[None, 1:17]
    with definitions_only():
        assert "every operation was finite" in first_bad_operation(model, [batch], 0)
        poison_mlp(model, 3)(3)
        assert "in blocks.1.mlp" in first_bad_operation(model, [batch], 0)


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
import sys, time, numpy as np
sys.path.insert(0, {tests!r})
from test_health import Stream, settings
from tricycle_gpt import GPT, GPTConfig, train
def a_disk_that_does_not_answer(step):
    if step == 3:
        time.sleep(2.0)
model = GPT(GPTConfig(23, 16, 16, n_layers=1, n_heads=2), rng=np.random.default_rng(0))
model.loss(np.ones((4, 16), int), np.ones((4, 16), int)).backward()  # loads the kernels
stream = Stream(a_disk_that_does_not_answer)
print(train(model, stream, settings(hang_seconds={seconds}), {folder!r}).finished)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 0.0])
def test_a_step_that_hangs_shows_its_stack_and_may_go_on(tmp_path, seconds):
    tests = os.path.dirname(__file__)
    program = HANGING.format(tests=tests, folder=str(tmp_path), seconds=seconds)
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ)
    assert ("in a_disk_that_does_not_answer" in done.stderr) == (seconds > 0)
    assert done.stdout == "True\n"
