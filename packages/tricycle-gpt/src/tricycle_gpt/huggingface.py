"""Model folders in Hugging Face's format, which other programs open too.

    config.json   generation_config.json   model.safetensors   (tokenizer.json)

Inside the library names and layouts are ours.  What a kind of model is called in other programs'
files its family knows (families.py): a table says for each of their weights which part of ours it
is, and writing and reading both follow it.  Nothing is unpickled: pytorch_model.bin is refused.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from tricycle_gpt.config import GPTConfig
from tricycle_gpt.family import FAMILIES, Piece
from tricycle_gpt.model import GPT
from tricycle_gpt.runs.whole_files import read_arrays, replace_text, replacing, write_arrays

WEIGHTS = "model.safetensors"
CONFIG = "config.json"

SHARED = {"dtype": "float32", "bos_token_id": None, "eos_token_id": None}


def pieces(config: GPTConfig) -> dict[str, Piece]:
    """Each of their weights, by its name, as a piece of ours."""
    found = config.family.format_of(config).pieces(config)
    if not config.tied_head:
        found["lm_head.weight"] = Piece("head_weight")
    return found


def to_huggingface(model: GPT, folder: str | Path, tokeniser: Any = None) -> Path:
    """Write a model folder that `transformers` loads as it is.

    tokeniser  anything whose save(folder) writes a tokenizer.json; it may be left out

    Returns the folder.  Raises OSError if it cannot be written (a full disk).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    weights = {theirs: piece.of(parameters) for theirs, piece in pieces(model.config).items()}
    # A full disk leaves the weights of before.  The metadata tells transformers that matrices lie
    # as PyTorch would have them.
    with replacing(folder / WEIGHTS) as new:
        write_arrays(new, weights, metadata={"format": "pt"})
    _write_json(folder / CONFIG, _their_config(model.config))
    _write_json(folder / "generation_config.json", {"max_length": model.config.context_window})
    if tokeniser is not None:
        tokeniser.save(folder)
    return folder


def from_huggingface(folder: str | Path) -> GPT:
    """Read a model folder: GPT-2, Llama or Qwen3 weights in safetensors.

    Dropout is off in it, as in one that transformers has read; `train` turns it on.

    Raises FileNotFoundError if a file is missing, ValueError for a damaged one, for another kind
    of model or for weights that do not fit their config (every name that is wrong is listed).
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is not a model folder: it has no {name}. A model folder holds "
                f"{CONFIG} and {WEIGHTS} (weights in other formats are not read)"
            )
    config = _our_config(_read_config(folder / CONFIG), folder)
    weights = _without_extras(_read_weights(folder / WEIGHTS), config)
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
    model.eval()
    return model


def _read_config(path):
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} should hold names and values, got {type(config).__name__}")
    return config


def _read_weights(path):
    """Their weights by name."""
    try:
        return read_arrays(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error


def _without_extras(weights, config):
    """Their weights by their full names, without what is no weight or is there twice.

    The first GPT-2 files leave out the names' prefix and store the causal mask beside the weights.
    """
    prefix, full_names = config.family.format_of(config).prefix, pieces(config)
    weights = {
        prefix + name if prefix + name in full_names else name: array
        for name, array in weights.items()
    }
    masks = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
    weights = {name: array for name, array in weights.items() if not name.endswith(masks)}
    if config.tied_head:
        weights.pop("lm_head.weight", None)
    return weights


def _their_config(config):
    format_ = config.family.format_of(config)
    return {
        "architectures": [format_.architecture],
        "model_type": format_.model_type,
        **format_.to_theirs(config),
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied_head,
        **SHARED,
    }


def _our_config(theirs, folder):
    kind = theirs.get("model_type")
    formats = {f.model_type: (family, f) for family in FAMILIES.values() for f in family.formats}
    if not isinstance(kind, str) or kind not in formats:
        *others, last = formats
        raise ValueError(
            f"{folder} holds a model of type {kind!r}; {', '.join(others)} and {last} can be read"
        )
    family, format_ = formats[kind]
    if missing := [name for name in format_.needed if name not in theirs]:
        raise ValueError(f"{folder / CONFIG} does not say {', '.join(missing)}")
    for name in format_.needed:
        if type(theirs[name]) is not int:
            raise ValueError(
                f"{folder / CONFIG}: {name} should be a whole number, got {theirs[name]!r}"
            )
    _refuse(format_.refused(theirs), folder)
    return GPTConfig(block=family.name, **format_.to_ours(theirs))


def _refuse(refused, folder):
    found = [name for name, is_refused in refused.items() if is_refused]
    if found:
        raise ValueError(f"{folder}: our blocks do not have this model's {', '.join(found)}")


def _write_json(path, value):
    replace_text(path, json.dumps(value, indent=2) + "\n")
