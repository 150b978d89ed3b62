"""Model folders as other programs read them, against what transformers gave for each pattern.

scripts/golden_exports.py made the file; tests/compat/test_exports.py asks transformers itself.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from tricycle_bpe import Tokeniser
from tricycle_bpe.splitting import PATTERNS
from tricycle_gpt import GPT, GPTConfig, to_huggingface

GOLDEN = json.loads(
    (Path(__file__).parent / "golden/exports/tokens.json").read_text(encoding="utf-8")
)


def test_every_pattern_is_there_with_and_without_an_end_of_text_token():
    found = {(case["pattern"], tuple(case["special_tokens"])) for case in GOLDEN["cases"]}
    assert found == {(name, end) for name in PATTERNS for end in ((), ("<|endoftext|>",))}


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_our_ids_are_those_that_transformers_reads_from_the_folder(case, tmp_path):
    tokeniser = Tokeniser.train(
        [GOLDEN["learned_from"]],
        GOLDEN["vocab_size"],
        pattern=case["pattern"],
        special_tokens=case["special_tokens"],
    )
    sizes = {"context_window": 24, "embedding_dim": 16, "n_layers": 1, "n_heads": 2}
    model = GPT(GPTConfig(tokeniser.n_vocab, **sizes), rng=np.random.default_rng(0))
    to_huggingface(model, tmp_path, tokeniser)
    again = Tokeniser.load(tmp_path)
    for text, ids in zip(GOLDEN["texts"], case["ids"], strict=True):
        assert again.encode(text, allowed_special="all") == ids
        assert again.decode(ids) == text
    for name, expected in case["files"].items():
        assert json.loads((tmp_path / name).read_text(encoding="utf-8")) == expected
