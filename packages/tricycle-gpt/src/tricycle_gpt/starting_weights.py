"""Weights to start from: what is known of them before they are read, and a model for a run.

    found = find_weights("SmolLM2-135M/")      a model folder, a run's folder, or a .gguf file
    config = found.fit(asked, named)           what a run may change is little, and all is checked
    model = found.model(config)

A run looks at `context_window` tokens at once.  Published models often look at more than a machine
can train with, so a run's may be shorter: positions that turn know no longest window, and the model
is written with the one it came with (`as_it_came`); of a table of positions as many are kept.
"""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from tricycle_gpt.chat import Template
from tricycle_gpt.config import GPTConfig
from tricycle_gpt.gguf import from_gguf, opened, said_of_texts
from tricycle_gpt.huggingface import (
    CONFIG,
    GENERATION,
    TEMPLATE,
    TOKENISER_CONFIG,
    begin_in,
    config_in,
    ends_in,
    from_huggingface,
    template_in,
)
from tricycle_gpt.llama2c import from_llama2c, llama2c_in
from tricycle_gpt.model import GPT
from tricycle_gpt.safetensors_files import WEIGHTS, files_in_folder
from tricycle_nn import Dropout, Parameter

LONGEST_WINDOW = 1024  # that a run takes by itself
FREE = ("dropout", "context_window")  # what a run may say otherwise than its weights
TOKENISER_FILES = ("tokenizer.json", TOKENISER_CONFIG, TEMPLATE)
ENDS = ("<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "</s>")


@dataclass(frozen=True)
class StartingWeights:
    """Weights that were found, and not read yet.

    place      the model folder or the file that they are in
    config     the model's size and kind
    end_ids    tokens after which a text ends, as the makers say; begin_id the one that begins it
    template   how they write a conversation, in Jinja; None if they do not say
    read       () -> the model
    """

    place: Path
    config: GPTConfig
    end_ids: tuple[int, ...]
    read: Callable[[], GPT]
    begin_id: int | None = None
    template: str | None = None

    def fit(self, asked: GPTConfig, named: Collection[str]) -> GPTConfig:
        """The size of a model that a run makes of these weights.

        asked  a run's settings
        named  which of them were chosen, as "model.dropout"; all else is what the weights say

        Raises ValueError that lists all that contradicts the weights.
        """
        wanted = [f.name for f in fields(GPTConfig) if f"model.{f.name}" in named]
        window, most = self.config.context_window, min(self.config.context_window, LONGEST_WINDOW)
        chosen = {name: getattr(asked, name) for name in wanted}
        wrong = [
            f"--model.{name.replace('_', '-')} {value} (they have {getattr(self.config, name)})"
            for name, value in chosen.items()
            if (name not in FREE and value != getattr(self.config, name))
            or (name == "context_window" and value > window)
        ]
        if wrong:
            raise ValueError(
                f"{', '.join(wrong)} does not fit the weights in {self.place}: leave it out. A run "
                "from weights can be given a dropout, and a shorter context-window"
            )
        return replace(self.config, **{"context_window": most, **chosen})

    def model(self, config: GPTConfig, seed: int = 0) -> GPT:
        """Read the weights, as a model of that size: `fit` made it.

        seed  for dropout
        """
        model = self.read()
        model.end_ids, model.begin_id = self.end_ids, self.begin_id
        model.chat_template = self.template
        kept = {name: getattr(config, name) for name in FREE}
        if config.family.learned_positions and config.context_window < len(positions_of(model)):
            table = positions_of(model)[: config.context_window]
            model.position_embedding.weight = Parameter(table.copy())
        model.config = replace(model.config, **kept)
        rng = np.random.default_rng(seed)
        for layer in (module for module in model.modules() if isinstance(module, Dropout)):
            layer.p, layer.seed = config.dropout, int(rng.integers(2**63))
        return model

    def as_it_came(self, model: GPT) -> None:
        """Let a model that was trained look at as much as it did before, if it can."""
        if not model.config.family.learned_positions:
            model.config = replace(model.config, context_window=self.config.context_window)

    def end_of_text(self, special_tokens: dict[str, int]) -> str:
        """The special token that ends a text: the makers' word, or else one that is known.

        special_tokens  of the tokeniser, with their ids

        ValueError if there is none.
        """
        texts = {i: text for text, i in special_tokens.items()}
        found = [texts[i] for i in self.end_ids if i in texts]
        found += [text for text in ENDS if text in special_tokens]
        if not found:
            raise ValueError(
                f"no special token of this tokeniser ends a text: {self.place} names the ids "
                f"{list(self.end_ids)}, and of {', '.join(ENDS)} none is there"
            )
        return found[0]

    def chat(self, special_tokens: dict[str, int]) -> Template:
        """How the makers write a conversation; ValueError if they do not say, or in an unknown way.

        special_tokens  of the tokeniser, with their ids
        """
        if self.template is None:
            raise ValueError(
                f"{self.place} has no chat template, and cannot learn from conversations: start "
                "from a model that answers, or train on plain text"
            )
        texts = {i: text for text, i in special_tokens.items()}
        begin = texts.get(self.begin_id, "") if self.begin_id is not None else ""
        end = self.end_of_text(special_tokens)
        return Template.recognised(self.template, str(self.place), begin, end)

    def record(self) -> dict[str, Any]:
        """Where the weights lie, and which they are.

        sha256  of the files that they are read from, one behind the other
        files   the sha256 of each of these, and of what stands beside them: their settings, and
                what is known of their tokeniser
        """
        weights, beside = [self.place], []
        if self.place.is_dir():
            weights = files_in_folder(self.place)
            beside = [self.place / name for name in (CONFIG, GENERATION, *TOKENISER_FILES)]
        together = hashlib.sha256()
        files = {path.name: _sha256(path) for path in beside if path.is_file()}
        for path in weights:
            files[path.name] = _sha256(path, together)
        return {
            "path": str(self.place.resolve()),
            "sha256": together.hexdigest(),
            "files": files,
        }


def _sha256(path, *others):
    """The sha256 of a file, whose bytes are added to other hashes too."""
    own = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            for each in (own, *others):
                each.update(piece)
    return own.hexdigest()


def positions_of(model: GPT) -> np.ndarray:
    """The table of learned positions, (T, C)."""
    return model.position_embedding.weight.numpy()


def find_weights(name: str | Path) -> StartingWeights:
    """Find weights by the folder or file they are in; their sizes are read, and nothing else.

    name  a model folder, the folder of a run, a .gguf file, or a .bin file of llama2.c

    Raises FileNotFoundError if there are none, ValueError for settings that our blocks do not know.
    """
    place = Path(name)
    if place.suffix == ".gguf" and place.is_file():
        return in_gguf(place)
    if place.suffix == ".bin" and place.is_file():
        config = llama2c_in(place)[0]
        return StartingWeights(place, config, (), lambda: from_llama2c(place))
    if (place / "model" / CONFIG).is_file() and not (place / CONFIG).is_file():
        place = place / "model"
    if (place / CONFIG).is_file():
        return StartingWeights(
            place,
            config_in(place),
            ends_in(place),
            lambda: from_huggingface(place),
            begin_in(place),
            template_in(place),
        )
    if (place / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"{place} holds a run that has not written its model yet: let it end, or stop it by "
            "Ctrl-C, and its model/ is there"
        )
    raise FileNotFoundError(
        f"no weights at {name} (looked in {Path.cwd()}): wanted a model folder, with {CONFIG} and "
        f"{WEIGHTS}, the folder of a run, a .gguf file or a .bin file of llama2.c. "
        "A model on the hub is named hub:owner/name"
    )


def in_gguf(place: Path) -> StartingWeights:
    """The weights of a GGUF file."""
    file, _, config = opened(place)
    ends, begin, template = said_of_texts(file)
    return StartingWeights(place, config, ends, lambda: from_gguf(place), begin, template)
