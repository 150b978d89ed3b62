"""Our tokenizer.json in the hands of transformers."""

import pytest
import transformers

from tricycle_bpe import Tokeniser
from tricycle_datasets import load_shakespeare

TEXTS = [
    "To be, or not to be: that is the question.",
    "  two spaces, a tab\tand\r\nlines \n\n\n of it ",
    "naïve café — “quotes” 東京 🙂 e\u0301",
    "I'll 12345 don't WE'RE",
    "",
]


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k"])
def test_ids_and_texts_are_equal(pattern, tmp_path):
    text = load_shakespeare()[:200_000]
    ours = Tokeniser.train([text], 600, pattern=pattern, special_tokens=("<|endoftext|>",))
    ours.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), clean_up_tokenization_spaces=False
    )
    for each in [*TEXTS, text[50_000:60_000]]:
        ids = ours.encode(each)
        assert theirs.encode(each, add_special_tokens=False) == ids
        assert theirs.decode(ids) == ours.decode(ids) == each
    special = "before<|endoftext|>after"
    assert theirs.encode(special, add_special_tokens=False) == ours.encode(
        special, allowed_special="all"
    )
