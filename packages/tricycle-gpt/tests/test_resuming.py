"""What a checkpoint holds of a run, and how old ones are read."""

import json
from dataclasses import fields

import pytest
from small_runs import run, settings, weights_in

from tricycle_gpt import load_newest_checkpoint, make_run_folder, save_checkpoint
from tricycle_gpt.runs.resuming import RunState

STATE = RunState(
    recipe={"training.steps": 30},
    step=7,
    position=(1, 28),
    dropout_seeds=(5, 6),
    losses=(2.5, 2.25),
    left_out=1,
    validation_loss=2.0,
    run_id="abc",
    versions={"numpy": "2.0"},
)


def test_a_state_goes_through_json():
    text = json.dumps(STATE.to_json())
    assert RunState.from_json(json.loads(text)) == STATE
    assert json.loads(text)["position"] == [1, 28]


def test_a_checkpoint_holds_just_the_fields_of_a_run_state(tmp_path, make_tiny):
    run(tmp_path, make_tiny(dropout=0.1))
    found = load_newest_checkpoint(tmp_path / "checkpoints").state
    assert found.keys() == {field.name for field in fields(RunState)}
    assert RunState.from_json(found).step == 30


def test_older_states_lack_fields_and_later_ones_may_have_more():
    old = {"recipe": {}, "step": 3, "position": [0, 12], "unheard_of": 1}
    assert RunState.from_json(old) == RunState({}, 3, (0, 12))


def test_a_run_goes_on_from_a_checkpoint_that_lacks_what_is_newer(tmp_path, make_tiny):
    run(tmp_path / "whole", make_tiny(), settings(checkpoint_every=30))
    run(tmp_path / "old", make_tiny(), settings(checkpoint_every=29))
    folder = tmp_path / "old" / "checkpoints"
    found = load_newest_checkpoint(folder)
    before = sorted(folder.iterdir())[0]
    assert before.name == "step-00000029"
    for path in folder.iterdir():
        if path != before:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    found = load_newest_checkpoint(folder)
    old = {name: found.state[name] for name in ("recipe", "position")}
    save_checkpoint(folder, 29, found.parameters, found.optimiser, old)
    run(tmp_path / "old", make_tiny(), settings(checkpoint_every=30), resume=True)
    # The weights and moments; the state has remembered fewer losses.
    assert [weights_in(tmp_path / "old")[i] for i in (0, 2)] == [
        weights_in(tmp_path / "whole")[i] for i in (0, 2)
    ]


def test_a_state_that_no_run_has_saved_is_refused_by_name():
    with pytest.raises(ValueError, match="it has no step, position. Was it saved by train"):
        RunState.from_json({"recipe": {}})


def test_a_folder_is_made_for_a_new_run_alone(tmp_path):
    make_run_folder(tmp_path / "new" / "run")
    assert (tmp_path / "new" / "run").is_dir()
    save_checkpoint(tmp_path / "checkpoints", 3, {}, {}, {})
    with pytest.raises(ValueError, match="reached step 3: add --resume"):
        make_run_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("recipe", []),
        ("step", "7"),
        ("step", True),
        ("position", [1]),
        ("position", [1, "2"]),
        ("position", {"epoch": 1}),
        ("dropout_seeds", 5),
        ("dropout_seeds", ["a"]),
        ("losses", ["low"]),
        ("left_out", None),
        ("validation_loss", "2.0"),
        ("run_id", 7),
        ("versions", {"numpy": 2}),
        ("device", "tpu"),
    ],
)
def test_a_state_of_other_types_is_refused_by_name(name, wrong):
    with pytest.raises(ValueError, match=f"its {name} is"):
        RunState.from_json(STATE.to_json() | {name: wrong})


def test_a_checkpoint_of_other_types_or_of_another_model_is_named(tmp_path, make_tiny):
    run(tmp_path, make_tiny())
    folder = tmp_path / "checkpoints"
    found = load_newest_checkpoint(folder)
    arrays = found.parameters, found.optimiser
    save_checkpoint(folder, 30, *arrays, found.state | {"losses": "many"})
    with pytest.raises(ValueError, match="step-00000030/state.json: .* its losses is 'many'"):
        run(tmp_path, make_tiny(), resume=True)
    save_checkpoint(folder, 30, {"another.weight": arrays[0].popitem()[1]}, arrays[1], found.state)
    with pytest.raises(ValueError, match="step-00000030 does not fit this model"):
        run(tmp_path, make_tiny(), resume=True)


def level(**changes):
    """Settings whose learning rate stays level after its rise, and goes down in the last steps."""
    return settings(**{"schedule": "warmup-stable-decay", "decay": 10, **changes})


def test_a_run_takes_more_steps_where_the_rates_so_far_stay_what_they_were(tmp_path, make_tiny):
    never_down = {"final_learning_rate": 1e-2}
    run(tmp_path / "whole", make_tiny(), level(steps=40))
    run(tmp_path / "longer", make_tiny(), level(steps=20, **never_down))
    assert load_newest_checkpoint(tmp_path / "longer" / "checkpoints").step == 20
    assert run(tmp_path / "longer", make_tiny(), level(steps=40), resume=True).finished
    assert weights_in(tmp_path / "longer") == weights_in(tmp_path / "whole")
    # It is on its way down now.
    with pytest.raises(ValueError, match=r"steps was 40, is 60\. .*can be given more steps where"):
        run(tmp_path / "longer", make_tiny(), level(steps=60), resume=True)


def test_more_steps_and_something_else_is_another_run(tmp_path, make_tiny):
    run(tmp_path, make_tiny(), level(steps=20, final_learning_rate=1e-2))
    other = level(steps=40, weight_decay=0.0)
    with pytest.raises(ValueError, match=r"training.weight_decay was 0.1, is 0.0"):
        run(tmp_path, make_tiny(), other, resume=True)


def test_a_finished_run_that_is_resumed_says_that_nothing_is_left(tmp_path, make_tiny, capsys):
    run(tmp_path, make_tiny())
    before = weights_in(tmp_path)
    assert run(tmp_path, make_tiny(), resume=True).finished
    said = capsys.readouterr().err
    assert f"the run in {tmp_path} has taken all its 30 steps: nothing is left to train" in said
    assert "another run, in another folder" in said
    assert weights_in(tmp_path) == before
