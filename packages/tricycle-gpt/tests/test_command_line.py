"""Command lines and TOML files: every field reachable, every mistake named."""

import io
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tricycle_gpt import GPTConfig, TrainingConfig
from tricycle_gpt.runs.command_line import (
    as_flags,
    end_politely,
    from_toml,
    read_command_line,
    read_command_line_of_run,
    read_config,
    to_toml,
    with_named,
)


@dataclass(frozen=True)
class Arguments:
    """What the test app takes."""

    folder: Path = Path("runs")
    name: str | None = None
    stop: tuple[str, ...] = ()
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
        ("steps = 5", "there is no 'steps'; there are folder, name, stop, config, model, training"),
        ("[training]\nstep = 5", r"\[training\]: there is no 'step'; there are steps, batch_size"),
        ('[training]\nsteps = "many"', "steps should be a whole number, got 'many'"),
        ("[training]\nsteps = true", "steps should be a whole number, got True"),
        ("[training]\nwarmup = 0.5", "warmup should be a whole number or left out, got 0.5"),
        (
            "[model]\nhidden_dim = 'big'",
            "hidden_dim should be a whole number or left out, got 'big'",
        ),
        ("[model]\nblock = 'mamba'", r'block must be "gpt2" or "llama" or "olmo2", got .mamba.'),
        ("[model]\nqk_norm = 1", "qk_norm should be true or false, got 1"),
        ("[model]\ndropout = '0'", "dropout should be a number, got '0'"),
        ("folder = 5", "folder should be a path in quotes, got 5"),
        ("name = 5", "name should be a text or left out, got 5"),
        ("stop = 'x'", "stop should be a list of texts, got 'x'"),
        ("stop = [1]", "stop should be a text, got 1"),
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


def test_every_kind_of_value_can_stand_in_the_file(tmp_path):
    text = """
        name = "a"
        stop = ["b", "c"]
        config = "d.toml"
        [model]
        n_key_value_heads = 2
        block = "llama"
        qk_norm = true
        dropout = 0
    """
    found = read_config(write(tmp_path, text), Arguments())
    assert (found.name, found.stop, found.config) == ("a", ("b", "c"), Path("d.toml"))
    changed = {"n_key_value_heads": 2, "block": "llama", "qk_norm": True, "dropout": 0.0}
    assert found.model == GPTConfig(**changed)


@dataclass(frozen=True)
class WithPresets:
    """What a test app with presets takes."""

    preset: str = "small"
    config: Path | None = None
    training: TrainingConfig = field(default_factory=TrainingConfig)


PRESETS = {
    "small": WithPresets(),
    "large": WithPresets("large", training=TrainingConfig(batch_size=512, steps=9000)),
}


def test_a_preset_may_be_named_in_the_file_and_a_flag_wins_over_it(tmp_path):
    path = str(write(tmp_path, 'preset = "large"\n[training]\nsteps = 500'))
    found = read_command_line(WithPresets(), ["--config", path], presets=PRESETS)
    assert (found.preset, found.training.batch_size, found.training.steps) == ("large", 512, 500)
    words = ["--config", path, "--preset", "small"]
    found = read_command_line(WithPresets(), words, presets=PRESETS)
    assert (found.preset, found.training.batch_size, found.training.steps) == ("small", 16, 500)


@pytest.mark.parametrize("name", ['"huge"', "5", "[]"])
def test_a_preset_that_is_not_there_is_named_wherever_it_stands(tmp_path, name):
    path = str(write(tmp_path, f"preset = {name}"))
    with pytest.raises(SystemExit, match="no preset .*; there are small, large"):
        read_command_line(WithPresets(), ["--config", path], presets=PRESETS)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("too short"), "error: too short"),
        (
            FileNotFoundError(2, "No such file or directory", "a.txt"),
            r"error: a\.txt: No such file",
        ),
        (OSError("no model in x"), "error: no model in x"),
        (
            MemoryError("Unable to allocate 9 TiB"),
            r"error: not enough memory for this batch or model: Unable",
        ),
        (ImportError("drawing needs matplotlib; install it"), "error: drawing needs matplotlib"),
        (KeyboardInterrupt(), "use --resume"),
    ],
)
def test_what_a_user_can_cause_ends_with_a_message(error, message):
    def main():
        raise error

    with pytest.raises(SystemExit, match=message):
        end_politely(main, "stopped: use --resume")


def test_an_import_that_fails_by_our_own_fault_keeps_its_traceback():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        end_politely(lambda: __import__("no_such_module"))


def test_settings_written_as_toml_are_read_back(tmp_path):
    settings = Arguments(
        folder=Path('a "folder"\\é'),
        stop=("\n", "end"),
        model=GPTConfig(n_layers=3, tied_head=False, norm_eps=1e-6),
        training=TrainingConfig(steps=7, warmup=2, schedule="linear"),
    )
    path = write(tmp_path, to_toml(settings))
    assert "name" not in path.read_text().split("[model]")[0]  # None is left out
    assert read_config(path, Arguments()) == settings


# ---- Runs that go on, and flags to make one again ----


