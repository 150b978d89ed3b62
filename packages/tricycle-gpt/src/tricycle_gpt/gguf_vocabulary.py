"""The tokeniser in a GGUF file: what a tokenizer.json says, as llama.cpp wants to read it.

A file has the text of every id, in byte characters, what kind of token each is, and the merges.
How texts are cut it says by a name alone, which stands for an expression in llama.cpp's source.  So
a tokeniser is written under the name that cuts and merges as it does, and one that has no such name
is refused: it would read other ids than it was trained with.

Names, and what they stand for: llama.cpp (llama-vocab.cpp).
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from tricycle_gpt.model import GPT

NORMAL, CONTROL, ADDED, UNUSED = 1, 3, 4, 5  # kinds of tokens
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = CL100K.replace("{1,3}", "")
GPT2 = ("ByteLevel",)
ENDS = ("eos", "eot", "eom")  # of a text, a turn, a message: a text ends after each
NAMES = {  # (a normaliser, the steps that cut, whether a piece that is a token is taken whole)
    (None, GPT2, False): "gpt-2",
    (None, ("Digits", *GPT2), False): "smollm",
    (None, (CL100K,), False): "dbrx",
    (None, (CL100K,), True): "llama-bpe",
    ("NFC", (QWEN2,), False): "qwen2",
}


def vocabulary_of(model: GPT, tokeniser: Any) -> dict[str, Any]:
    """The settings of a GGUF file that tell of a tokeniser, and of where texts begin and end.

    tokeniser  anything whose save(folder) writes a tokenizer.json, such as tricycle_bpe's

    Raises ValueError for a tokeniser with more tokens than the model knows, and for one that cuts
    texts in a way that GGUF files have no name for.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokeniser.save(folder)
        document = json.loads((Path(folder) / "tokenizer.json").read_text(encoding="utf-8"))
    name = _name(document)
    tokens, kinds = _tokens(document, model.config.vocab_size)
    found: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [
            merge if isinstance(merge, str) else " ".join(merge)
            for merge in document["model"]["merges"]
        ],
    }
    special = {a["content"]: a["id"] for a in document["added_tokens"] if a["special"]}
    around: Any = getattr(tokeniser, "around", ((), ()))
    before, after = around
    known = [i for text, i in special.items() if text == "<|endoftext|>"]
    ends = list(model.end_ids) or list(after) or known
    if len(ends) > len(ENDS):
        raise ValueError(
            f"{len(ends)} tokens end a text ({', '.join(map(str, ends))}), and a GGUF file has "
            f"names for {len(ENDS)}: set model.end_ids to those that matter"
        )
    begin = before[0] if len(before) else model.begin_id
    named = dict(zip(ENDS, ends, strict=False))
    if begin is not None:
        named["bos"] = begin
    found |= {f"tokenizer.ggml.{k}_token_id": int(i) for k, i in named.items()}
    found["tokenizer.ggml.add_bos_token"] = len(before) > 0
    found["tokenizer.ggml.add_eos_token"] = len(after) > 0
    found["tokenizer.ggml.add_space_prefix"] = False
    if model.chat_template is not None:
        found["tokenizer.chat_template"] = model.chat_template
    return found


def _tokens(document, vocab_size):
    """The text and the kind of every id that the model knows."""
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    kinds = [UNUSED] * vocab_size
    known = [(text, i, NORMAL) for text, i in document["model"]["vocab"].items()]
    for added in document["added_tokens"]:
        known.append((added["content"], added["id"], CONTROL if added["special"] else ADDED))
    most = max((i for _, i, _ in known), default=-1) + 1
    if most > vocab_size:
        raise ValueError(
            f"the tokeniser has {most:,} tokens and the model knows {vocab_size:,}: write it with "
            "the tokeniser that it was trained with"
        )
    for text, i, kind in known:
        tokens[i], kinds[i] = text, kind
    return tokens, kinds


def _name(document):
    """The name of the way in which texts are cut."""
    normaliser = document.get("normalizer") or {}
    if document["model"].get("type", "BPE") != "BPE":
        raise ValueError(
            f"this tokeniser is {document['model']['type']}, and only byte-level BPE is written"
        )
    steps = document.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps]) if steps else []
    way = (
        normaliser.get("type"),
        tuple(step for step in map(_step, steps) if step),
        bool(document["model"].get("ignore_merges")),
    )
    flags = ("lstrip", "rstrip", "single_word")
    plain = not any(added.get(flag) for added in document["added_tokens"] for flag in flags)
    if way not in NAMES or not plain:
        raise ValueError(
            "this tokeniser cuts texts in a way that GGUF files have no name for "
            f"({', '.join(NAMES.values())} are known): write the model without it, and another "
            "program reads the same ids by its tokenizer.json alone"
        )
    return NAMES[way]


def _step(step):
    """What a step is known by; nothing for one that cuts nothing."""
    kind = step.get("type")
    if kind == "ByteLevel" and not step.get("add_prefix_space", True):
        return kind if step.get("use_regex", True) else ""
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return step["pattern"].get("Regex", "?")
    if kind == "Digits" and step.get("individual_digits"):
        return kind
    return f"? {kind}"
