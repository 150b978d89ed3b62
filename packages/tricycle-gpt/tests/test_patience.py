"""A run ends when it no longer gets better, with the weights with which it was best."""

import numpy as np
import pytest
from small_runs import losses_in, run, settings, text, weights_in

from tricycle_gpt import TrainingConfig, evaluate, load_checkpoint
from tricycle_gpt.runs.checkpoint import best_checkpoint
from tricycle_gpt.runs.patience import Patience


def test_looks_without_a_lower_loss_are_counted():
    patience = Patience(TrainingConfig(patience=2))
    for loss, over in ((3.0, False), (2.0, False), (2.0, False), (1.9, False), (np.nan, False)):
        patience.saw(loss)
        assert patience.is_over is over
    patience.saw(2.5)
    assert patience.is_over
    assert (patience.best, patience.since) == (1.9, 2)
    assert not Patience(TrainingConfig(), best=1.0, since=100).is_over


# A learning rate that spoils the model again and again.
WILD = {"learning_rate": 0.3, "final_learning_rate": 0.3, "steps": 60, "evaluate_every": 4}
WILD |= {"warmup": 8, "patience": 2, "spikes": "off", "max_gradient_norm": 100.0}


def looks_in(folder):
    rows = losses_in(folder)
    return [row["validation_loss"] for row in rows if "validation_loss" in row]


def test_a_run_ends_early_with_its_best_weights(tmp_path, make_tiny):
    model = make_tiny()
    result = run(tmp_path, model, settings(**WILD))
    assert result.finished
    assert result.steps < 60
    *looks, last = looks_in(tmp_path)  # the last is on all of the text
    assert result.steps == 4 * len(looks)
    best = min(looks)
    assert looks.index(best) == len(looks) - 3
    found = load_checkpoint(best_checkpoint(tmp_path / "checkpoints"))
    assert found.step == 4 * (len(looks) - 2)
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.array, found.parameters[name])
    assert last == pytest.approx(evaluate(model, text(100)).loss)


def test_its_end_and_its_weights_are_the_same_after_a_stop(tmp_path, make_tiny):
    whole, stopped = make_tiny(), make_tiny()
    result = run(tmp_path / "whole", whole, settings(**WILD))
    # With one more look each run goes on: patience is for a session, and counts from the start.
    run(tmp_path / "stopped", stopped, settings(**WILD | {"patience": 1}))
    again = make_tiny()
    run(tmp_path / "stopped", again, settings(**WILD), resume=True)
    assert weights_in(tmp_path / "stopped") == weights_in(tmp_path / "whole")
    for ours, theirs in zip(again.parameters(), whole.parameters(), strict=True):
        np.testing.assert_array_equal(ours.array, theirs.array)
    # And one that has ended stays at its end.
    third = run(tmp_path / "whole", make_tiny(), settings(**WILD), resume=True)
    assert third.steps == result.steps


def test_patience_of_no_look_is_refused():
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        TrainingConfig(patience=0)
