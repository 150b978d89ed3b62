"""train-gpt2, from texts of any kind to a model: the same bytes on every way there."""

import hashlib
import json
import lzma
import os
import random
import re
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tricycle_bpe import Tokeniser
from tricycle_gpt import GPT, GPTConfig, read_metrics, to_huggingface

APP = Path(__file__).parents[1] / "apps" / "train_gpt2"
KILLS = 10 if os.environ.get("TRICYCLE_TEST_LONG") == "1" else 1


def split(text):
    return text.split()


DEALER = random.Random(1)
WORDS = split("to be or not that is the question whether nobler in mind suffer slings arrows")
TEXTS = [
    f"Speech {number}.\n" + " ".join(DEALER.choices(WORDS, k=DEALER.randrange(5, 60)))
    for number in range(120)
]
TINY = split("""
    --no-track --sample-tokens 5 --model.vocab-size 300 --model.n-layers 1 --model.embedding-dim 16
    --model.n-heads 2 --model.context-window 16 --training.batch-size 4
""")
RECIPE = split("--preset laptop --training.steps 6 --training.evaluate-every 3")


def command(*words):
    return [sys.executable, str(APP), *map(str, words)]


def run(place, *words):
    return subprocess.run(
        command(*words), cwd=place, capture_output=True, text=True, check=False, timeout=300
    )


def weights(folder):
    """The bytes of all that training decided."""
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    files = [newest / "parameters.safetensors", newest / "optimiser.safetensors"]
    return [path.read_bytes() for path in [*files, folder / "model" / "model.safetensors"]]


def losses(folder):
    return [row.get("loss") for row in read_metrics(folder / "metrics.jsonl")]


def train(place, *words):
    done = run(place, *words)
    assert done.returncode == 0, done.stderr
    return done


