"""Model folders in Hugging Face's format, which other programs open too.

    config.json   generation_config.json   model.safetensors
    tokenizer.json   tokenizer_config.json         where a tokeniser is written with it

Inside the library names and layouts are ours.  What a kind of model is called in other programs'
files its family knows (families.py): a table says for each of their weights which part of ours it
is, and writing and reading both follow it.  Nothing is unpickled: pytorch_model.bin is refused.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tricycle_gpt.model import GPT
from tricycle_gpt.published import model_of, pieces
from tricycle_gpt.runs.whole_files import replace_text, replacing, write_arrays
from tricycle_gpt.safetensors_files import INDEX, WEIGHTS, stored_in_folder
from tricycle_gpt.their_settings import our_config

CONFIG = "config.json"
END_OF_TEXT = "<|endoftext|>"


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
    """Read a model folder: GPT-2, Llama, Qwen2, Qwen3, Mistral or OLMo 2 weights in safetensors.

    The weights may be in several files with an index, and of float32, float16 or bfloat16; the
    model is of float32.  Dropout is off in it, as in one that transformers has read; `train` turns
    it on.

    A head of its own is kept whatever the config says of it.  Where the folder has a
    tokenizer.json, the model's `known_ids` are its ids.

    Raises FileNotFoundError if a file is missing, ValueError for a damaged one, for another kind
    of model, for settings that our blocks do not know, or for weights that do not fit their config
    (everything that is wrong is listed).  The weights are looked at before a model is made, so that
    a damaged config takes no memory.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file() or not any((folder / n).is_file() for n in (WEIGHTS, INDEX)):
        lacks = WEIGHTS if (folder / CONFIG).is_file() else CONFIG
        raise FileNotFoundError(
            f"{folder} is not a model folder: it has no {lacks}. A model folder holds "
            f"{CONFIG} and {WEIGHTS} (weights in other formats are not read)"
        )
    config = our_config(_read_config(folder / CONFIG), str(folder / CONFIG))
    model = model_of(config, stored_in_folder(folder), str(folder))
    model.known_ids = _ids_in(folder / "tokenizer.json", config.vocab_size)
    return model


def _read_config(path):
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} should hold names and values, got {type(config).__name__}")
    return config


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


def _write_json(path, value):
    replace_text(path, json.dumps(value, indent=2) + "\n")
