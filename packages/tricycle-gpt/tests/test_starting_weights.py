"""Weights to start from: what is known before they are read, and what a run may change."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from tricycle_gpt import (
    FINE_TUNING,
    GPTConfig,
    find_weights,
    for_one_epoch,
    from_huggingface,
    to_gguf,
    to_huggingface,
)

IDS = np.arange(5)[None]


def test_a_folder_a_run_and_a_file_are_found_and_give_the_model(tmp_path, make_tiny):
    model = make_tiny("llama")
    model.end_ids = (7, 2)
    to_huggingface(model, tmp_path / "run" / "model")
    to_gguf(model, tmp_path / "model.gguf", "F32")
    for name in ("run", "run/model", "model.gguf"):
        found = find_weights(tmp_path / name)
        assert found.config.vocab_size == 23
        again = found.model(found.fit(GPTConfig(), ()))
        np.testing.assert_array_equal(again(IDS).array, model(IDS).array)
    found = find_weights(tmp_path / "run")
    assert found.end_ids == found.read().end_ids == (7, 2)
    assert found.record()["sha256"] == find_weights(tmp_path / "run/model").record()["sha256"]
    assert len(found.record()["sha256"]) == 64


def test_the_record_is_of_all_that_is_read_and_of_nothing_else(tmp_path, make_tiny):
    model = make_tiny("llama")
    folder = to_huggingface(model, tmp_path / "model")
    files = find_weights(folder).record()["files"]
    assert list(files) == ["config.json", "generation_config.json", "model.safetensors"]
    for name in files:
        assert files[name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    before = find_weights(folder).record()
    (folder / "other.safetensors").write_bytes(b"never read")
    assert find_weights(folder).record() == before
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((folder / "config.json").read_text() + " ")
        after = find_weights(folder).record()
        assert after["files"][name] != before["files"].get(name)
        assert after["sha256"] == before["sha256"] == files["model.safetensors"]
        before = after
    path = to_gguf(model, tmp_path / "model.gguf", "F32")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert find_weights(path).record()["files"] == {"model.gguf": sha256}


def test_what_a_file_says_of_texts_is_the_models_too(tmp_path, make_tiny):
    path = to_gguf(make_tiny("llama"), tmp_path / "model.gguf", "F32")
    found = replace(find_weights(path), end_ids=(3,), begin_id=1, template="{{ messages }}")
    model = found.model(found.config)
    assert (model.end_ids, model.begin_id) == ((3,), 1)
    assert model.chat_template == "{{ messages }}"


def test_a_shorter_window_is_kept_for_training_and_rotary_positions_look_far_again(
    tmp_path, make_tiny
):
    found = find_weights(to_huggingface(make_tiny("llama", context_window=4096), tmp_path))
    assert found.fit(GPTConfig(), ()).context_window == 1024
    model = found.model(found.fit(GPTConfig(context_window=8), {"model.context_window"}))
    assert model.config.context_window == 8
    found.as_it_came(model)
    assert model.config == found.config


def test_of_a_table_of_positions_the_first_are_kept(tmp_path, make_tiny):
    before = make_tiny()
    found = find_weights(to_huggingface(before, tmp_path / "one"))
    model = found.model(found.fit(GPTConfig(context_window=8), {"model.context_window"}))
    found.as_it_came(model)
    assert model.config.context_window == 8
    np.testing.assert_array_equal(model(IDS).array, before(IDS).array)
    again = from_huggingface(to_huggingface(model, tmp_path / "two"))
    assert again.position_embedding.weight.shape == (8, 16)


def test_dropout_is_the_runs_and_follows_from_its_seed(tmp_path, make_tiny):
    found = find_weights(to_huggingface(make_tiny(), tmp_path))
    config = found.fit(GPTConfig(dropout=0.5), {"model.dropout"})
    one, two, other = (found.model(config, seed).train() for seed in (1, 1, 2))
    assert np.array_equal(one(IDS).array, two(IDS).array)
    assert not np.array_equal(one(IDS).array, other(IDS).array)


def test_all_that_contradicts_the_weights_is_listed(tmp_path, make_tiny):
    found = find_weights(to_huggingface(make_tiny(), tmp_path))
    asked = GPTConfig(n_layers=3, context_window=17, vocab_size=23, embedding_dim=16, n_heads=2)
    names = {"model.n_layers", "model.context_window", "model.vocab_size", "training.steps"}
    with pytest.raises(ValueError) as error:
        found.fit(asked, names)
    assert "--model.context-window 17 (they have 16), --model.n-layers 3 (they have 2)" in str(
        error
    )
    assert "vocab" not in str(error)


def test_the_end_of_a_text_is_the_makers_word_or_a_known_one(tmp_path, make_tiny):
    model = make_tiny()
    model.end_ids = (5, 3)
    found = find_weights(to_huggingface(model, tmp_path))
    assert found.end_of_text({"<|endoftext|>": 0, "<|im_end|>": 3}) == "<|im_end|>"
    assert found.end_of_text({"</s>": 1}) == "</s>"
    with pytest.raises(ValueError, match=r"names the ids \[5, 3\], and of <|endoftext|>, .* none"):
        found.end_of_text({"<pad>": 1})


def test_a_place_without_weights_is_named(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="holds a run that has not written its model yet"):
        find_weights(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"no weights at owner/name .* a .gguf file or"):
        find_weights("owner/name")


def test_an_epoch_is_a_reading_and_eight_looks():
    # 100,000 tokens in steps of 4 windows of 256: 97.
    recipe = for_one_epoch(FINE_TUNING, (), 100_000, 256)
    assert (recipe.steps, recipe.evaluate_every, recipe.checkpoint_every) == (97, 12, 12)
    chosen = for_one_epoch(FINE_TUNING, {"training.steps"}, 100_000, 256)
    assert (chosen.steps, chosen.evaluate_every) == (1000, 125)
    assert for_one_epoch(FINE_TUNING, (), 5, 256).steps == 1
    assert for_one_epoch(FINE_TUNING, (), None, 256).steps == FINE_TUNING.steps