def refused(place, *words):
    done = run(place, *words)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def shards(folder):
    return {
        f"{side}/{path.name}": path.read_bytes()
        for side in ("train", "validation")
        for path in (folder / side).iterdir()
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The same documents in files of several kinds."""
    place = tmp_path_factory.mktemp("texts")
    lines = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS))
    with lzma.open(place / "texts.jsonl.xz", "wt") as file:
        file.write(lines)
    table = pyarrow.table({"text": TEXTS})
    pyarrow.parquet.write_table(table, place / "texts.parquet", row_group_size=50)
    (place / "folder").mkdir()
    (place / "folder" / "texts.jsonl").write_text(lines)
    (place / "book.txt").write_text("\n\n".join(TEXTS))
    return place


@pytest.fixture(scope="module")
def whole(place):
    """A run that nobody disturbed."""
    train(place, "--data", "texts.jsonl.xz", "--folder", "whole", *TINY, *RECIPE)
    return place / "whole"


# ---- Data of every kind ----


def test_the_run_records_what_it_learned_from(whole):
    record = json.loads((whole / "data.json").read_text())
    assert record == json.loads((whole / "data" / "data.json").read_text())
    assert record["source"]["path"].endswith("texts.jsonl.xz")
    assert record["train"]["n_documents"] == 114
    assert record["validation"]["n_documents"] == 6  # 5 percent
    tokeniser = Tokeniser.load(whole / "model")
    assert record["tokeniser"] == tokeniser.fingerprint()
    state = json.loads((whole / "checkpoints" / "step-00000006" / "state.json").read_text())
    assert state["recipe"]["data.tokeniser"] == tokeniser.fingerprint()
    assert len(state["recipe"]["data.train"]) == 64


@pytest.mark.parametrize("data", ["texts.parquet", "folder", "whole/data"])
def test_the_same_documents_from_anywhere_make_the_same_model(place, whole, data):
    folder = Path("from") / data
    train(place, "--data", data, "--folder", folder, *TINY, *RECIPE)
    assert weights(place / folder) == weights(whole)
    made = place / (data if data == "whole/data" else folder / "data")
    assert shards(made) == shards(whole / "data")


def test_runs_share_the_folder_named_by_shards(place, whole):
    words = ["--data", "texts.parquet", "--shards", "shared", *TINY, *RECIPE]
    train(place, *words, "--folder", "one")
    then = (place / "shared" / "train" / "00000.npy").stat().st_mtime_ns
    said = train(place, *words, "--folder", "two").stderr
    assert "encoding" not in said
    assert (place / "shared" / "train" / "00000.npy").stat().st_mtime_ns == then
    assert weights(place / "one") == weights(place / "two") == weights(whole)


def test_one_book_is_cut_in_two_and_written_on_from_a_line(place):
    train(place, "--data", "book.txt", "--folder", "book", *TINY, *RECIPE)
    record = json.loads((place / "book" / "data.json").read_text())
    assert record["train"]["n_documents"] == record["validation"]["n_documents"] == 1
    n_bytes = len((place / "book.txt").read_bytes())
    assert record["train"]["n_bytes"] + record["validation"]["n_bytes"] == n_bytes
    assert (place / "book" / "sample.txt").read_text().startswith("\n")


# ---- A size for the machine ----


def test_without_a_preset_a_size_is_chosen_and_its_flags_make_the_same_run(place):
    words = ["--data", "texts.jsonl.xz", "--no-track", "--sample-tokens", "5"]
    said = train(place, *words, "--minutes", "0.01", "--folder", "auto").stderr
    flags = re.search("^chosen: (.*)$", said, re.MULTILINE)[1].split()
    assert flags[:2] == ["--preset", "laptop"]
    assert "--model.embedding-dim" in flags
    train(place, *words, "--folder", "again", *flags)
    assert weights(place / "again") == weights(place / "auto")
    settings = (place / "auto" / "config.toml").read_text()
    assert 'preset = "laptop"' in settings
    train(place, "--config", "auto/config.toml", "--folder", "from-file")
    assert weights(place / "from-file") == weights(place / "auto")


INTERRUPTED = """
import os, runpy, signal, sys
from tricycle_gpt.runs.run_log import RunLog
told = RunLog.step
def step(log, row, tokens):
    told(log, row, tokens)
    if row["step"] == 2:
        os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C in the third step, however fast it is
RunLog.step = step
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def test_a_stopped_run_goes_on_with_the_choice_it_began_with_and_no_other_word(place, whole):
    words = ["--data", "texts.jsonl.xz", "--folder", "stopped", "--no-track", *TINY]
    steps = split("--training.steps 40 --training.evaluate-every 0")
    interrupted = [sys.executable, "-c", INTERRUPTED, str(APP), *words, *steps]
    said = subprocess.run(interrupted, cwd=place, check=True, stderr=subprocess.PIPE, text=True)
    assert "choosing a size" in said.stderr
    before = (place / "stopped" / "config.toml").read_text()
    assert len(losses(place / "stopped")) == 3
    # Another time and other flags would choose otherwise; it is not asked.
    said = train(place, *split("--folder stopped --resume --data texts.jsonl.xz")).stderr
    assert "choosing a size" not in said
    assert len(losses(place / "stopped")) == 41
    assert (place / "stopped" / "config.toml").read_text() == before
    message = refused(place, *split("--folder stopped --resume --data folder"))
    assert "was begun with --data texts.jsonl.xz, not folder" in message


def test_what_a_run_refuses_to_go_on_with_is_forgotten_and_the_rest_holds_for_a_session(
    place, whole
):
    shutil.copytree(whole, place / "refusing")
    before = (whole / "config.toml").read_bytes()
    again = ["--folder", "refusing", "--resume", "--no-track", "--sample-tokens", "5"]
    for words, message in (
        (["--training.seed", "5"], "training.seed was 0, is 5"),
        (["--preset", "gpt2"], "was begun with --preset laptop, not gpt2: leave --preset out, or"),
        (["--validation", "0.2"], "was begun with --validation 0.05, not 0.2"),
        (["--max-tokens", "9"], "was begun with --max-tokens None, not 9"),
        (["--data", "folder"], "was begun with --data texts.jsonl.xz, not folder"),
    ):
        assert message in refused(place, *again, *words)
        assert (place / "refusing" / "config.toml").read_bytes() == before
    words = ["--preset", "auto", "--data", place / "texts.jsonl.xz", "--training.spikes", "skip"]
    train(place, *again, *words)
    train(place, *again)
    assert (place / "refusing" / "config.toml").read_bytes() == before
    assert weights(place / "refusing") == weights(whole)


def test_a_plan_is_for_the_tokens_of_the_tokeniser_and_the_data_that_is_prepared(place, whole):
    n_vocab = Tokeniser.load(whole / "model").n_vocab
    words = ["--plan", "--no-track", "--folder", "planned", "--minutes"]
    said = train(place, *words, "0.01", "--tokeniser", "whole/model").stderr
    assert f"--model.vocab-size {n_vocab} " in said
    said = train(place, *words, "1000", "--data", "whole/data").stderr
    assert f"--model.vocab-size {n_vocab} " in said
    tokens = json.loads((whole / "data.json").read_text())["train"]["n_tokens"]
    looked_at = int(re.search(r"^tokens +([\d,]+):", said, re.MULTILINE)[1].replace(",", ""))
    assert 7 * tokens < looked_at <= 8 * tokens  # and not what 1000 minutes would allow
    assert not (place / "planned").exists()
    # Another run's text, in the folder where this one's would be, is none of its business.
    said = train(place, "--plan", "--no-track", "--folder", "whole", "--minutes", "0.01").stderr
    assert "--model.vocab-size" not in said


# ---- Stopped before it trains ----


@pytest.mark.parametrize("kill", range(KILLS))
def test_killed_while_it_prepares_it_ends_at_the_same_bytes(place, whole, kill):
    words = ["--data", "texts.jsonl.xz", "--folder", f"killed-{kill}", *TINY, *RECIPE, "--resume"]
    process = subprocess.Popen(command(*words), cwd=place)
    data = place / f"killed-{kill}" / "data"
    while not data.exists() and process.poll() is None:
        time.sleep(0.001)
    time.sleep(random.Random(kill).uniform(0, 0.05))
    assert process.poll() is None
    process.kill()
    process.wait()
    train(place, *words)
    assert weights(data.parent) == weights(whole)
    assert shards(data) == shards(whole / "data")


def test_half_prepared_data_is_gone_on_with(place, whole):
    half = place / "half"
    shutil.copytree(whole / "data", half / "data")
    shutil.rmtree(half / "data" / "validation")
    record = json.loads((half / "data" / "data.json").read_text())
    del record["train"], record["validation"]
    (half / "data" / "data.json").write_text(json.dumps(record))
    train(place, "--data", "texts.jsonl.xz", "--folder", "half", *TINY, *RECIPE)
    assert weights(half) == weights(whole)
    assert (half / "data.json").read_bytes() == (whole / "data.json").read_bytes()


# ---- Mistakes ----


def test_prepared_data_of_another_tokeniser_or_text_is_refused_before_anything_starts(place, whole):
    Tokeniser.train(["one two"], 257, special_tokens=["<|endoftext|>"]).save(place / "other")
    words = [*TINY, *RECIPE, "--folder", "refused"]
    said = refused(place, *words, "--data", "whole/data", "--tokeniser", "other")
    assert "the ids were made by tokeniser" in said
    said = refused(place, *words, "--data", "book.txt", "--shards", "whole/data")
    assert "whole/data was prepared differently: source was" in said
    words = [*words, "--data", "texts.jsonl.xz", "--shards", "whole/data"]
    said = refused(place, *words, "--validation", "0.2", "--max-tokens", "500")
    assert "validation_share was 0.05, is 0.2; max_tokens was None, is 500" in said
    words = words[:-4]
    said = refused(place, *words, "--data", "whole/data/train")
    assert "a folder of ids of one side only" in said
    assert not (place / "refused" / "config.toml").exists()


def test_a_line_that_is_no_text_is_named_by_its_file_and_number(place):
    lines = [json.dumps({"text": text}) for text in TEXTS]
    lines[70] = '{"text": 5}'
    (place / "bad.jsonl").write_text("\n".join(lines))
    said = refused(place, "--data", "bad.jsonl", "--folder", "bad", *TINY, *RECIPE)
    assert 'line 71 of bad.jsonl: field "text" holds int, not text' in said
    said = refused(place, "--data", "folder", "--text-field", "id", "--folder", "bad2", *TINY)
    assert 'field "id" holds int, not text' in said


def test_a_plan_reads_the_data_and_refuses_a_path_that_is_not_there(place):
    words = ["--plan", "--no-track", "--folder", "planned", "--preset", "laptop"]
    (place / "short.txt").write_text("To be, or not to be.\n\n" * 400)
    said = train(place, *words, "--data", "short.txt").stderr
    assert re.search(r"short.txt: 8,\d+ bytes to train on, about 2,\d+ tokens", said)
    said = refused(place, *words, "--data", "nothing.txt")
    assert "no file or folder at nothing.txt" in said
    assert not (place / "planned").exists()


# ---- From weights ----

STEPS = {"training.steps"}  # the only setting that was named


@pytest.fixture(scope="module")
def app():
    """What the program is made of, in this process: for what it refuses."""
    sys.path.insert(0, str(APP))  # as `python apps/train_gpt2` does
    import settings
    import texts

    sys.path.remove(str(APP))
    names = settings.Arguments, settings.with_weights, settings.sized, texts.known_tokeniser
    return SimpleNamespace(**{name.__name__: name for name in names})


@pytest.fixture(scope="module")
def tuned(place, whole):
    """A run from the weights of another."""
    words = ["--from", "whole", "--data", "texts.jsonl.xz", "--folder", "tuned", "--no-track"]
    return train(place, *words, "--sample-tokens", "5")


def test_a_run_from_weights_has_their_size_tokens_and_end_and_sees_the_text_once(
    place, whole, tuned
):
    settings = tomllib.loads((place / "tuned" / "config.toml").read_text())
    assert settings["from"] == "whole"
    assert settings["preset"] == "fine-tuning"
    assert settings["model"]["n_layers"] == 1
    theirs = json.loads((whole / "model" / "config.json").read_text())
    assert settings["model"]["vocab_size"] == theirs["vocab_size"]
    record = json.loads((place / "tuned" / "data.json").read_text())
    assert settings["training"]["steps"] == record["train"]["n_tokens"] // (4 * 16)
    assert settings["training"]["learning_rate"] == 5e-5
    assert record["tokeniser"] == json.loads((whole / "data.json").read_text())["tokeniser"]
    weights_of_it = (whole / "model" / "model.safetensors").read_bytes()
    assert record["weights"]["sha256"] == hashlib.sha256(weights_of_it).hexdigest()
    # It begins where the other one ended, and ends lower.
    rows = read_metrics(place / "tuned" / "metrics.jsonl")
    looks = [row["validation_loss"] for row in rows if "validation_loss" in row]
    before = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])
    assert looks[-1] < before["validation_loss"]
    assert looks[0] == pytest.approx(before["validation_loss"], abs=0.02)


