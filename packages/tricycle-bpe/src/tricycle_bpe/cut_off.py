"""Bytes that stop being text, say because a text was cut off within a character.

Where they stop being UTF-8, the rest is one piece together with the last piece before it. If that
piece begins with blanks, all the ids of blanks before it are given up too: the text as a whole
might have split them otherwise. This is what tiktoken does.
"""

import numpy as np

from .encoding import Encoder, pieces_of
from .splitting import Splitter


def encode_cut_off(encoder: Encoder, data: bytes, n_valid: int, split: Splitter) -> list[int]:
    """Encode bytes of which only the first `n_valid` are UTF-8."""
    *pieces, last = pieces_of(data[:n_valid], split) or [b""]
    ids = encoder.encode_pieces(pieces)
    in_last = encoder.encode_pieces([last] if last else [])
    if in_last and _is_blank(encoder, in_last[0]):
        while ids and _is_blank(encoder, ids[-1]):
            ids.pop()
    n_done = len(encoder.decode(np.array(ids, np.int64)))
    return ids + encoder.encode_pieces([data[n_done:]])


def _is_blank(encoder: Encoder, i: int) -> bool:
    return not encoder.decode(np.array([i])).strip(b" \n\t")
