"""A model card: the README.md of a model folder, which says where the model is from.

What the model is; the text it was trained on, with its digest; the recipe; what was measured, with
its margin; the licence; the command.  A number that is not known is not there, and a licence that
nobody named is said to be missing: it depends on the text and on the weights that a run began with.
"""

from dataclasses import asdict
from typing import Any

from tricycle_gpt.config import TrainingConfig
from tricycle_gpt.evaluation import Evaluation
from tricycle_gpt.model import GPT


def model_card(
    model: GPT,
    name: str,
    *,
    data: dict[str, Any] | None = None,
    recipe: TrainingConfig | None = None,
    steps: int | None = None,
    evaluation: Evaluation | None = None,
    licence: str | None = None,
    command: str | None = None,
) -> str:
    """The text of a card.

    data        what data.json of a run says
    steps       steps taken
    evaluation  on validation text
    licence     its short name, such as apache-2.0
    """
    config = model.config
    kind = config.family.format_of(config).model_type
    parts = [
        _front(licence),
        f"# {name}",
        f"A {kind} model of {model.n_parameters():,} parameters, trained with Tricycle: "
        f"{config.n_layers} layers, {config.embedding_dim} wide, {config.n_heads} heads, a "
        f"vocabulary of {config.vocab_size:,}, {config.context_window:,} tokens at once.",
        _text(data),
        _recipe(recipe, steps, command),
        _measured(evaluation),
        f"## Licence\n\n{licence or 'Not stated by those who trained it.'}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(licence):
    """What the hub reads, between two lines of dashes."""
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    lines += [f"license: {licence.lower()}"] if licence else []
    return "\n".join(["---", *lines, "---"])


def _text(data):
    if not data:
        return ""
    rows = []
    source = data.get("source", {})
    known = ("name", "repo", "commit", "sha256", "field", "files", "bytes")
    rows += [f"- {key}: {source[key]}" for key in known if source.get(key) is not None]
    for side in ("train", "validation"):
        if counts := data.get(side):
            tokens, documents = counts["n_tokens"], counts["n_documents"]
            rows.append(f"- {side}: {tokens:,} tokens, {documents:,} documents")
    if tokeniser := data.get("tokeniser"):
        rows.append(f"- tokeniser: sha256 {tokeniser}")
    if weights := data.get("weights"):
        rows.append(f"- weights that training began with: sha256 {weights['sha256']}")
    return "\n".join(["## Trained on", "", *rows])


def _recipe(recipe, steps, command):
    if recipe is None:
        return ""
    rows = [f"- {name}: {value}" for name, value in asdict(recipe).items() if value is not None]
    rows = [f"- steps taken: {steps:,}", *rows] if steps is not None else rows
    said = ["", "    " + command] if command else []
    return "\n".join(["## How", "", *rows, *said])


def _measured(found):
    if found is None:
        return ""
    rows = [f"- loss: {found.loss:.4f}{_margin(found.margin)} nats a token"]
    rows.append(f"- perplexity: {found.perplexity:.2f}")
    if found.bits_per_byte is not None:
        rows.append(f"- {found.bits_per_byte:.4f}{_margin(found.bits_margin)} bits per byte")
    rows.append(f"- on {found.tokens:,} tokens that were not trained on")
    return "\n".join(["## Measured", "", *rows])


def _margin(margin):
    """95 times in 100 the truth about such text lies within it."""
    return "" if margin is None else f" ± {margin:.4f}"
