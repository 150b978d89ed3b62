"""Command lines and TOML files: every field reachable, every mistake named."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tricycle_gpt import GPTConfig, TrainingConfig
from tricycle_gpt.command_line import read_command_line, read_config


@dataclass(frozen=True)
class Arguments:
    """What the test app takes."""

    folder: Path = Path("runs")
    name: str | None = None
    config: Path | None = None
    model: GPTConfig = field(default_factory=GPTConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


def write(tmp_path, text):
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return path


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    path = write(
        tmp_path, 'folder = "x"\n[training]\nsteps = 500\nlearning_rate = 1\nbatch_size = 3'
    )
    words = ["--config", str(path), "--training.steps", "7", "--training.warmup", "2"]
    found = read_command_line(Arguments(), words)
    assert found.training.steps == 7
    assert found.training.batch_size == 3
    assert found.training.learning_rate == 1.0
    assert found.folder == Path("x")
    assert found.model == GPTConfig()


def test_every_field_of_the_configs_is_a_flag(capsys):
    with pytest.raises(SystemExit):
        read_command_line(Arguments(), ["--help"])
    help_text = capsys.readouterr().out
    for config, section in ((GPTConfig, "model"), (TrainingConfig, "training")):
        for name in config.__dataclass_fields__:
            assert f"--{section}.{name.replace('_', '-')}" in help_text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 5", "there is no 'steps'; there are folder, name, config, model, training"),
        ("[training]\nstep = 5", r"\[training\]: there is no 'step'; there are steps, batch_size"),
        ('[training]\nsteps = "many"', "steps should be int, as 1000 is, got 'many'"),
        ("[training]\nsteps = true", "steps should be int"),
        ("training = 5", r"training is a section, write \[training\]"),
        ("steps = = 5", "is not TOML"),
        ("[training]\nsteps = 0", "steps must be at least 1, got 0"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_config(write(tmp_path, text), Arguments())


def test_a_missing_file_ends_the_program_with_a_message(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*nowhere\.toml"):
        read_command_line(Arguments(), ["--config", str(tmp_path / "nowhere.toml")])
