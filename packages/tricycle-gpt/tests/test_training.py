"""Training: it learns, it repeats itself exactly, and it can be stopped anywhere."""

import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from small_runs import Stream, losses_in, run, settings, text, weights_in

from tricycle_autograd import definitions_only
from tricycle_gpt import (
    GPT,
    PRESETS,
    GPTConfig,
    generate,
    load_newest_checkpoint,
    read_metrics,
    save_checkpoint,
    train,
)
from tricycle_gpt.runs import picture
from tricycle_gpt.runs.optimiser import make_optimiser
from tricycle_gpt.runs.resuming import DECIDES_THE_BITS, NOT_THE_RECIPE
from tricycle_nn import clip_scale, gradient_norm

DEFINED_STEPS = 300 if os.environ.get("TRICYCLE_TEST_LONG") == "1" else 40


def test_the_speedruns_recipe_learns_in_a_small_model(tmp_path):
    small = {"vocab_size": 20, "context_window": 16, "embedding_dim": 16, "n_layers": 2}
    model = GPT(replace(PRESETS["speedrun"], **small, n_heads=2), rng=np.random.default_rng(0))
    names = {name for name, _ in model.named_parameters()}
    assert {"blocks.1.attention.query_norm.weight", "head_weight"} <= names
    muon = {"optimiser": "muon", "schedule": "warmup-stable-decay", "weight_decay": 0.0}
    result = run(tmp_path, model, settings(**muon, decay=15, final_learning_rate=0.0))
    assert result.finished
    rows = read_metrics(tmp_path / "metrics.jsonl")
    # Level at the peak until the way down begins, then a straight line to nothing.
    rates = [row["learning_rate"] for row in rows if "learning_rate" in row]
    assert rates[3:15] == [1e-2] * 12
    assert rates[22] == pytest.approx(1e-2 * 7 / 15)
    assert rates[29] == 0.0
    # Each token is followed by the next: from ln 20 = 3.0 to little.
    assert rows[0]["loss"] == pytest.approx(np.log(20), abs=0.1)
    assert result.evaluation.loss < 1.0


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


@pytest.mark.slow
def test_definitions_train_a_small_gpt_to_the_same_loss():
    config = GPTConfig(vocab_size=65, context_window=64, embedding_dim=128, n_layers=4, n_heads=4)
    steps = DEFINED_STEPS
    # A text with something to learn in it: each id is followed by one of three.
    rng = np.random.default_rng(1)
    ids = np.cumsum(rng.integers(1, 4, 20_000)) % 65

    def losses():
        model = GPT(config, rng=np.random.default_rng(0))
        optimiser = make_optimiser(model, settings(learning_rate=1e-3))
        batches = iter(Stream(ids, 12, 64))
        found = []
        for _ in range(steps):
            loss = model.loss(*next(batches))
            loss.backward()
            optimiser.step(clip_scale(model.parameters(), 1.0))
            optimiser.zero_grad()
            found.append(loss.item())
        return found

    fast = losses()
    with definitions_only():
        defined = losses()
    assert fast[0] > 4.1  # ln 65 = 4.17
    assert fast[-1] < (1.2 if steps >= 300 else 3.5)  # ln 3 = 1.10
    np.testing.assert_allclose(fast[:20], defined[:20], rtol=1e-4)
    # Rounding differs, and differences grow as both go their ways; where they end is the same.
    np.testing.assert_allclose(np.mean(fast[-20:]), np.mean(defined[-20:]), rtol=1e-3)


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


def counted(targets, *numbers):
    """Targets (B, T) of which each row counts the first few only."""
    alone = np.arange(targets.shape[1]) < np.array(numbers)[:, None]
    return np.where(alone, targets, -100)


class Given:
    """A source that has one step's batches, again and again."""

    def __init__(self, *batches):
        self.batches, self.position = batches, (0, 0)

    def __iter__(self):
        while True:
            yield from self.batches