def test_a_stopped_run_from_weights_goes_on_to_the_same_bits(place, tuned):
    words = ["--from", "whole", "--data", "texts.jsonl.xz", "--folder", "tuned-2", "--no-track"]
    words = [sys.executable, "-c", INTERRUPTED, str(APP), *words, "--sample-tokens", "5"]
    subprocess.run(words, cwd=place, check=True)
    assert len(losses(place / "tuned-2")) == 3 < len(losses(place / "tuned")) - 1
    train(place, "--folder", "tuned-2", "--resume", "--no-track", "--sample-tokens", "5")
    assert weights(place / "tuned-2") == weights(place / "tuned")
    message = refused(place, "--folder", "tuned-2", "--resume", "--from", "book")
    assert "was begun with --from whole, not book" in message


def test_what_contradicts_the_weights_is_refused_before_anything_is_written(place, whole):
    words = ["--from", "whole", "--data", "texts.jsonl.xz", "--folder", "contradicting"]
    said = refused(place, *words, "--model.n-layers", "2", "--model.context-window", "17")
    assert "--model.context-window 17 (they have 16), --model.n-layers 2 (they have 1)" in said
    assert not (place / "contradicting").exists()


def test_a_place_without_weights_and_tokens_of_others_are_named(place, whole, app):
    args = app.Arguments(from_=str(whole), folder=place / "other-tokens")
    with pytest.raises(FileNotFoundError, match="no weights at .*nowhere"):
        app.with_weights(replace(args, from_=str(place / "nowhere")), set())
    without = shutil.copytree(whole / "model", place / "without")
    (without / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="without has no tokenizer.json: put the one of these we"):
        app.with_weights(replace(args, from_=str(without)), set())
    Tokeniser.train(["one two"], 257, special_tokens=["<|endoftext|>"]).save(place / "other")
    asked = app.with_weights(replace(args, tokeniser=str(place / "other")), set())
    with pytest.raises(
        ValueError, match="gives other ids than the one that the weights in .*whole"
    ):
        app.known_tokeniser(asked, args.folder)


