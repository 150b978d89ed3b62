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
from tricycle_gpt import GPT, GPTConfig, to_huggingface

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden/exports/tokens.json").read_text(encoding="utf-8")
)
SIZES = {"context_window": 24, "embedding_dim": 16, "n_layers": 1, "n_heads": 2}
BLOCKS = {
    "gpt2": {},
    "llama": {"block": "llama"},
    "qwen3": {"block": "llama", "qk_norm": True},
}


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
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
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
