"""Benchmarks: HellaSwag, LAMBADA and WikiText, from files in their public formats.

Each comes down to one question: how likely does the model find this continuation of that text?
Texts are prepared and scored as lm-evaluation-harness does (tasks hellaswag, lambada_openai and
wikitext), so that numbers can be laid beside published ones.

    HellaSwag  (Zellers et al., 2019) four endings, one of them written by a person
               {"activity_label", "ctx_a", "ctx_b", "ctx", "endings", "label"} a line
    LAMBADA    (Paperno et al., 2016) the last word of a passage       {"text"} a line
    WikiText   (Merity et al., 2016) whole articles; the raw .txt file, or .parquet with `text`
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tricycle_autograd import no_grad
from tricycle_gpt.model import GPT
from tricycle_nn import dropout_off

Pair = tuple[list[int], list[int]]


class Encoder(Protocol):
    """What is needed of a tokeniser."""

    def encode(self, text: str) -> list[int]:
        """Text to ids."""
        ...


@dataclass(frozen=True)
class HellaSwag:
    """accuracy by the whole ending's likelihood, and by likelihood per character (acc, acc_norm);
    margin is half the 95% interval of the latter."""

    accuracy: float
    normalised_accuracy: float
    margin: float
    questions: int


@dataclass(frozen=True)
class Lambada:
    """accuracy: how often the likeliest tokens spell the last word; its perplexity; margin is
    half the 95% interval of the accuracy."""

    accuracy: float
    perplexity: float
    margin: float
    passages: int


@dataclass(frozen=True)
class WikiText:
    """Perplexities by word and by byte of the original text, and bits per byte."""

    word_perplexity: float
    byte_perplexity: float
    bits_per_byte: float
    articles: int


def log_likelihoods(model: GPT, pairs: Iterable[Pair]) -> Iterator[tuple[float, bool]]:
    """For (context, continuation) pairs of ids: ln p(continuation), and whether it is what the
    likeliest token at each place gives.

    Where both are longer than the context window, the context loses its beginning.  Raises
    ValueError if one of them is empty, or the continuation is longer than the window.
    """
    window = model.config.context_window
    for context, continuation in pairs:
        if not context or not 0 < len(continuation) <= window:
            raise ValueError(
                "a continuation needs at least one token before it, and 1 to "
                f"{window} tokens; got {len(context)} and {len(continuation)}"
            )
        ids = np.array([*context, *continuation][-window - 1 :])
        with no_grad(), dropout_off():
            scores = model(ids[None, :-1]).numpy()[0, -len(continuation) :]
        scores = scores.astype(np.float64)  # (T, V)
        top = scores.max(axis=1)
        log_sum = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
        chosen = scores[np.arange(len(continuation)), continuation]
        greedy = bool((scores.argmax(axis=1) == continuation).all())
        yield float((chosen - log_sum).sum()), greedy


def hellaswag(model: GPT, tokeniser: Encoder, path: str | Path) -> HellaSwag:
    """Measure a model on a HellaSwag file."""
    whole, by_length = [], []
    for row in read_jsonl(path, ("activity_label", "ctx_a", "ctx_b", "endings", "label")):
        asked = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
        context = without_markup(asked)
        endings = [without_markup(ending) for ending in row["endings"]]
        pairs = [encode_pair(tokeniser, context, " " + ending) for ending in endings]
        scores = np.array([score for score, _ in log_likelihoods(model, pairs)])
        lengths = np.array([len(ending) for ending in endings])
        whole.append(int(scores.argmax()) == int(row["label"]))
        by_length.append(int((scores / lengths).argmax()) == int(row["label"]))
    normalised = float(np.mean(by_length))
    n = len(whole)
    return HellaSwag(float(np.mean(whole)), normalised, accuracy_margin(normalised, n), n)


def lambada(model: GPT, tokeniser: Encoder, path: str | Path) -> Lambada:
    """Measure a model on a LAMBADA file."""
    found: list[tuple[float, bool]] = []
    for number, row in enumerate(read_jsonl(path, ("text",)), 1):
        context, space, word = row["text"].rpartition(" ")
        if not space:
            raise ValueError(f"{path}, line {number} has one word only: {row['text'][:80]!r}")
        pair = encode_pair(tokeniser, context, " " + word)
        found.extend(log_likelihoods(model, [pair]))
    accuracy = float(np.mean([greedy for _, greedy in found]))
    surprise = -float(np.mean([score for score, _ in found]))
    n = len(found)
    return Lambada(accuracy, exp(surprise), accuracy_margin(accuracy, n), n)


def wikitext(model: GPT, tokeniser: Encoder, path: str | Path, end_of_text: int) -> WikiText:
    """Measure a model on a WikiText file.

    end_of_text  the id that stands before each article
    """
    score, words, size, articles = 0.0, 0, 0, 0
    for article in read_articles(path):
        ids = tokeniser.encode(without_spacing(article))
        pairs = rolling_windows(ids, end_of_text, model.config.context_window)
        score += sum(part for part, _ in log_likelihoods(model, pairs))
        words += len(re.split(r"\s+", article))
        size += len(article.encode())
        articles += 1
    if not articles:
        raise ValueError(f'{path} has no articles: each begins with a line like " = Title = "')
    bits = -score / size / math.log(2)
    return WikiText(exp(-score / words), exp(-score / size), bits, articles)


def rolling_windows(ids: list[int], first: int, window: int) -> Iterator[Pair]:
    """Cut a text so that each token is predicted once, the last ones from a full window.

    >>> list(rolling_windows([1, 2, 3, 4, 5], 0, 3))
    [([0], [1, 2, 3]), ([2, 3], [4, 5])]
    """
    for start in range(0, len(ids), window):
        end = min(start + window, len(ids))
        begin = 0 if start == 0 else end - window - 1
        yield ([first] if start == 0 else ids[begin:start]), ids[start:end]


def encode_pair(tokeniser: Encoder, context: str, continuation: str) -> Pair:
    """Ids of a text and its continuation, cut where they are encoded as one.

    Spaces at the context's end go to the continuation, as tokenisers join them to words.
    """
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    ids = list(tokeniser.encode(context + continuation))
    cut = len(tokeniser.encode(context))
    return ids[:cut], ids[cut:]


def without_markup(text: str) -> str:
    """HellaSwag's WikiHow texts without what is left of their markup.

    >>> without_markup(" How to sit [title] Sit. [step] Slowly [substeps]down.")
    'How to sit. Sit. Slowly down.'
    """
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


# WikiText's own notation, in the order in which it is undone.
SPACING = [
    (r"s '", "s'"),
    (r" @-@ ", "-"),
    (r" @,@ ", ","),
    (r" @\.@ ", "."),
    (r" : ", ": "),
    (r" ; ", "; "),
    (r" \. ", ". "),
    (r" ! ", "! "),
    (r" \? ", "? "),
    (r" , ", ", "),
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
    (r"= = = =", "===="),
    (r"= = =", "==="),
    (r"= =", "=="),
    (f" {chr(176)} ", chr(176)),
    (r" \n", "\n"),
    (r"\n ", "\n"),
    (r" N ", " 1 "),
    (r" 's", "'s"),
]


def without_spacing(text: str) -> str:
    """WikiText as a person would type it.

    >>> without_spacing("It cost 1 @,@ 000 pounds ( or so ) , he said . \\n")
    'It cost 1,000 pounds (or so), he said.\\n'
    """
    for pattern, replacement in SPACING:
        text = re.sub(pattern, replacement, text)
    return text


def read_articles(path: str | Path) -> Iterator[str]:
    """The articles of a WikiText file: each begins with " = Title = "."""
    lines: list[str] = []
    for line in read_lines(Path(path)):
        if re.fullmatch(r" = [^=].* = \n", line) and any(lines):
            yield "".join(lines)
            lines = []
        if lines or line.strip():
            lines.append(line)
    if lines:
        yield "".join(lines)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a .txt file, or the rows of a .parquet file's column `text`."""
    if path.suffix != ".parquet":
        with path.open(encoding="utf-8", newline="\n") as file:
            yield from file
        return
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            "reading .parquet needs pyarrow; install it with the extra: tricycle-gpt[parquet]"
        ) from error
    for batch in parquet.ParquetFile(path).iter_batches(columns=["text"]):
        yield from batch.column(0).to_pylist()


def read_jsonl(path: str | Path, wanted: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file.  ValueError, with the line, if one lacks what is wanted."""
    empty = True
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                missing = [name for name in wanted if name not in row]
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {number} is not JSON: {line[:80]!r}") from error
            if missing:
                raise ValueError(f"{path}, line {number} has no {', '.join(missing)}")
            empty = False
            yield row
    if empty:
        raise ValueError(f"{path} is empty")


def accuracy_margin(accuracy: float, n: int) -> float:
    """Half the width of the 95% interval of a share of n answers (normal approximation)."""
    return 1.96 * math.sqrt(accuracy * (1 - accuracy) / max(n - 1, 1))


def exp(nats: float) -> float:
    """e^nats, infinite where a float ends."""
    return math.exp(nats) if nats < 700 else math.inf