def test_a_name_on_the_hub_is_fetched_and_a_folder_is_not(place, whole, app, monkeypatch):
    asked = []

    def fetched(name, say):
        asked.append(name)
        return whole / "model", f"{name}@{'c' * 40}"

    monkeypatch.setattr("settings.hub_model", fetched)
    monkeypatch.chdir(place)
    args = app.with_weights(app.Arguments(from_="own/er@main"), set())
    assert asked == ["own/er@main"]
    assert args.from_ == "own/er@main"  # so that the same command goes on with it
    assert args.tokeniser == str(whole / "model")
    with pytest.raises(FileNotFoundError, match="no weights at whole/nothing"):
        app.with_weights(app.Arguments(from_="whole/nothing"), set())
    assert asked == ["own/er@main"]


def test_the_tokens_of_a_gguf_file_come_along(app, tmp_path):
    if "TRICYCLE_TEST_DATA" not in os.environ:
        pytest.skip("TRICYCLE_TEST_DATA is not set: mini/gguf/llama.gguf is looked for there")
    path = Path(os.environ["TRICYCLE_TEST_DATA"]) / "mini" / "gguf" / "llama.gguf"
    args = app.with_weights(app.Arguments(from_=str(path)), set())
    tokeniser = app.known_tokeniser(args, tmp_path)
    assert tokeniser.n_vocab == args.model.vocab_size == 887
    assert tokeniser.special_tokens["<|im_end|>"] < 887


