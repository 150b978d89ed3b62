"""HellaSwag, LAMBADA and WikiText: the questions are put as they should be, and scored right."""

import json
import math

import numpy as np
import pytest

from tricycle_gpt import benchmarks
from tricycle_gpt.benchmarks import hellaswag, lambada, log_likelihoods, rolling_windows, wikitext

QUESTION = {
    "ind": 1,
    "activity_label": "Cooking",
    "ctx_a": "A cook stands.",
    "ctx_b": "he",
    "ctx": "A cook stands. he",
    "endings": ["cuts an onion [substeps] slowly.", "flies.", "is a loaf of bread.", "rains."],
    "label": 1,
}
ARTICLE = (
    " \n = A Loaf = \n \n Bread is , at 1 @,@ 000 , dear . \n \n = = Crust = = \n \n Hard . \n"
)


class Letters:
    """A tokeniser for tests: 23 ids, by the characters' codes."""

    def encode(self, text):
        return [ord(letter) % 23 for letter in text]


def write_lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def by_the_loss(model, context, continuation):
    """ln p(continuation) from the model's training loss."""
    ids = np.array([[*context, *continuation][-model.config.context_window - 1 :]])
    targets = ids[:, 1:].copy()
    targets[:, : -len(continuation)] = -100
    model.eval()
    return -model.loss(ids[:, :-1], targets).item() * len(continuation)


def test_likelihoods_are_those_of_the_training_loss(model):
    pairs = [([1, 2, 3], [4, 5]), ([1], [2]), (list(range(20)), [3, 4, 5]), ([7], [8] * 16)]
    found = [score for score, _ in log_likelihoods(model, pairs)]
    np.testing.assert_allclose(found, [by_the_loss(model, *pair) for pair in pairs], rtol=1e-5)


def test_greedy_means_that_each_token_is_the_likeliest(make_tiny):
    model, ids = make_tiny(), [1, 2, 3]
    for _ in range(3):
        ids.append(int(model(np.array([ids])).numpy()[0, -1].argmax()))
    wrong = [*ids[:-1], (ids[-1] + 1) % 23]
    found = list(log_likelihoods(model, [(ids[:3], ids[3:]), (wrong[:3], wrong[3:])]))
    assert [greedy for _, greedy in found] == [True, False]


def test_hellaswag_asks_with_the_activity_and_divides_by_characters(make_tiny, tmp_path):
    model, path = make_tiny(), tmp_path / "hellaswag.jsonl"
    endings = ["cuts an onion slowly.", "flies.", "is a loaf of bread.", "rains."]
    context = Letters().encode("Cooking: A cook stands. He")
    kept = [ending[:15] for ending in endings]
    scores = np.array([by_the_loss(model, context, Letters().encode(" " + e)) for e in kept])
    rows = [QUESTION | {"endings": kept, "label": label} for label in range(4)]
    for row in rows:
        found = hellaswag(model, Letters(), write_lines(path, row))
        lengths = np.array([len(ending) for ending in kept])
        assert found.accuracy == (scores.argmax() == row["label"])
        assert found.normalised_accuracy == ((scores / lengths).argmax() == row["label"])
    found = hellaswag(model, Letters(), write_lines(path, *rows))
    assert (found.accuracy, found.normalised_accuracy, found.questions) == (0.25, 0.25, 4)
    assert found.margin == pytest.approx(1.96 * 0.25)  # sqrt(1/4 · 3/4 / 3) = 1/4


def test_lambada_asks_for_the_last_word(make_tiny, tmp_path):
    model, path = make_tiny(), tmp_path / "lambada.jsonl"
    texts = ["she cut the bread", "he ate it all"]
    found = lambada(model, Letters(), write_lines(path, *({"text": text} for text in texts)))
    encode = Letters().encode
    scores = [
        by_the_loss(model, encode("she cut the"), encode(" bread")),
        by_the_loss(model, encode("he ate it"), encode(" all")),
    ]
    assert found.perplexity == pytest.approx(math.exp(-np.mean(scores)), rel=1e-5)
    assert (found.accuracy, found.passages) == (0.0, 2)


@pytest.mark.parametrize("kind", ["txt", "parquet"])
def test_wikitext_counts_words_and_bytes_of_the_original(make_tiny, tmp_path, kind):
    model, path = make_tiny(), tmp_path / f"wiki.{kind}"
    if kind == "txt":
        path.write_text(ARTICLE * 2, encoding="utf-8")
    else:
        import pyarrow
        from pyarrow import parquet

        lines = (ARTICLE * 2).splitlines(keepends=True)
        parquet.write_table(pyarrow.table({"text": lines}), path)
    found = wikitext(model, Letters(), path, 0)
    assert found.articles == 2
    first, second = benchmarks.read_articles(path)
    assert first.startswith(" = A Loaf = \n")
    assert "Bread is, at 1,000, dear." in benchmarks.without_spacing(first)
    assert "== Crust ==" in benchmarks.without_spacing(first)
    total, size = 0.0, len((first + second).encode())
    for article in (first, second):
        ids = Letters().encode(benchmarks.without_spacing(article))
        total += sum(by_the_loss(model, *pair) for pair in rolling_windows(ids, 0, 16))
    assert found.bits_per_byte == pytest.approx(-total / size / math.log(2), rel=1e-5)
    assert found.byte_perplexity == pytest.approx(2**found.bits_per_byte)
    words = len(first.split()) + len(second.split()) + 4  # empty ones at both ends, as the harness
    assert found.word_perplexity == pytest.approx(math.exp(-total / words), rel=1e-5)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 33])
def test_rolling_windows_predict_each_token_once_and_fit(length):
    pairs = list(rolling_windows(list(range(length)), 99, 16))
    assert [token for _, continuation in pairs for token in continuation] == list(range(length))
    assert all(len(context) + len(continuation) <= 17 for context, continuation in pairs)


def test_files_of_another_kind_are_named(make_tiny, tmp_path):
    model, path = make_tiny(), tmp_path / "file.jsonl"
    with pytest.raises(ValueError, match=r"line 1 has no endings, label"):
        hellaswag(
            model, Letters(), write_lines(path, {"activity_label": 1, "ctx_a": "", "ctx_b": ""})
        )
    path.write_text("what\n")
    with pytest.raises(ValueError, match="line 1 is not JSON: 'what"):
        lambada(model, Letters(), path)
    write_lines(path, {"text": "to be"}, {"text": "alone"})
    with pytest.raises(ValueError, match=r"file.jsonl, line 2 has one word only: 'alone'"):
        lambada(model, Letters(), path)
    with pytest.raises(ValueError, match="file.jsonl is empty"):
        lambada(model, Letters(), write_lines(path))
    with pytest.raises(ValueError, match='has no articles: each begins with a line like " = Title'):
        wikitext(model, Letters(), path, 0)
    with pytest.raises(ValueError, match="1 to 16 tokens; got 1 and 17"):
        list(log_likelihoods(model, [([1], [2] * 17)]))