@pytest.mark.parametrize("numbers", [(8, 1), (8, 8), (3, 0)])
def test_batches_of_one_step_weigh_as_many_tokens_as_they_count(tmp_path, make_tiny, numbers):
    ids = np.random.default_rng(0).integers(0, 23, (2, 9))
    inputs, targets = ids[:, :-1], counted(ids[:, 1:], *numbers)
    one = settings(steps=1, batch_size=2, warmup=0)
    train(make_tiny(), Given((inputs, targets)), one, tmp_path / "one batch")
    two = replace(one, batch_size=1, micro_batches=2)
    parts = Given((inputs[:1], targets[:1]), (inputs[1:], targets[1:]))
    train(make_tiny(), parts, two, tmp_path / "two batches")
    names = ("one batch", "two batches")
    whole, both = (read_metrics(tmp_path / name / "metrics.jsonl")[0] for name in names)
    assert both["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert both["gradient_norm"] == pytest.approx(whole["gradient_norm"], rel=1e-5)
    # After one step the first moments are 1 - beta1 of the gradient.
    states = [load_newest_checkpoint(tmp_path / name / "checkpoints").optimiser for name in names]
    for name, array in states[0].items():
        largest = np.abs(array).max()
        np.testing.assert_allclose(states[1][name], array, rtol=0, atol=1e-5 * largest)


def test_a_step_in_which_no_token_counts_has_a_loss_of_zero(tmp_path, make_tiny):
    ids = np.ones((1, 8), int)
    train(make_tiny(), Given((ids, counted(ids, 0))), settings(steps=1, warmup=0), tmp_path)
    row = read_metrics(tmp_path / "metrics.jsonl")[0]
    assert (row["loss"], row["gradient_norm"]) == (0.0, 0.0)


STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


@pytest.mark.parametrize("number", STOPS)
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tmp_path, make_tiny, number):
    run(tmp_path / "whole", make_tiny(dropout=0.1))
    interrupt_after(tmp_path / "parts", make_tiny(dropout=0.1), steps=11, number=number)
    assert load_newest_checkpoint(tmp_path / "parts" / "checkpoints").step == 11
    run(tmp_path / "parts", make_tiny(dropout=0.1), resume=True)
    assert weights_in(tmp_path / "whole") == weights_in(tmp_path / "parts")
    assert losses_in(tmp_path / "whole") == losses_in(tmp_path / "parts")


def test_a_resumed_run_drops_the_same_numbers_whatever_its_model_was_made_from(tmp_path, make_tiny):
    run(tmp_path / "whole", make_tiny(dropout=0.1))
    interrupt_after(tmp_path / "parts", make_tiny(dropout=0.1), steps=11)
    run(tmp_path / "parts", make_tiny(dropout=0.1, seed=99), resume=True)
    assert weights_in(tmp_path / "whole") == weights_in(tmp_path / "parts")


def interrupt_after(folder, model, steps, number=signal.SIGINT):
    """Press Ctrl-C, or send a signal, while step number `steps` is being made."""

    class Impatient(Stream):
        def __iter__(self):
            for i, batch in enumerate(super().__iter__(), 1):
                if i == steps:
                    os.kill(os.getpid(), number)
                yield batch

    result = train(model, Impatient(text(), 4, 16), settings(), folder, validation=text(100))
    assert not result.finished
    assert result.steps == steps


def test_the_last_look_at_the_text_is_ended_by_ctrl_c_at_once(tmp_path, make_tiny):
    class Impatient:
        ndim = 1

        def __len__(self):
            return 100

        def __getitem__(self, places):
            signal.raise_signal(signal.SIGINT)
            return text(100)[places]

    config = settings(steps=1, warmup=0)
    with pytest.raises(KeyboardInterrupt):
        train(make_tiny(), Stream(text(), 4, 16), config, tmp_path, validation=Impatient())
    assert load_newest_checkpoint(tmp_path / "checkpoints").step == 1


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
    for name in NOT_THE_RECIPE:  # each to something else
        value = getattr(settings(), name)
        words = {"stop": "skip", "off": "warn"}
        other = not value if isinstance(value, bool) else words.get(value, 3)
        changed = settings(**{name: other})
        assert changed != settings()
        assert run(tmp_path, make_tiny(), changed, resume=True).finished


def change_state(folder, **changes):
    """Save the newest checkpoint again, with other words in its state."""
    found = load_newest_checkpoint(folder / "checkpoints")
    save_checkpoint(
        folder / "checkpoints",
        found.step,
        found.parameters,
        found.optimiser,
        found.state | changes,
    )


