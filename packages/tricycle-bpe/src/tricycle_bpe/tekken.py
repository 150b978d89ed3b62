"""Mistral's tekken.json: tokens with ranks, the pattern, and special tokens before all others.

The id of a token is its rank and the number of special tokens. Of the ranks only so many are in use
that `default_vocab_size` is not exceeded.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

from .formats import LONGEST_RANKED_TOKEN, field_of, named, read_json

# Before files listed them (version v3 and older): these, and <SPECIAL_20> and so on.
SPECIAL_OF_OLD_FILES = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]"),
    *("[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    "[TOOL_CONTENT]",
)
MOST_SPECIAL = 1 << 16


def read_tekken(path: Path) -> dict[str, Any]:
    """The arguments that make a Tokeniser of a tekken.json.

    raises  ValueError
    """
    document = read_json(path)
    with named(path):
        config = field_of(document, "config", dict)
        n_special = field_of(config, "default_num_special_tokens", int)
        n_vocab = field_of(config, "default_vocab_size", int)
        if not 0 <= n_special <= min(MOST_SPECIAL, n_vocab):
            raise ValueError(f"it has {n_special} special tokens of {n_vocab}")
        if not document.get("special_tokens"):
            old = enumerate(SPECIAL_OF_OLD_FILES[:n_special])
            document["special_tokens"] = [{"rank": rank, "token_str": text} for rank, text in old]
        special = field_of(document, "special_tokens", list)
        special_tokens = {
            field_of(token, "token_str", str): field_of(token, "rank", int) for token in special
        }
        taken = set(special_tokens.values())
        spare = (rank for rank in range(n_special) if rank not in taken)
        special_tokens |= {f"<SPECIAL_{rank}>": rank for rank in spare}
        vocab: dict[bytes, int] = {}
        for token in field_of(document, "vocab", list):
            rank = field_of(token, "rank", int)
            if rank < n_vocab - n_special:
                spelt = _bytes_of(field_of(token, "token_bytes", str))
                if spelt in vocab:
                    raise ValueError(f"its token {spelt!r:.60} has two ranks, one is {rank}")
                vocab[spelt] = rank + n_special
        return {
            "vocab": vocab,
            "merges": None,
            "special_tokens": special_tokens,
            "pattern": field_of(config, "pattern", str),
            "whole_pieces": True,
        }


def _bytes_of(token: str) -> bytes:
    try:
        spelt = base64.b64decode(token, validate=True)
    except (ValueError, binascii.Error):
        raise ValueError(f"expected a token in base64, found {token!r:.60}") from None
    if len(spelt) > LONGEST_RANKED_TOKEN:
        raise ValueError(
            f"token {spelt!r:.60} has {len(spelt):,} bytes: too many to find its parts"
        )
    return spelt
