"""The apps, through their real command lines: what they leave, say, survive and refuse."""

import fcntl
import importlib.util
import json
import os
import pty
import random
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from tricycle_bpe import Tokeniser
from tricycle_gpt import GPT, GPTConfig, TrainingConfig, read_metrics, to_gguf
from tricycle_gpt import generate as continued

APPS = Path(__file__).parents[1] / "apps"
LONG = os.environ.get("TRICYCLE_TEST_LONG") == "1"
KILLS = 20 if LONG else 3


def split(text):
    return text.split()


VERSE = split("to be or not that is the question whether tis nobler in mind suffer slings arrows")
DEALER = random.Random(0)
TEXT = "\n\n".join("JULIET:\n" + " ".join(DEALER.choices(VERSE, k=40)) for _ in range(40))

TINY_MODEL = split("""
    --model.n-layers 1 --model.embedding-dim 16 --model.n-heads 2 --model.context-window 16
    --training.batch-size 4
""")
TOKENS_IN_A_STEP = 4 * 16
# Long enough to be stopped in the middle, and to be killed several times.
RUN = [
    *split("""
        --data text.txt --tokeniser characters --sample-tokens 20 --model.dropout 0.1
        --training.steps 300 --training.checkpoint-every 10 --training.evaluate-every 100
        --training.log-every 50
    """),
    *TINY_MODEL,
]


def command(app, *words):
    return [sys.executable, str(APPS / app), *map(str, words)]


def run(app, *words, cwd, **options):
    return subprocess.run(
        command(app, *words), cwd=cwd, capture_output=True, text=True, check=False, **options
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a text in it, where a user works."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "text.txt").write_text(TEXT)
    return folder


@pytest.fixture(scope="module")
def whole(place):
    """A run that nobody disturbed: its folder, and what it said."""
    done = run("train_shakespeare", *RUN, "--folder", "whole", cwd=place)
    assert done.returncode == 0, done.stderr
    return place / "whole", done


def weights(folder):
    """The bytes of all that training decided."""
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    files = [newest / "parameters.safetensors", newest / "optimiser.safetensors"]
    return [path.read_bytes() for path in [*files, folder / "model" / "model.safetensors"]]


def losses(folder):
    return [(row["step"], row.get("loss")) for row in read_metrics(folder / "metrics.jsonl")]


# ---- What a run leaves, and says ----


def test_a_run_leaves_a_model_metrics_a_picture_a_sample_and_checkpoints(whole):
    folder, _ = whole
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert f"model/{name}" in names
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "sample.txt").read_text()) > 20
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == [
        "step-00000290",
        "step-00000300",
    ]
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(301))
    assert rows[299]["loss"] < rows[0]["loss"]
    assert rows[300]["bits_per_byte"] > 0


def test_without_a_terminal_there_are_plain_lines_and_the_last_says_how_to_go_on(whole):
    folder, done = whole
    lines = done.stderr.splitlines()
    steps = [line.split()[1] for line in lines if re.match(r"step \d+/", line)]
    assert steps == [f"{n}/300" for n in (1, 50, 100, 150, 200, 250, 300)]
    assert "\r" not in done.stderr
    assert "%|" not in done.stderr
    assert re.match(r"trained in .+: validation loss \d\.\d+, .* bits per byte$", lines[-3])
    assert lines[-2:] == [
        "The loss as a picture:  whole/loss.png",
        "Generate more:  hatch run generate --model whole/model --prompt JULIET:",
    ]
    # The sample alone goes to standard output.
    assert done.stdout.strip("\n") in (folder / "sample.txt").read_text()