def test_an_older_checkpoints_recipe_may_hold_what_has_left_it_since(tmp_path, make_tiny):
    run(tmp_path, make_tiny())
    recipe = load_newest_checkpoint(tmp_path / "checkpoints").state["recipe"]
    assert "training.spikes" not in recipe
    change_state(tmp_path, recipe=recipe | {"training.spikes": "warn", "training.spike_z": 2.0})
    assert run(tmp_path, make_tiny(), resume=True).finished
    change_state(tmp_path, recipe=recipe | {"training.unheard_of": 1})
    with pytest.raises(ValueError, match="training.unheard_of was 1, is None"):
        run(tmp_path, make_tiny(), resume=True)


def test_other_versions_are_said_and_go_on(tmp_path, make_tiny, capsys):
    run(tmp_path, make_tiny())
    state = load_newest_checkpoint(tmp_path / "checkpoints").state
    assert state["versions"].keys() == {"python", *DECIDES_THE_BITS}
    assert state["versions"]["numpy"] == np.__version__
    run(tmp_path, make_tiny(), resume=True)
    assert "other versions" not in capsys.readouterr().err
    change_state(tmp_path, versions=state["versions"] | {"numpy": "1.0"})
    assert run(tmp_path, make_tiny(), resume=True).finished
    said = capsys.readouterr().err
    assert f"written by other versions (numpy was 1.0, is {np.__version__}): the run" in said
    change_state(tmp_path, versions=None)  # as before they were written down
    run(tmp_path, make_tiny(), resume=True)
    assert "other versions" not in capsys.readouterr().err


def test_when_the_loss_is_no_number_the_weights_stay_as_they_were(tmp_path, make_tiny):
    model = make_tiny()
    model.norm.weight.array[3] = np.nan
    before = {name: array.copy() for name, array in model.state_dict().items()}
    with pytest.raises(FloatingPointError, match="at step 1 the loss is nan"):
        run(tmp_path, model)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_weights_that_are_no_numbers_end_a_run_that_leaves_bad_steps_out(tmp_path, make_tiny):
    run(tmp_path, make_tiny(), settings(steps=8, warmup=0))
    before = weights_in(tmp_path)

    class Planting(Stream):
        def __iter__(self):
            for i, batch in enumerate(super().__iter__()):
                if i == 2:
                    model.norm.weight.array[3] = np.nan
                yield batch

    model = make_tiny()
    skip = settings(steps=8, warmup=0, when_not_finite="skip", checkpoint_every=2)
    with pytest.raises(FloatingPointError, match="the weights norm.weight are not finite"):
        train(model, Planting(text(), 4, 16), skip, tmp_path / "spoilt")
    assert load_newest_checkpoint(tmp_path / "spoilt" / "checkpoints").step == 2
    assert weights_in(tmp_path) == before


def test_a_weight_that_no_loss_sees_is_not_saved_either(tmp_path, make_tiny):
    model = make_tiny()
    model.token_embedding.weight.array[22, 0] = np.nan  # an id that is not in the text
    model.token_embedding.weight.array[22, 0] = np.inf
    with pytest.raises(FloatingPointError, match="not finite"):
        run(tmp_path, model, settings(when_not_finite="skip"))
    assert load_newest_checkpoint(tmp_path / "checkpoints") is None


def test_own_metrics_stand_in_the_rows(tmp_path, make_tiny):
    def longest(steps_taken):
        return {"longest": np.float32(steps_taken / 2)}

    run(tmp_path, make_tiny(), settings(steps=2, warmup=0), own_metrics=longest)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row.get("longest") for row in rows] == [0.5, 1.0, None]
    with pytest.raises(ValueError, match="own_metrics gave loss, which the row of a step has"):
        run(tmp_path / "b", make_tiny(), own_metrics=lambda steps_taken: {"loss": 1.0})


