"""Model folders in the hands of transformers: the tokeniser that a model was trained with.

`AutoTokenizer` takes the class that belongs to the kind of model, unless the folder names another.
tests/golden/exports holds what it gave for every pattern; tests/test_exports.py holds ours to that.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tricycle_bpe import Tokeniser
from tricycle_gpt import GPT, GPTConfig, from_huggingface, to_huggingface
from tricycle_gpt.published import pieces
from tricycle_gpt.safetensors_files import write_in_folder

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden/exports/tokens.json").read_text(encoding="utf-8")
)
SIZES = {"context_window": 24, "embedding_dim": 16, "n_layers": 1, "n_heads": 2}
BLOCKS = {
    "gpt2": {},
    "llama": {"block": "llama"},
    "qwen2": {"block": "llama", "query_key_value_bias": True},
    "qwen3": {"block": "llama", "qk_norm": True},
    "mistral": {"block": "llama", "sliding_window": 5},
    "olmo2": {"block": "olmo2"},
}


def opener_of(block):
    """What opens a folder's tokeniser as it stands: for all kinds but one `AutoTokenizer`.

    transformers 5.24 takes Qwen2's own for every qwen2 folder, whatever class it names: right for a
    Qwen2 that was tuned, and not for other tokens.
    """
    if block == "qwen2":
        return transformers.PreTrainedTokenizerFast
    return transformers.AutoTokenizer


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_folder_gives_the_scores_of_the_model_in_it(block, dtype, tmp_path):
    model = GPT(GPTConfig(60, **SIZES, **BLOCKS[block]), rng=np.random.default_rng(0))
    for parameter in model.parameters():  # norms and biases too
        parameter.array += np.random.default_rng(1).standard_normal(parameter.shape) / 8
    to_huggingface(model, tmp_path, dtype=dtype)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert theirs.config.model_type == block
    ours = from_huggingface(tmp_path)  # in which numbers are the nearest of that dtype
    ids = np.random.default_rng(2).integers(0, 60, (2, 20))
    scores = theirs(torch.from_numpy(ids)).logits.detach().numpy()
    np.testing.assert_allclose(ours(ids).numpy(), scores, rtol=0, atol=1e-4)
    if dtype == "float32":
        np.testing.assert_array_equal(ours(ids).numpy(), model(ids).numpy())


def test_several_files_and_what_is_said_of_texts_are_understood(tmp_path):
    ours = Tokeniser.train(
        [GOLDEN["learned_from"]], 300, special_tokens=["<|begin|>", "<|eot|>", "<|end|>"]
    )
    model = GPT(GPTConfig(ours.n_vocab, **SIZES), rng=np.random.default_rng(0))
    begin, *ends = (ours.special_tokens[text] for text in ("<|begin|>", "<|end|>", "<|eot|>"))
    model.begin_id, model.end_ids = begin, tuple(ends)
    model.chat_template = "{% for m in messages %}<|begin|>{{ m.content }}<|end|>{% endfor %}"
    to_huggingface(model, tmp_path, ours)
    parameters = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    weights = {name: piece.of(parameters) for name, piece in pieces(model.config).items()}
    write_in_folder(tmp_path, weights, "float32", largest=10_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = np.arange(20)[None]
    scores = theirs(torch.from_numpy(ids)).logits.detach().numpy()
    np.testing.assert_allclose(model(ids).numpy(), scores, rtol=0, atol=1e-4)
    assert theirs.generation_config.eos_token_id == ends
    texts = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (texts.bos_token_id, texts.eos_token_id) == (begin, ends[0])
    said = texts.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert said == "<|begin|>hi<|end|>"


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_a_folder_is_tokenised_as_it_was_trained_and_ends_where_texts_end(block, case, tmp_path):
    ours = Tokeniser.train(
        [GOLDEN["learned_from"]],
        GOLDEN["vocab_size"],
        pattern=case["pattern"],
        special_tokens=case["special_tokens"],
    )
    config = GPTConfig(ours.n_vocab, **SIZES, **BLOCKS[block])
    model = GPT(config, rng=np.random.default_rng(0))
    to_huggingface(model, tmp_path, ours)
    theirs = opener_of(block).from_pretrained(tmp_path)
    assert len(theirs) == ours.n_vocab  # no token that the model's table does not have
    for text, ids in zip(GOLDEN["texts"], case["ids"], strict=True):
        assert theirs(text)["input_ids"] == ids
        assert ours.encode(text, allowed_special="all") == ids
        assert theirs.decode(ids) == text

    end = ours.special_tokens.get("<|endoftext|>")
    assert theirs.eos_token_id == theirs.bos_token_id == end
    their_model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert their_model.generation_config.eos_token_id == end
    if end is not None:  # a model to which nothing is likelier after token 1 than the end
        model.head_weight.array[end] = 100 * model.hidden(np.array([[1]])).array[0, 0]
        to_huggingface(model, tmp_path, ours)
        their_model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
        prompt = torch.tensor([[1]])
        written = their_model.generate(prompt, do_sample=False, max_length=20)
        assert written.tolist() == [[1, end]]
