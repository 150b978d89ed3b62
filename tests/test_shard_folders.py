"""A text, through tricycle_bpe to a folder of ids, and out of it by tricycle_datasets."""

import numpy as np
import pytest

from tricycle_bpe import Tokeniser
from tricycle_datasets import Batches, ShardError, TokenShards, windows

END = "<|endoftext|>"
TEXTS = ["to be, or not to be", "that is the question", "whether 'tis nobler"]


@pytest.fixture(scope="module")
def tokeniser():
    return Tokeniser.train(TEXTS, 280, special_tokens=[END])


@pytest.fixture
def shards(tokeniser, tmp_path):
    (tmp_path / "text.txt").write_text(END.join(TEXTS))
    folder = tokeniser.encode_file(
        tmp_path / "text.txt", tmp_path / "shards", document_separator=END, shard_tokens=10
    )
    return TokenShards(folder, tokeniser_sha256=tokeniser.fingerprint())


def test_what_was_encoded_is_what_is_read(tokeniser, shards):
    documents = [[*tokeniser.encode(text), tokeniser.special_tokens[END]] for text in TEXTS]
    assert shards[:].tolist() == sum(documents, [])
    lengths = [len(document) for document in documents]
    assert shards.document_starts.tolist() == [0, *np.cumsum(lengths)[:-1].tolist()]
    assert shards.n_vocab == tokeniser.n_vocab
    assert shards.tokeniser == {"name": tokeniser.name, "sha256": tokeniser.fingerprint()}


def test_windows_within_documents_decode_to_their_texts(tokeniser, shards):
    T = max(np.diff([*shards.document_starts, len(shards)]))
    decoded = []
    for inputs, targets in windows(shards, T, packing=False):
        ids = [*inputs[0, :1], *targets[0][targets[0] != -100]]
        decoded.append(tokeniser.decode([int(i) for i in ids]))
    assert decoded == [text + END for text in TEXTS]


def test_batches_of_the_folder_are_those_of_its_ids(shards):
    of_ids, of_folder = (Batches(tokens, 3, 8, seed=0) for tokens in (shards[:], shards))
    for _ in range(10):
        for one, other in zip(next(of_ids), next(of_folder), strict=True):
            np.testing.assert_array_equal(one, other)


def test_ids_of_another_tokeniser_are_refused(shards):
    other = Tokeniser.train(["something else"], 260)
    with pytest.raises(ShardError, match="the ids were made by tokeniser .* prepare the text"):
        TokenShards(shards.path, tokeniser_sha256=other.fingerprint())
