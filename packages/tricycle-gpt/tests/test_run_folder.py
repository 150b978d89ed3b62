"""What a run leaves behind: the settings it began with, whatever it is asked to go on with."""

import numpy as np
import pytest

from tricycle_gpt import TrainingConfig, save_checkpoint, write_settings
from tricycle_gpt.runs.command_line import read_config
from tricycle_gpt.runs.run_folder import place_in_mlflow


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


@pytest.mark.parametrize(
    ("uri", "where"),
    [
        ("sqlite:////here/mlflow.db", "hatch run mlflow ui"),
        ("https://anna:secret@mlflow.example/runs", "https://mlflow.example/runs"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_a_finished_run_says_where_mlflow_has_it_and_no_password(uri, where):
    assert place_in_mlflow(uri) == where


def test_a_file_of_ones_own_is_named_in_the_command(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///my runs.db")
    expected = "hatch run mlflow ui --backend-store-uri 'sqlite:///my runs.db'"
    assert place_in_mlflow("sqlite:///my runs.db") == expected