def in_terminal(words, cwd, ctrl_c_at=None):
    """Run in a terminal of 120 columns; returns the exit status and all that was shown."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    process = subprocess.Popen(words, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = ""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux's way of saying that the other end is closed
            break
        if not piece:
            break
        shown += piece.decode(errors="replace")
        if ctrl_c_at is not None and ctrl_c_at in shown:
            process.send_signal(signal.SIGINT)
            ctrl_c_at = None
    os.close(ours)
    return process.wait(), shown


def test_in_a_terminal_there_is_a_bar_and_ctrl_c_stops_so_that_resume_goes_on_exactly(place, whole):
    words = [*RUN, "--folder", "stopped"]
    status, shown = in_terminal(command("train_shakespeare", *words), place, "tokens/s")
    assert status == 0
    assert re.search(r"%\|.*/300 .*loss \d\.\d+.*tokens/s", shown)
    assert "stopping after this step" in shown
    assert re.search(r"stopped after \d+ steps. Go on with the same command and --resume", shown)
    assert "Traceback" not in shown
    stopped_at = len(losses(place / "stopped"))
    assert 0 < stopped_at < 300
    assert (place / "stopped" / "checkpoints" / f"step-{stopped_at:08d}").is_dir()
    assert (place / "stopped" / "model" / "model.safetensors").is_file()

    assert run("train_shakespeare", *words, "--resume", cwd=place).returncode == 0
    assert weights(place / "stopped") == weights(whole[0])
    assert losses(place / "stopped") == losses(whole[0])


def test_killed_at_random_moments_and_resumed_it_ends_at_the_same_bytes(place, whole):
    words = command("train_shakespeare", *RUN, "--folder", "killed", "--resume")
    steps = read_metrics(whole[0] / "metrics.jsonl")[:-1]
    length = sum(TOKENS_IN_A_STEP / row["tokens_per_second"] for row in steps)
    moments = random.Random(0)
    for _ in range(KILLS):
        process = subprocess.Popen(words, cwd=place, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if "everything goes to" in line:
                break
        time.sleep(moments.uniform(0, 2 * length / KILLS))
        process.kill()
        process.wait()
        process.stderr.close()
    assert subprocess.run(words, cwd=place, capture_output=True, check=True)
    assert weights(place / "killed") == weights(whole[0])
    assert losses(place / "killed") == losses(whole[0])


# ---- Settings ----


@pytest.mark.parametrize("app", ["train_shakespeare", "train_gpt2", "inference"])
def test_help_names_every_setting_and_says_what_it_does(app, tmp_path):
    help_text = run(app, "--help", cwd=tmp_path).stdout
    introduction, boxes = help_text.split("─ options ─", 1)
    entries = re.sub(r", --\S*no-\S+", "", in_one_line(boxes)).split(" --")
    said_of = {name: rest for name, _, rest in (entry.partition(" ") for entry in entries)}
    names = [field.name for field in fields(arguments_of(app))]
    if "model" in names and "training" in names:
        for section, config in (("model", GPTConfig), ("training", TrainingConfig)):
            names.remove(section)
            names += [f"{section}.{field.name}" for field in fields(config)]
    for name in names:
        sentence, _ = said_of[name.removesuffix("_").replace("_", "-")].split("(default: ")
        assert len(sentence.split()) >= 4, name
    assert "hatch run" in introduction
    for jargon in ("ValueError", "{None}", "Optional", "dataclass"):
        assert jargon not in help_text


@pytest.mark.parametrize("width", [80, 120])
def test_the_help_of_train_gpt2_fits_a_terminal_and_tells_of_every_preset(width, tmp_path):
    environment = {**os.environ, "COLUMNS": str(width)}
    help_text = run("train_gpt2", "--help", cwd=tmp_path, env=environment).stdout
    assert max(map(len, help_text.splitlines())) <= width
    arguments_of("train_gpt2")
    presets = sys.modules["app_train_gpt2"].RUNS
    assert len(presets) >= 5
    introduction = help_text.split("─ options ─")[0]
    for name in presets:
        assert f"\n    {name} " in introduction
    for word in ("--config", "[training]", "--resume", "--plan", "plan.json"):
        assert word in introduction


def test_the_speedrun_takes_gpt2s_steps_and_fewer_of_them():
    arguments_of("train_gpt2")
    presets = sys.modules["app_train_gpt2"].RUNS
    gpt2, speedrun = presets["gpt2"].training, presets["speedrun"].training
    # Half a million tokens a step, and 20 tokens for each of GPT-2's 124,439,808 parameters.
    assert gpt2.batch_size * gpt2.micro_batches * 1024 == 524_288
    assert gpt2.steps == 20 * 124_439_808 // 524_288
    assert (gpt2.beta1, gpt2.beta2, gpt2.weight_decay) == (0.9, 0.95, 0.1)
    assert (gpt2.schedule, gpt2.max_gradient_norm) == ("cosine", 1.0)
    assert speedrun.batch_size * speedrun.micro_batches * 1024 == 524_288
    assert speedrun.steps == round(0.55 * gpt2.steps)
    assert (speedrun.optimiser, speedrun.schedule) == ("muon", "warmup-stable-decay")


def in_one_line(boxes):
    return " ".join(re.sub("[│╭╮╰╯─]", " ", boxes).split())


def arguments_of(app):
    spec = importlib.util.spec_from_file_location(f"app_{app}", APPS / app / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(APPS / app))  # as `python apps/{app}` does
    spec.loader.exec_module(module)
    sys.path.remove(str(APPS / app))
    return module.Arguments


def test_train_gpt2_takes_a_folder_of_texts_and_a_toml_file(tmp_path):
    (tmp_path / "texts").mkdir()
    for i, speech in enumerate(TEXT.split("\n\n")):
        (tmp_path / "texts" / f"{i}.txt").write_text(speech)
    (tmp_path / "settings.toml").write_text(
        'data = "texts"\nfolder = "run"\nsample_tokens = 5\n[model]\nvocab_size = 280\n'
        "[training]\nsteps = 3\nevaluate_every = 0\n"
    )
    words = [*TINY_MODEL, "--config", "settings.toml", "--training.steps", "2"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    done = run("train_gpt2", *words, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(losses(tmp_path / "run")) == 2 + 1
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["vocab_size"] <= 280
    assert config["n_embd"] == 16
    trained, picture, followed, more = done.stderr.splitlines()[-4:]
    assert re.match(r"trained in .+: validation loss \d\.\d+, .* bits per byte$", trained)
    assert picture == "The loss as a picture:  run/loss.png"
    assert followed == "The run in MLflow:  hatch run mlflow ui"
    assert more == "Generate more:  hatch run generate --model run/model --prompt Once"
    done = run("train_gpt2", *words, "--resume", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    check_what_mlflow_has(tmp_path)  # of both one run
    more = run("inference", "--model", "run/model", "--max-tokens", 3, cwd=tmp_path)
    assert more.returncode == 0, more.stderr

    check_that_it_can_be_measured(tmp_path)
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["took"]["steps"] == plan["planned"]["steps"] == 2
    assert plan["took"]["seconds"] > 0
    again = (tmp_path / "run" / "config.toml").read_text()
    assert 'data = "texts"' in again
    assert "steps = 2" in again

    # The same tokeniser for another run.
    words += ["--folder", "again", "--tokeniser", "run/model", "--no-track"]
    done = run("train_gpt2", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, again = (tmp_path / name / "model" for name in ("run", "again"))
    for name in ("tokenizer.json", "model.safetensors"):
        assert (first / name).read_bytes() == (again / name).read_bytes()


def check_that_it_can_be_measured(folder):
    (folder / "lambada.jsonl").write_text('{"text": "to be or not to be"}\n')
    (folder / "wiki.txt").write_text(" = Bread = \n \n To be , or not . \n")
    question = {"activity_label": "a", "ctx_a": "to", "ctx_b": "be", "label": "1"}
    lines = json.dumps(question | {"endings": ["or", "not"]}) + "\n"
    (folder / "hellaswag.jsonl").write_text(lines)
    words = split("--lambada lambada.jsonl --wikitext wiki.txt --hellaswag hellaswag.jsonl")
    # The folder of a run will do: it has its model in it.
    done = run("inference", "--model", "run", "--evaluate", "wiki.txt", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    found = {row["benchmark"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert list(found) == ["evaluate", "hellaswag", "lambada", "wikitext"]
    assert found["evaluate"]["bits_per_byte"] > 0
    assert found["hellaswag"]["questions"] == found["lambada"]["passages"] == 1
    assert found["wikitext"]["bits_per_byte"] > 0


def check_what_mlflow_has(folder):
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("tricycle").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert run.data.params["model.embedding_dim"] == "16"
    assert run.data.metrics["loss"] == losses(folder / "run")[1][1]
    assert {"validation_loss", "bits_per_byte", "mfu", "memory_megabytes"} <= set(run.data.metrics)
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    kept = "checkpoints config.toml data.json loss.png metrics.jsonl plan.json sample.txt"
    assert sorted(files) == kept.split()
    data = run.inputs.dataset_inputs[0].dataset
    record = json.loads((folder / "run" / "data.json").read_text())
    assert (data.name, json.loads(data.source)) == ("texts", record["source"])
    assert run.data.params["data.train"].startswith(data.digest)
    assert [version.name for version in client.search_model_versions()] == ["run"] * 2
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")]
    assert sorted(steps) == [0, 1]


@pytest.mark.parametrize("app", ["train_gpt2", "train_shakespeare"] if LONG else ["train_gpt2"])
def test_a_run_that_fails_behind_its_training_has_an_end_in_mlflow(app, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").touch()  # so that no model folder can be made
    words = [*TINY_MODEL, *split("--data text.txt --folder run --training.steps 2 --track")]
    words += split("--model.vocab-size 280")
    words += ["--preset", "laptop"] if app == "train_gpt2" else split("--training.warmup 1")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    done = run(app, *words, cwd=tmp_path, env=environment)
    assert done.returncode != 0
    assert re.search(r"^error: run/model\S*: Not a directory$", done.stderr, re.MULTILINE)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("tricycle").experiment_id])
    assert found.info.status == "FAILED"


# ---- Generating ----


def generate(folder, *words, **options):
    words = ["--model", folder / "model", *words]
    done = run("inference", *words, cwd=folder, timeout=120, **options)
    assert done.returncode == 0, done.stderr
    return done


def test_one_seed_writes_one_text_and_another_writes_another(whole):
    words = ["--prompt", "JULIET:", "--max-tokens", 40]
    first, again, other = (generate(whole[0], *words, "--seed", n).stdout for n in (1, 1, 2))
    assert first.startswith("JULIET:")
    assert len(first) == len("JULIET:") + 40
    assert first == again
    assert first != other


@pytest.mark.parametrize("bits", ["8", "4"])
def test_quantised_weights_write_a_text_of_that_length(whole, bits):
    done = generate(whole[0], "--quantise", bits, "--prompt", "to be", "--max-tokens", 20)
    assert len(done.stdout) > 20


def test_it_stops_before_a_stop_text(whole):
    words = ["--prompt", "JULIET:", "--max-tokens", 60]
    text = generate(whole[0], *words).stdout
    stop = text[20:22]
    cut = text.index(stop, len("JULIET:"))
    assert generate(whole[0], *words, "--stop", stop).stdout == text[:cut]


def test_a_gguf_file_is_continued_with_its_own_tokeniser(tmp_path):
    if "TRICYCLE_TEST_DATA" not in os.environ:
        pytest.skip("TRICYCLE_TEST_DATA is not set: mini/gguf/llama.gguf is looked for there")
    path = Path(os.environ["TRICYCLE_TEST_DATA"]) / "mini" / "gguf" / "llama.gguf"
    words = split("--prompt <|im_start|>the --max-tokens 5 --temperature 0")
    done = run("inference", "--model", path, *words, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("<|im_start|>the")
    assert "5 tokens" in done.stderr


def test_a_model_of_a_gguf_file_ends_its_text_as_the_file_says(tmp_path):
    tokeniser = Tokeniser.train(["to be or not to be, that is"], 262)
    sizes = {"context_window": 24, "embedding_dim": 32, "n_layers": 1, "n_heads": 2}
    model = GPT(GPTConfig(tokeniser.n_vocab, **sizes), rng=np.random.default_rng(0))
    prompt = tokeniser.encode("to be")
    ids = list(continued(model, prompt, 8, temperature=0.8, seed=0))
    model.end_ids = (tokeniser.n_vocab - 1, ids[5])
    to_gguf(model, tmp_path / "model.gguf", "F32", tokeniser)
    words = ["--model", "model.gguf", "--prompt", "to be", "--max-tokens", 8]
    done = run("inference", *words, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"{ids.index(ids[5])} tokens" in done.stderr


def test_text_comes_as_it_is_written(whole):
    words = command("inference", "--model", whole[0] / "model", "--prompt", "to", "--max-tokens")
    process = subprocess.Popen([*words, "1000000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(12).startswith(b"to")
    assert process.poll() is None, "it had ended before its first words were read"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert b"Traceback" not in said


def test_prompts_are_asked_for_until_an_empty_line(whole):
    done = generate(whole[0], "--interactive", "--max-tokens", 5, input="to be\nor not\n\nunread")
    assert re.fullmatch(r"> to be.{5}\n> or not.{5}\n> ", done.stdout, re.DOTALL)
    assert done.stderr.count("5 tokens") == 2


# ---- Mistakes ----

MISTAKES = {
    "an empty file": ("train_shakespeare --data empty.txt", "empty.txt is empty"),
    "a text that is too short": ("train_shakespeare --data short.txt", "too short"),
    "a text shorter than a window": (
        "train_shakespeare --data brief.txt --tokeniser characters",
        "give a longer text or a shorter context_window",
    ),
    "a text that is not UTF-8": ("train_gpt2 --data latin1.txt", "latin1.txt is not UTF-8"),
    "a file that is not there": ("train_gpt2 --data nowhere", "no file or folder at nowhere"),
    "a kind of file nobody reads": ("train_gpt2 --data a.pdf", "cannot tell how to read a.pdf"),
    "a run folder that is a file": (
        "train_shakespeare --data text.txt --tokeniser characters --folder empty.txt",
        "error: empty.txt",
    ),
    "a second start": (
        " ".join(["train_shakespeare", *RUN, "--folder whole"]),
        "whole holds a run that reached step 300: add --resume to go on with it, or choose another",
    ),
    "going on with other settings": (
        " ".join(["train_shakespeare", *RUN, "--folder whole --resume --training.seed 5"]),
        "training.seed was 0, is 5",
    ),
    "heads that do not fit": (
        "train_shakespeare --model.n-heads 5",
        "embedding_dim must be a multiple of n_heads",
    ),
    "no steps": ("train_gpt2 --training.steps 0", "steps must be at least 1"),
    "a word for a number": ("train_gpt2 --training.steps many", "many"),
    "a flag that is not there": ("train_gpt2 --step 5", "--step"),
    "a tokeniser that cannot end a text": (
        "train_gpt2 --data text.txt --tokeniser whole/model",
        "the tokeniser in whole/model has no <|endoftext|> token",
    ),
    "an unknown preset": (
        "train_gpt2 --preset huge",
        "no preset 'huge'; there are auto, fine-tuning, laptop",
    ),
    "settings that are not there": ("inference --config no.toml", "no.toml: No such file"),
    "a model that is not there": (
        "inference",
        "there is no model in runs/shakespeare/model; train one first",
    ),
    "a folder that holds no model": (
        "inference --model whole/checkpoints",
        "there is no tokenizer.json in whole/checkpoints",
    ),
    "a damaged model": ("inference --model damaged", "model.safetensors"),
    "a character the model never saw": ("inference --model whole/model --prompt é", "é"),
    "a dial out of range": (
        "inference --model whole/model --prompt to --top-k 0",
        "top_k must be at least 1, got 0",
    ),
}


@pytest.fixture(scope="module")
def messy_place(place, whole):
    (place / "empty.txt").write_text("")
    (place / "short.txt").write_text("a")
    (place / "brief.txt").write_text("To be, or not")
    (place / "latin1.txt").write_bytes("garçon".encode("latin-1"))
    (place / "a.pdf").write_text("%PDF")
    (place / "damaged").mkdir()
    for path in (whole[0] / "model").iterdir():
        (place / "damaged" / path.name).write_bytes(path.read_bytes())
    weights = place / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return place


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_a_message(mistake, messy_place):
    line, message = MISTAKES[mistake]
    app, *words = line.split()
    done = run(app, *words, cwd=messy_place, timeout=120)
    said = in_one_line(done.stderr)
    assert done.returncode != 0
    assert message in said
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("app", ["train_shakespeare", "train_gpt2", "inference"])
def test_asking_for_a_gpu_where_none_works_says_how_to_get_there(app, tmp_path):
    # Whatever this machine has, the app does not find it.
    (tmp_path / "cupy.py").write_text("raise ImportError('not here')")
    there = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = run(app, "--device", "cuda", cwd=tmp_path, env=there, timeout=120)
    said = in_one_line(done.stderr)
    assert done.returncode != 0
    reason = "cupy is installed and cannot be imported (not here)"
    assert f"no GPU works here: {reason}; install tricycle-autograd[cuda13]" in said
    assert "--device cpu works without one" in said
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


# ---- Several ranks ----


def test_two_ranks_make_the_run_of_one(place):
    words = ["--data", "text.txt", "--preset", "laptop", "--model.vocab-size", "300"]
    words += [*TINY_MODEL, "--training.steps", "10", "--training.warmup", "1"]
    words += ["--sample-tokens", "20", "--training.log-every", "5", "--no-track"]
    two = [str(Path(sys.executable).with_name("mpiexec")), "-n", "2"]
    odd = [*words, "--training.batch-size", "3", "--folder", "odd"]
    done = subprocess.run(
        [*two, *command("train_gpt2", *odd)], cwd=place, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "which 2 ranks cannot share evenly" in done.stderr
    assert not (place / "odd").exists()  # no text is encoded for a run that cannot be
    for launcher, folder in ([], "alone"), (two, "together"):
        done = subprocess.run(
            [*launcher, *command("train_gpt2", *words, "--folder", folder)],
            cwd=place,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        for said in ("tokens to train on", "step 10/10", "Generate more"):
            assert done.stderr.count(said) == 1
    alone, together = (dict(losses(place / name)) for name in ("alone", "together"))
    assert alone.keys() == together.keys()
    for step in range(10):
        assert together[step] == pytest.approx(alone[step], abs=1e-4)
    names = [
        sorted(str(p.relative_to(place / name)) for p in (place / name).rglob("*"))
        for name in ("alone", "together")
    ]
    assert names[0] == names[1]