def test_a_plan_from_weights_is_for_one_reading(whole, app):
    args = app.Arguments(from_=str(whole), model=app.Arguments().model)
    args = app.with_weights(
        replace(args, model=replace(args.model, dropout=0.1)), {"model.dropout"}
    )
    assert (args.model.context_window, args.model.dropout) == (16, 0.1)
    found = app.sized(args, set(), 6_400, 1)
    assert (found.preset, found.training.steps) == ("fine-tuning", 100)  # of 4 windows of 16
    again = app.sized(replace(args, training=replace(args.training, steps=7)), STEPS, 6_400, 1)
    assert (again.training.steps, again.training.learning_rate) == (7, 5e-5)


# ---- Conversations ----

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}"
)


@pytest.fixture(scope="module")
def chats(place):
    """Weights that know ChatML, and conversations."""
    ends = ["<|im_start|>", "<|im_end|>"]
    tokeniser = Tokeniser.train(TEXTS, 300, special_tokens=ends)
    sizes = {"context_window": 32, "embedding_dim": 16, "n_layers": 1, "n_heads": 2}
    model = GPT(GPTConfig(300, **sizes, block="llama"), rng=np.random.default_rng(0))
    model.end_ids, model.chat_template = (tokeniser.special_tokens["<|im_end|>"],), CHATML
    to_huggingface(model, place / "speaks", tokeniser)
    with (place / "chats.jsonl").open("w") as file:
        for text in TEXTS:
            asked = {"role": "user", "content": text[:30]}
            said = [asked, {"role": "assistant", "content": text[-30:]}]
            file.write(json.dumps({"messages": said}) + "\n")
    return ["--from", "speaks", "--data", "chats.jsonl", "--chat", "--no-track"]


def test_conversations_are_learned_by_the_template_of_the_weights(place, chats):
    words = [*chats, "--training.learning-rate", "1e-2", "--sample-tokens", "5"]
    train(place, *words, "--folder", "chatting")
    record = json.loads((place / "chatting" / "data.json").read_text())
    counts = record["train"]
    assert counts["n_documents"] == 114
    assert 0.2 * counts["n_tokens"] < counts["n_counted"] < 0.6 * counts["n_tokens"]
    assert losses(place / "chatting")[-2] < 0.9 * losses(place / "chatting")[0]
    sample = (place / "chatting" / "sample.txt").read_text()
    assert sample.startswith("<|im_start|>user\nSpeech ")
    assert "<|im_end|>\n<|im_start|>assistant\n" in sample
    settings = json.loads((place / "chatting" / "model" / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == CHATML
    assert settings["eos_token"] == "<|im_end|>"
    card = (place / "chatting" / "model" / "README.md").read_text()
    assert f"sha256: {record['source']['sha256']}" in card
    assert "validation" in card


def test_conversations_need_weights_that_know_how_to_write_them(place, whole, chats, app):
    args = app.Arguments(chat=True, data=str(place / "chats.jsonl"))
    with pytest.raises(
        ValueError, match="--chat needs --data, and --from: a model that has a chat"
    ):
        app.with_weights(args, set())
    with pytest.raises(ValueError, match="whole/model has no chat template, and cannot learn from"):
        app.with_weights(replace(args, from_=str(whole)), set())
    others = replace(args, from_=str(place / "speaks"), max_tokens=9, skip_unreadable=True)
    with pytest.raises(ValueError, match="leave --max-tokens, --skip-unreadable out"):
        app.with_weights(others, set())
