"""Model folders in Hugging Face's format, which other programs open too.

    config.json   generation_config.json   model.safetensors, or several with an index
    tokenizer.json   tokenizer_config.json         where a tokeniser is written with it

Inside the library names and layouts are ours.  What a kind of model is called in other programs'
files its family knows (families.py): a table says for each of their weights which part of ours it
is, and writing and reading both follow it.  Nothing is unpickled: pytorch_model.bin is refused.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tricycle_gpt.config import GPTConfig
from tricycle_gpt.model import GPT
from tricycle_gpt.published import model_of, pieces
from tricycle_gpt.quantised import check_not_quantised
from tricycle_gpt.runs.whole_files import filling, replace_text, room_for
from tricycle_gpt.safetensors_files import (
    INDEX,
    WEIGHTS,
    WRITTEN,
    remove_other_weights,
    stored_in_folder,
    write_in_folder,
)
from tricycle_gpt.their_settings import our_config

CONFIG = "config.json"
GENERATION = "generation_config.json"
TOKENISER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
END_OF_TEXT = "<|endoftext|>"
MAKE_ROOM = (
    "Make room, or write to another disk: what was there before is as it was, and a run whose last "
    "checkpoint is whole writes its model with --resume"
)


def to_huggingface(
    model: GPT, folder: str | Path, tokeniser: Any = None, *, dtype: str = "float32"
) -> Path:
    """Write a model folder that `transformers` loads as it is.

    tokeniser  anything whose save(folder) writes a tokenizer.json, such as tricycle_bpe's; it may
               be left out.  Where the model's `end_ids` do not say after which tokens other
               programs stop writing, its special token <|endoftext|>, if there is one, does
    dtype      of the weights: float32, or bfloat16 or float16, in half the room

    More than 5 GB of weights are in several files.  Returns the folder.  Raises OSError if it
    cannot be written (a full disk), and what was there before is then as it was; ValueError for a
    tokeniser that knows more tokens than the model, and for another dtype.
    """
    folder = Path(folder)
    if dtype not in WRITTEN:
        raise ValueError(f"dtype must be one of {', '.join(WRITTEN)}, got {dtype!r}")
    n_known = getattr(tokeniser, "n_vocab", 0)
    if n_known > model.config.vocab_size:
        raise ValueError(
            f"the tokeniser has {n_known:,} tokens and the model knows {model.config.vocab_size:,}"
            ": write it with the tokeniser that it was trained with"
        )
    check_not_quantised(model)
    parameters = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    weights = {theirs: piece.of(parameters) for theirs, piece in pieces(model.config).items()}
    n_bytes = sum(array.size for array in weights.values()) * np.dtype(WRITTEN[dtype]).itemsize
    with room_for(folder, n_bytes, MAKE_ROOM), filling(folder) as new:
        names = write_in_folder(new, weights, dtype)
        ends = _ends(model, tokeniser)
        _write_json(new / CONFIG, _their_config(model.config, dtype) | ends)
        length = {"max_length": model.config.context_window}
        _write_json(new / GENERATION, length | ends)
        if tokeniser is not None:
            tokeniser.save(new)
            _write_json(new / TOKENISER_CONFIG, _how_to_tokenise(model, tokeniser, ends))
    remove_other_weights(folder, names)
    return folder


def _ends(model, tokeniser):
    """The ids with which a text begins and ends; None where nothing says so."""
    known = getattr(tokeniser, "special_tokens", {}).get(END_OF_TEXT)
    ends = list(model.end_ids) or known
    if isinstance(ends, list) and len(ends) == 1:
        ends = ends[0]
    begin = model.begin_id if model.end_ids else known
    return {"bos_token_id": begin, "eos_token_id": ends}


def _how_to_tokenise(model, tokeniser, ends):
    """How transformers is to read tokenizer.json: as it stands.

    Where no class is named it takes the one that belongs to the kind of model, which cuts text in
    its own way and adds special tokens of its own.
    """
    texts = {i: text for text, i in getattr(tokeniser, "special_tokens", {}).items()}
    named = {}
    for name, i in (("bos_token", ends["bos_token_id"]), ("eos_token", ends["eos_token_id"])):
        first = i[0] if isinstance(i, list) else i
        if first in texts:
            named[name] = texts[first]
    template = {} if model.chat_template is None else {"chat_template": model.chat_template}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.context_window,
        "clean_up_tokenization_spaces": False,
        **named,
        **template,
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
    config, template = config_in(folder), template_in(folder)
    ends, begin = ends_in(folder), begin_in(folder)
    model = model_of(config, stored_in_folder(folder), str(folder))
    model.known_ids = _ids_in(folder / "tokenizer.json", config.vocab_size)
    model.end_ids, model.begin_id, model.chat_template = ends, begin, template
    return model


def config_in(folder: Path) -> GPTConfig:
    """The size and kind of the model in a folder, by its config.json.  ValueError as above."""
    return our_config(_read_config(folder / CONFIG), str(folder / CONFIG))


def ends_in(folder: Path) -> tuple[int, ...]:
    """The ids after which a text of the model ends; what generation_config.json says goes first.

    Nothing there, and anything but ids, is no end.
    """
    for name in (GENERATION, CONFIG):
        if (folder / name).is_file():
            said = _read_config(folder / name).get("eos_token_id")
            found = said if isinstance(said, list) else [said]
            if ids := tuple(i for i in found if type(i) is int and i >= 0):
                return ids
    return ()


def begin_in(folder: Path) -> int | None:
    """The id with which a text begins, or None."""
    said = _read_config(folder / CONFIG).get("bos_token_id")
    return said if type(said) is int and said >= 0 else None


def template_in(folder: Path) -> str | None:
    """The text of a folder's chat template, which nobody runs here; None if there is none."""
    if (folder / TEMPLATE).is_file():
        try:
            return (folder / TEMPLATE).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{folder / TEMPLATE} is not text in UTF-8: {error}") from error
    if not (folder / TOKENISER_CONFIG).is_file():
        return None
    said = _read_config(folder / TOKENISER_CONFIG).get("chat_template")
    if isinstance(said, list):  # several by name, of which one is for plain conversations
        plain = [each for each in said if isinstance(each, dict) and each.get("name") == "default"]
        said = plain[0].get("template") if plain else None
    return said if isinstance(said, str) else None


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


def _their_config(config, dtype):
    format_ = config.family.format_of(config)
    return {
        "architectures": [format_.architecture],
        "model_type": format_.model_type,
        **format_.to_theirs(config),
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied_head,
        "dtype": dtype,
    }


def _write_json(path, value):
    replace_text(path, json.dumps(value, indent=2) + "\n")
