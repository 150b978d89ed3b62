"""Model folders in Hugging Face's format, which other programs open too.

    config.json   generation_config.json   model.safetensors
    tokenizer.json   tokenizer_config.json         where a tokeniser is written with it

Inside the library names and layouts are ours.  What a kind of model is called in other programs'
files its family knows (families.py): a table says for each of their weights which part of ours it
is, and writing and reading both follow it.  Nothing is unpickled: pytorch_model.bin is refused.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from tricycle_gpt.config import GPTConfig
from tricycle_gpt.family import FAMILIES, Piece, setting
from tricycle_gpt.model import GPT
from tricycle_gpt.runs.whole_files import (
    describe_arrays,
    read_arrays,
    replace_text,
    replacing,
    write_arrays,
)

WEIGHTS = "model.safetensors"
CONFIG = "config.json"

HEAD = "lm_head.weight"
END_OF_TEXT = "<|endoftext|>"
NUMBERS = ("F64", "F32", "F16", "BF16")  # the kinds of weights that are read
# Arrays beside the weights that hold none: causal masks, and the wavelengths of rotary positions.
NO_WEIGHTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def pieces(config: GPTConfig) -> dict[str, Piece]:
    """Each of their weights, by its name, as a piece of ours."""
    found = config.family.format_of(config).pieces(config)
    if not config.tied_head:
        found[HEAD] = Piece("head_weight")
    return found


def to_huggingface(model: GPT, folder: str | Path, tokeniser: Any = None) -> Path:
    """Write a model folder that `transformers` loads as it is.

    tokeniser  anything whose save(folder) writes a tokenizer.json, such as tricycle_bpe's; it may
               be left out.  Its special token <|endoftext|>, if there is one, is where other
               programs stop writing

    Returns the folder.  Raises OSError if it cannot be written (a full disk), ValueError for a
    tokeniser that knows more tokens than the model.
    """
    folder = Path(folder)
    n_known, end = getattr(tokeniser, "n_vocab", 0), _end_of_text(tokeniser)
    if n_known > model.config.vocab_size:
        raise ValueError(
            f"the tokeniser has {n_known:,} tokens and the model knows {model.config.vocab_size:,}"
            ": write it with the tokeniser that it was trained with"
        )
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    weights = {theirs: piece.of(parameters) for theirs, piece in pieces(model.config).items()}
    # A full disk leaves the weights of before.  The metadata tells transformers that matrices lie
    # as PyTorch would have them.
    with replacing(folder / WEIGHTS) as new:
        write_arrays(new, weights, metadata={"format": "pt"})
    ends = {"bos_token_id": end, "eos_token_id": end}
    _write_json(folder / CONFIG, _their_config(model.config) | ends)
    length = {"max_length": model.config.context_window}
    _write_json(folder / "generation_config.json", length | ends)
    if tokeniser is not None:
        tokeniser.save(folder)
        _write_json(folder / "tokenizer_config.json", _how_to_tokenise(model.config, end))
    return folder


def _end_of_text(tokeniser):
    """The id of its end-of-text token, or None."""
    return getattr(tokeniser, "special_tokens", {}).get(END_OF_TEXT)


def _how_to_tokenise(config, end):
    """How transformers is to read tokenizer.json: as it stands.

    Where no class is named it takes the one that belongs to the kind of model, which cuts text in
    its own way and adds special tokens of its own.
    """
    named = {} if end is None else {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.context_window,
        "clean_up_tokenization_spaces": False,
        **named,
    }


def from_huggingface(folder: str | Path) -> GPT:
    """Read a model folder: GPT-2, Llama or Qwen3 weights in safetensors.

    Dropout is off in it, as in one that transformers has read; `train` turns it on.

    A head of its own is kept whatever the config says of it.  Where the folder has a
    tokenizer.json, the model's `known_ids` are its ids.

    Raises FileNotFoundError if a file is missing, ValueError for a damaged one, for another kind
    of model or for weights that do not fit their config (every name that is wrong is listed).
    The weights are looked at before a model is made, so that a damaged config takes no memory.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is not a model folder: it has no {name}. A model folder holds "
                f"{CONFIG} and {WEIGHTS} (weights in other formats are not read)"
            )
    config = _our_config(_read_config(folder / CONFIG), folder)
    try:
        _check_weights(describe_arrays(folder / WEIGHTS), config, folder)
        weights = read_arrays(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(
            f"{folder / WEIGHTS} is damaged, or no safetensors file: {error}"
        ) from error
    config, weights = _with_its_head(config, _with_full_names(weights, config))
    model = GPT(config, rng=np.random.default_rng(0))
    parameters = {name: parameter.array for name, parameter in model.named_parameters()}
    expected = pieces(config)
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected)
    misshapen = [
        f"{name} is {weights[name].shape}, expected {piece.of(parameters).shape}"
        for name, piece in expected.items()
        if name in weights and weights[name].shape != piece.of(parameters).shape
    ]
    if missing or unknown or misshapen:
        raise ValueError(
            f"the weights in {folder} do not fit its {CONFIG}: missing {missing or 'nothing'}, "
            f"unknown {unknown or 'nothing'}, misshapen {misshapen or 'nothing'}"
        )
    for name, piece in expected.items():
        piece.of(parameters)[...] = weights[name]
    model.known_ids = _ids_in(folder / "tokenizer.json", config.vocab_size)
    model.eval()
    return model