def test_a_folder_that_is_moved_meanwhile_ends_the_run_at_the_next_save(tmp_path, make_tiny):
    class Moving(Stream):
        def __iter__(self):
            for i, batch in enumerate(super().__iter__()):
                if i == 9:
                    (tmp_path / "run").rename(tmp_path / "moved")
                yield batch

    config = settings(evaluate_every=0, checkpoint_every=12)
    with pytest.raises(OSError, match="run was moved, removed or replaced"):
        train(make_tiny(), Moving(text(), 4, 16), config, tmp_path / "run")
    assert len(read_metrics(tmp_path / "moved" / "metrics.jsonl")) == 12
    assert not (tmp_path / "run").exists()


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


def test_kernels_for_training_are_expected_by_a_run_and_not_by_a_model(
    tmp_path, make_tiny, monkeypatch
):
    asked = []
    monkeypatch.setattr("tricycle_gpt.runs.compiling.expect", asked.append)
    model = make_tiny()
    assert asked == []
    run(tmp_path, model, settings(steps=1, warmup=0))
    assert len(asked) == 1
    assert any("adamw" in line for line in asked[0])


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
        self.files = []

    def begin(self, recipe, run_id=None):
        self.begun.append((recipe["training.steps"], run_id))

    def log(self, row):
        self.rows.append(row)

    def file(self, path, folder=""):
        self.files.append((path.name, folder))

    def end(self, status, patience=None):
        self.ended.append(status)


def test_a_tracker_is_told_every_row_and_a_resumed_run_is_the_same_run(tmp_path, make_tiny):
    first = Notebook("abc")
    run(tmp_path, make_tiny(), tracker=first)
    assert first.begun == [(30, None)]
    assert first.rows == read_metrics(tmp_path / "metrics.jsonl")
    assert first.ended == []  # the caller may have more to tell
    again = Notebook(None)
    run(tmp_path, make_tiny(), tracker=again, resume=True)
    assert again.begun == [(30, "abc")]


def test_a_tracker_is_told_that_a_run_failed(tmp_path, make_tiny):
    model, tracker = make_tiny(), Notebook("abc")
    model.norm.weight.array[3] = np.nan
    with pytest.raises(FloatingPointError, match="norm.weight are not finite"):
        run(tmp_path, model, tracker=tracker)
    assert tracker.ended == ["failed"]


def test_a_sample_comes_with_each_look_at_the_validation_text_and_changes_no_bit(
    tmp_path, make_tiny
):
    run(tmp_path / "silent", make_tiny(dropout=0.1))
    model, tracker = make_tiny(dropout=0.1), Notebook(None)

    def sample():
        return " ".join(map(str, generate(model, [1], 5)))

    run(tmp_path / "writing", model, sample=sample, tracker=tracker)
    samples = tmp_path / "writing" / "samples"
    names = ["step-00000010.txt", "step-00000020.txt"]
    assert sorted(path.name for path in samples.iterdir()) == names
    assert len((samples / names[0]).read_text().split()) == 5
    assert tracker.files == [(name, "samples") for name in names]
    assert weights_in(tmp_path / "writing") == weights_in(tmp_path / "silent")


def test_the_picture_is_drawn_again_while_it_trains_and_told_to_the_tracker(
    tmp_path, make_tiny, monkeypatch
):
    monkeypatch.setattr(picture, "PAUSE", 0.0)
    # At the lowest priority it may wait for minutes beside other tests.
    assert "os.nice(19)" in picture.PROGRAM
    monkeypatch.setattr(picture, "PROGRAM", picture.PROGRAM.replace("os.nice(19)", "pass"))

    class Waiting(Stream):
        def __iter__(self):
            for i, batch in enumerate(super().__iter__()):
                until = time.time() + 300
                while i == 20 and not (tmp_path / "loss.png").exists() and time.time() < until:
                    time.sleep(0.05)
                if i >= 20 and not tracker.files:
                    time.sleep(0.5)  # the process that drew it ends, and the step looks
                yield batch

    tracker = Notebook(None)
    train(make_tiny(), Waiting(text(), 4, 16), settings(), tmp_path, tracker=tracker)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert ("loss.png", "") in tracker.files
    assert not list(tmp_path.glob("*.tmp"))


def test_a_row_says_how_sure_the_validation_loss_is(tmp_path, make_tiny):
    run(tmp_path, make_tiny())
    for row in read_metrics(tmp_path / "metrics.jsonl"):
        if "validation_loss" in row:
            assert 0 < row["validation_margin"] < row["validation_loss"]