@dataclass(frozen=True)
class Run:
    """What an app with presets takes."""

    preset: str = "small"
    name: str | None = None
    folder: Path = Path("run")
    resume: bool = False
    config: Path | None = None
    model: GPTConfig = field(default_factory=GPTConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


KINDS = {
    "small": Run(),
    "slow": Run("slow", training=TrainingConfig(steps=9, warmup=2, batch_size=2)),
}


def test_a_run_that_goes_on_knows_its_settings_and_flags_win_over_them(tmp_path):
    def read(*words):
        kept = {"presets": KINDS, "began_with": "config.toml"}
        return read_command_line_of_run(Run(), list(words), **kept)[0]

    folder = ["--folder", str(tmp_path)]
    run = read("--preset", "slow", "--name", "a", "--training.seed", "7", *folder)
    (tmp_path / "config.toml").write_text(to_toml(run))
    resumed = replace(run, resume=True)
    assert read("--resume", *folder) == resumed
    again = read("--training.log-every", "3", "--resume", *folder)
    assert again == replace(resumed, training=replace(run.training, log_every=3))
    # Where it is not resumed, or no run is there, nothing is taken over.
    assert read(*folder) == Run(folder=tmp_path)
    assert read("--resume", "--folder", "elsewhere") == Run(folder=Path("elsewhere"), resume=True)
    # The file of --config may say both, and --no-resume wins over it.
    path = write(tmp_path, f'folder = "{tmp_path}"\nresume = true')
    assert read("--config", str(path)) == replace(resumed, config=path)
    assert read("--config", str(path), "--no-resume").training == TrainingConfig()


@pytest.mark.parametrize("text", ["", 'preset = "huge"', "preset = []"])
def test_a_run_whose_settings_are_lost_says_which_file_to_look_at(tmp_path, text):
    path = write(tmp_path, text)
    words = ["--folder", str(tmp_path), "--resume"]
    with pytest.raises(
        SystemExit, match=r"settings\.toml should name a preset, one of small, slow"
    ):
        read_command_line_of_run(Run(), words, presets=KINDS, began_with=path.name)


def test_what_is_fixed_stays_as_it_was_when_the_run_began(tmp_path, monkeypatch):
    def read(*words):
        kept = {"presets": KINDS, "began_with": "config.toml", "fixed": ("preset", "name")}
        return read_command_line_of_run(Run(), [*words, "--resume", *folder], **kept)[0]

    monkeypatch.chdir(tmp_path)
    folder = ["--folder", str(tmp_path)]
    (tmp_path / "config.toml").write_text(to_toml(Run("slow", name="texts", folder=tmp_path)))
    assert read("--preset", "small").preset == "slow"  # the default one is no request
    assert read("--name", "texts/").name == "texts"  # another word for the same folder
    with pytest.raises(SystemExit, match="was begun with --name texts, not a: leave --name out"):
        read("--name", "a")


@pytest.mark.parametrize("beginning", ["", "\ufeff"])
def test_a_file_may_begin_with_the_mark_that_some_editors_write(tmp_path, beginning):
    path = tmp_path / "settings.toml"
    path.write_text(beginning + 'name = "a"\r\n[training]\r\nsteps = 9\r\n', encoding="utf-8")
    assert read_config(path, Run()).training.steps == 9


def test_what_was_named_is_known_by_flags_and_by_the_file(tmp_path):
    path = write(tmp_path, 'name = "a"\n[training]\nsteps = 9\nbatch_size = 2')
    words = ["--config", str(path), "--training.batch-size=3", "--training.no-recompute"]
    settings, names = read_command_line_of_run(Run(), words)
    assert names >= {"config", "name", "training.steps", "training.batch_size"}
    assert "training.recompute" in names
    assert "training.seed" not in names
    asked = settings.training
    chosen = TrainingConfig(steps=100, batch_size=50, seed=5, recompute=True)
    found = with_named(chosen, asked, "training", names)
    assert found == TrainingConfig(steps=9, batch_size=3, seed=5, recompute=False)
    assert with_named(chosen, asked, "training", set()) == chosen


def test_settings_go_through_a_text(tmp_path):
    run = Run("slow", name="é", training=TrainingConfig(steps=50, warmup=2), folder=tmp_path)
    assert from_toml(to_toml(run), Run()) == run
    with pytest.raises(ValueError, match="these settings: there is no 'nmae'; there are preset"):
        from_toml('nmae = "a"', Run())


def test_flags_make_the_same_settings_again():
    wanted = Run(
        model=GPTConfig(n_layers=3, tied_head=False, block="llama", qk_norm=True),
        training=TrainingConfig(steps=50, learning_rate=2.5e-3, schedule="linear"),
    )
    flags = as_flags(wanted, Run(), "model", "training")
    assert "--model.n-layers 3" in flags
    assert "--model.no-tied-head" in flags
    assert read_command_line(Run(), flags.split()) == wanted
    assert as_flags(Run(), Run(), "model", "training") == ""


@pytest.mark.parametrize(("encoding", "shown"), [("latin-1", b"\xe9 ?\n"), ("ascii", b"? ?\n")])
def test_a_terminal_that_lacks_a_character_shows_a_question_mark(monkeypatch, encoding, shown):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding, newline="\n"))
    end_politely(lambda: print("é 東", flush=True))
    assert buffer.getvalue() == shown
