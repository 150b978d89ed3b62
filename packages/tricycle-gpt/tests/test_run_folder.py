"""What a run leaves behind: the settings it began with, whatever it is asked to go on with."""

import numpy as np

from tricycle_gpt import TrainingConfig, save_checkpoint, write_settings
from tricycle_gpt.runs.command_line import read_config


def test_a_run_with_a_checkpoint_keeps_the_settings_it_began_with(tmp_path):
    first, second, third = (TrainingConfig(steps=steps) for steps in (5, 6, 7))
    write_settings(tmp_path, first, {"text": 1})
    write_settings(tmp_path, second, {"text": 2})  # nothing has been done with the first
    assert read_config(tmp_path / "config.toml", first) == second
    save_checkpoint(tmp_path / "checkpoints", 3, {"a": np.ones(2)}, {}, {})
    write_settings(tmp_path, third, {"text": 3})
    assert read_config(tmp_path / "config.toml", first) == second
    assert (tmp_path / "data.json").read_text() == '{\n "text": 2\n}\n'
    (tmp_path / "config.toml").unlink()
    write_settings(tmp_path, third)
    assert read_config(tmp_path / "config.toml", first) == third
