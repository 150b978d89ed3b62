"""What each character is: letter, mark, number, blank or other, as Unicode 16.0 has it.

The patterns speak of classes such as \\p{L}. Which characters belong to a class depends on the
version of Unicode, and Python, the `regex` package and tiktoken each bring their own. A tokeniser
must not change its mind when one of them is updated, so the classes are data of this package,
pinned to the version that tiktoken and tokenizers use. `scripts/unicode_classes.py` in the
repository makes the file again by asking tiktoken about every code point.

unicode_16_classes.txt has a line for every run of code points: the first one in hexadecimal, and
the letter of its class. A class is one bit, so that a set of classes is their sum.
"""

from functools import cache
from pathlib import Path

import numpy as np

UNICODE_VERSION = "16.0"
N_CODE_POINTS = 0x110000

UPPER = 1  # Lu, Lt
LOWER = 2  # Ll
UNCASED = 4  # Lo, Lm: letters without case, as in Chinese and Hebrew
MARK = 8  # M: accents and vowel signs that join the letter before
NUMBER = 16  # N
BLANK = 32  # \s but for the next
NEWLINE = 64  # \r \n
OTHER = 128  # punctuation, symbols, controls, and what has no meaning yet

CLASS_OF_LETTER = {
    "U": UPPER,
    "l": LOWER,
    "x": UNCASED,
    "m": MARK,
    "n": NUMBER,
    "b": BLANK,
    "r": NEWLINE,
    "o": OTHER,
}


@cache
def unicode_classes() -> np.ndarray:
    """The class of every code point: (1114112,) uint8, read-only."""
    lines = Path(__file__).with_name("unicode_16_classes.txt").read_text("ascii").splitlines()
    runs = [line.split() for line in lines if not line.startswith("#")]
    starts = np.array([int(start, 16) for start, _ in runs] + [N_CODE_POINTS])
    kinds = np.array([CLASS_OF_LETTER[letter] for _, letter in runs], np.uint8)
    table = np.repeat(kinds, np.diff(starts))
    table.flags.writeable = False
    return table
