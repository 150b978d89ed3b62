"""Training: it learns, it repeats itself exactly, and it can be stopped anywhere."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tricycle_gpt import GPT, TrainingConfig, load_newest_checkpoint, read_metrics, train
from tricycle_gpt.optimiser import make_optimiser
from tricycle_gpt.training import accumulate_gradients
from tricycle_nn import gradient_norm

KILLS = 200 if os.environ.get("TRICYCLE_TEST_LONG") == "1" else 20


class Stream:
    """Batches from a fixed text, with a position: the smallest source there can be."""

    def __init__(self, ids, batch_size, length, position=(0, 0)):
        self.ids, self.batch_size, self.length, self.position = ids, batch_size, length, position

    def __iter__(self):
        while True:
            rng = np.random.default_rng([7, self.position[1]])
            starts = rng.integers(0, len(self.ids) - self.length, self.batch_size)
            self.position = (0, self.position[1] + 1)
            block = np.stack([self.ids[s : s + self.length + 1] for s in starts])
            yield block[:, :-1], block[:, 1:]


def text(n=400):
    return np.tile(np.arange(20), n // 20 + 1)[:n]


def settings(**changes):
    fast = {"steps": 30, "batch_size": 4, "warmup": 3, "learning_rate": 1e-2, "checkpoint_every": 7}
    return TrainingConfig(**{**fast, "evaluate_every": 10, **changes})


def run(folder, model, config=None, **options):
    config = config or settings()
    stream = Stream(text(), config.batch_size, 16)
    return train(model, stream, config, folder, validation=text(100), **options)


@pytest.mark.parametrize("kind", ["gpt2", "llama, grouped, qk-norm"])
def test_muon_has_the_matrices_of_the_blocks_and_adamw_the_rest(make_tiny, kind):
    model = make_tiny(kind)
    optimiser = make_optimiser(model, settings(optimiser="muon", learning_rate=2e-2))
    held = [p for group in optimiser.groups for p in group.arena.tensors]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    muon, adamw = optimiser.optimisers
    assert all(p.ndim == 2 for group in muon.groups for p in group.arena.tensors)
    assert model.token_embedding.weight in adamw.groups[0].arena.tensors

    ids = np.random.default_rng(0).integers(0, 23, (4, 9))
    losses = []
    for _ in range(30):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_one_batch_is_learned_by_heart(model):
    # No token twice in a row of them: "a" and "a a" are one context to rotary attention.
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(23)[:17] for _ in range(2)])
    optimiser = make_optimiser(model, settings(learning_rate=1e-2, weight_decay=0.0))
    losses = []
    for _ in range(150):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[0] > 2.9  # ln 23 = 3.14
    assert losses[-1] < 0.02


def test_the_loss_falls_and_is_written_down(tmp_path, make_tiny):
    result = run(tmp_path, make_tiny())
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert result.finished
    assert result.steps == 30
    assert [row["step"] for row in rows] == list(range(31))
    assert rows[0]["loss"] > 2.9
    assert rows[29]["loss"] < 0.5 * rows[0]["loss"]
    assert [row["step"] for row in rows if "validation_loss" in row] == [9, 19, 30]
    assert rows[-1]["validation_loss"] == result.evaluation.loss
    assert rows[0]["learning_rate"] == 1e-2 / 4
    assert rows[29]["learning_rate"] == 1e-4


def test_two_runs_with_one_seed_give_equal_bits(tmp_path, make_tiny):
    for name in ("first", "second"):
        run(tmp_path / name, make_tiny(dropout=0.1))
    assert weights_in(tmp_path / "first") == weights_in(tmp_path / "second")


def test_a_gradient_that_was_there_before_is_not_trained_on(tmp_path, make_tiny):
    run(tmp_path / "fresh", make_tiny())
    model = make_tiny()
    model.loss(text(10)[None], text(10)[None]).backward()
    run(tmp_path / "looked at", model)
    assert weights_in(tmp_path / "fresh") == weights_in(tmp_path / "looked at")


def test_accumulated_gradients_are_those_of_the_large_batch(model):
    ids = np.random.default_rng(0).integers(0, 23, (6, 17))
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    whole = [p.grad.copy() for p in model.parameters()]
    model.zero_grad()
    parts = iter([(ids[i : i + 2, :-1], ids[i : i + 2, 1:]) for i in (0, 2, 4)])
    accumulate_gradients(model, parts, 3)
    largest = max(np.abs(gradient).max() for gradient in whole)
    for expected, parameter in zip(whole, model.parameters(), strict=True):
        np.testing.assert_allclose(parameter.grad, expected, rtol=0, atol=1e-6 * largest)


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tmp_path, make_tiny):
    run(tmp_path / "whole", make_tiny(dropout=0.1))
    interrupt_after(tmp_path / "parts", make_tiny(dropout=0.1), steps=11)
    assert load_newest_checkpoint(tmp_path / "parts" / "checkpoints").step == 11
    run(tmp_path / "parts", make_tiny(dropout=0.1), resume=True)
    assert weights_in(tmp_path / "whole") == weights_in(tmp_path / "parts")
    assert losses_in(tmp_path / "whole") == losses_in(tmp_path / "parts")


def test_a_resumed_run_drops_the_same_numbers_whatever_its_model_was_made_from(tmp_path, make_tiny):
    run(tmp_path / "whole", make_tiny(dropout=0.1))
    interrupt_after(tmp_path / "parts", make_tiny(dropout=0.1), steps=11)
    run(tmp_path / "parts", make_tiny(dropout=0.1, seed=99), resume=True)
    assert weights_in(tmp_path / "whole") == weights_in(tmp_path / "parts")


def interrupt_after(folder, model, steps):
    """Press Ctrl-C while step number `steps` is being made."""

    class Impatient(Stream):
        def __iter__(self):
            for i, batch in enumerate(super().__iter__(), 1):
                if i == steps:
                    os.kill(os.getpid(), signal.SIGINT)
                yield batch

    result = train(model, Impatient(text(), 4, 16), settings(), folder, validation=text(100))
    assert not result.finished
    assert result.steps == steps


def weights_in(folder):
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    return [(newest / name).read_bytes() for name in ("parameters.safetensors", "state.json")] + [
        (newest / "optimiser.safetensors").read_bytes()
    ]


def losses_in(folder):
    rows = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows]


PROGRAM = """
import sys, numpy as np
sys.path.insert(0, {tests!r})
from test_training import Stream, text, settings
from tricycle_gpt import GPT, GPTConfig, train
model = GPT(GPTConfig({sizes}, dropout=0.1), rng=np.random.default_rng(0))
config = settings(steps={steps}, checkpoint_every=3, evaluate_every=50)
print("ready", flush=True)
train(model, Stream(text(), {batch}), config, {folder!r}, validation=text(100), resume=True)
print("done", flush=True)
"""
SMALL = {"sizes": "23, 16, 16, n_layers=1, n_heads=2", "batch": "4, 16", "steps": 200}
# Large enough that every kernel cuts its work into pieces for several threads.
LARGE = {"sizes": "600, 64, 128, n_layers=2, n_heads=4", "batch": "8, 64", "steps": 4}


def start(folder, run=SMALL, **variables):
    program = PROGRAM.format(tests=os.path.dirname(__file__), folder=str(folder), **run)
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **variables},
    )


def test_killed_at_any_moment_it_ends_up_at_the_same_bits(tmp_path):
    undisturbed = start(tmp_path / "whole")
    began = time.time()
    assert undisturbed.stdout.readline() == "ready\n"
    assert undisturbed.stdout.readline() == "done\n", "the undisturbed run failed"
    undisturbed.wait()
    length = time.time() - began

    rng = np.random.default_rng(0)
    for _ in range(KILLS):
        process = start(tmp_path / "killed")
        process.stdout.readline()
        # Most of a run, cut into so many pieces that it cannot end before the last of them.
        time.sleep(float(rng.uniform(0, 1.5 * length / KILLS)))
        process.kill()
        process.wait()
        process.stdout.close()
    last = start(tmp_path / "killed")
    assert last.communicate()[0] == "ready\ndone\n", "the run could not go on"
    assert weights_in(tmp_path / "whole") == weights_in(tmp_path / "killed")
    assert losses_in(tmp_path / "whole") == losses_in(tmp_path / "killed")


def test_any_number_of_threads_gives_the_same_bits(tmp_path):
    for threads in ("1", "2", "4"):
        process = start(tmp_path / threads, LARGE, NUMBA_NUM_THREADS=threads)
        assert process.communicate()[0] == "ready\ndone\n"
    one, two, four = (weights_in(tmp_path / threads) for threads in ("1", "2", "4"))
    assert one == two
    assert one == four


def test_a_folder_with_a_run_is_not_written_over(tmp_path, make_tiny):
    run(tmp_path, make_tiny())
    with pytest.raises(ValueError, match="reached step 30: add --resume"):
        run(tmp_path, make_tiny())


def test_a_run_with_other_settings_is_not_continued(tmp_path, make_tiny):
    run(tmp_path, make_tiny())
    other = settings(steps=60, learning_rate=2e-2)
    with pytest.raises(
        ValueError, match=r"training.learning_rate was 0.01, is 0.02; .*steps was 30"
    ):
        run(tmp_path, make_tiny(), other, resume=True)


def test_settings_that_do_not_touch_the_weights_may_change(tmp_path, make_tiny):
    run(tmp_path, make_tiny())
    assert run(
        tmp_path, make_tiny(), settings(log_every=3, keep_checkpoints=1), resume=True
    ).finished


def test_when_the_loss_is_no_number_the_weights_stay_as_they_were(tmp_path, make_tiny):
    model = make_tiny()
    model.norm.weight.array[3] = np.nan
    before = {name: array.copy() for name, array in model.state_dict().items()}
    with pytest.raises(FloatingPointError, match="at step 0 the loss is nan"):
        run(tmp_path, model)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_long_gradients_are_shortened(tmp_path, make_tiny):
    run(tmp_path, make_tiny(), settings(steps=1, max_gradient_norm=1e-3, warmup=0))
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["gradient_norm"] > 0.1
    # After one step the first moments are 1 - beta1 = 0.1 of the gradient that AdamW was given.
    state = load_newest_checkpoint(tmp_path / "checkpoints").optimiser
    moments = [array for name, array in state.items() if name.endswith("first_moment")]
    length = np.sqrt(sum((moment.astype(np.float64) ** 2).sum() for moment in moments))
    assert length == pytest.approx(0.1 * 1e-3, rel=1e-4)


def test_plain_lines_where_there_is_no_terminal(tmp_path, make_tiny, capsys):
    run(tmp_path, make_tiny(), settings(log_every=10))
    lines = capsys.readouterr().err.splitlines()
    steps = [line for line in lines if line.startswith("step ") and "/30" in line]
    assert [line.split()[1] for line in steps] == ["1/30", "10/30", "20/30", "30/30"]
    assert "tokens/s" in steps[1]
    assert "left" in steps[1]
    assert any("validation loss" in line for line in lines)


def test_metrics_are_json_lines(tmp_path, make_tiny):
    run(tmp_path, make_tiny())
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert "step" in json.loads(line)


def test_training_needs_no_validation_text(tmp_path, make_tiny):
    result = train(make_tiny(), Stream(text(), 4, 16), settings(), tmp_path)
    assert result.evaluation is None
    assert result.finished


def test_the_gradient_is_gone_after_a_run(tmp_path, make_tiny):
    model = make_tiny()
    assert isinstance(model, GPT)
    run(tmp_path, model)
    assert gradient_norm(model.parameters()) == 0


class Notebook:
    """A tracker that remembers."""

    def __init__(self, run_id):
        self.run_id, self.begun, self.rows, self.ended = run_id, [], [], []

    def begin(self, recipe, run_id=None):
        self.begun.append((recipe["training.steps"], run_id))

    def log(self, row):
        self.rows.append(row)

    def end(self, status):
        self.ended.append(status)


def test_a_tracker_is_told_every_row_and_a_resumed_run_is_the_same_run(tmp_path, make_tiny):
    first = Notebook("abc")
    run(tmp_path, make_tiny(), tracker=first)
    assert first.begun == [(30, None)]
    assert first.rows == read_metrics(tmp_path / "metrics.jsonl")
    assert first.ended == []  # whoever called may have more to tell
    again = Notebook(None)
    run(tmp_path, make_tiny(), tracker=again, resume=True)
    assert again.begun == [(30, "abc")]


def test_a_tracker_is_told_that_a_run_failed(tmp_path, make_tiny):
    model, tracker = make_tiny(), Notebook("abc")
    model.norm.weight.array[3] = np.nan
    with pytest.raises(FloatingPointError, match="norm.weight are not finite"):
        run(tmp_path, model, tracker=tracker)
    assert tracker.ended == ["failed"]