def _read_config(path):
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} should hold names and values, got {type(config).__name__}")
    return config


def _check_weights(found, config, folder):
    """Refuse what cannot be the config's weights, by the beginning of the file alone."""
    weights = {name: what for name, what in found.items() if not name.endswith(NO_WEIGHTS)}
    if others := sorted({kind for kind, _ in weights.values()} - set(NUMBERS)):
        names = [name for name, (kind, _) in weights.items() if kind in others]
        raise ValueError(
            f"{folder / WEIGHTS} holds {', '.join(others)} ({names[0]} is one of {len(names)}); "
            f"weights in {', '.join(NUMBERS)} are read, and no quantised ones"
        )
    numbers = sum(math.prod(shape) for _, shape in weights.values())
    if config.n_layers > len(weights) or config.least_parameters > 2 * numbers:
        raise ValueError(
            f"{folder / CONFIG} describes {config.n_layers:,} layers and at least "
            f"{config.least_parameters:,} numbers, and {WEIGHTS} has {len(weights):,} arrays with "
            f"{numbers:,}: one of the two belongs to another model"
        )


def _with_full_names(weights, config):
    """Their weights by their full names: the first GPT-2 files leave out the prefix."""
    prefix, full_names = config.family.format_of(config).prefix, pieces(config)
    found = {}
    for name, array in weights.items():
        if name.endswith(NO_WEIGHTS):
            continue
        full = prefix + name if prefix + name in full_names else name
        if full in found:
            raise ValueError(
                f"the weights hold {full} twice, with its prefix {prefix!r} and without"
            )
        found[full] = array
    return found


def _with_its_head(config, weights):
    """A config that knows whether the weights have a head of their own, and they.

    A file may hold the token table under both names.
    """
    if config.tied_head and HEAD in weights:
        table = next(n for n, p in pieces(config).items() if p.name == "token_embedding.weight")
        if not np.array_equal(weights[HEAD], weights.get(table)):
            return replace(config, tied_head=False), weights
        weights = {name: array for name, array in weights.items() if name != HEAD}
    return config, weights


def _ids_in(path, vocab_size):
    """Which of a model's ids (V,) a tokenizer.json spells; None for all, or if it cannot be told.

    What is wrong with such a file is for the tokeniser to say.
    """
    if not path.is_file():
        return None
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
        ids = [*theirs["model"]["vocab"].values(), *(a["id"] for a in theirs["added_tokens"])]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    known = np.zeros(vocab_size, bool)
    known[[i for i in ids if type(i) is int and 0 <= i < vocab_size]] = True
    return known if known.any() and not known.all() else None


def _their_config(config):
    format_ = config.family.format_of(config)
    return {
        "architectures": [format_.architecture],
        "model_type": format_.model_type,
        **format_.to_theirs(config),
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied_head,
        "dtype": "float32",
    }


def _our_config(theirs, folder):
    kind = theirs.get("model_type")
    formats = {f.model_type: (family, f) for family in FAMILIES.values() for f in family.formats}
    if not isinstance(kind, str) or kind not in formats:
        *others, last = formats
        raise ValueError(
            f"{folder} holds a model of type {kind!r:.80}; {', '.join(others)} and {last} can be "
            "read"
        )
    family, format_ = formats[kind]
    if missing := [name for name in format_.needed if theirs.get(name) is None]:
        raise ValueError(f"{folder / CONFIG} does not say {', '.join(missing)}")
    if theirs.get("quantization_config") is not None:
        raise ValueError(
            f"{folder} holds quantised weights (its {CONFIG} has a `quantization_config`): those "
            "of the model it was made from can be read"
        )
    try:
        for name in format_.needed:
            setting(theirs, name, int, None)
        refused = [name for name, is_used in format_.refused(theirs).items() if is_used]
        config = GPTConfig(block=family.name, **format_.to_ours(theirs))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    if refused:
        raise ValueError(f"{folder}: our blocks do not have this model's {', '.join(refused)}")
    return config


def _write_json(path, value):
    replace_text(path, json.dumps(value, indent=2) + "\n")
