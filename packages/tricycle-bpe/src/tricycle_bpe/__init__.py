"""Byte pair encoding from scratch: a readable lesson (`tricycle_bpe.merges`) and a fast
tokeniser.
"""

from .streaming import StreamDecoder
from .tokeniser import Tokeniser

Tokenizer = Tokeniser  # the same, in the spelling of other libraries

__all__ = ["StreamDecoder", "Tokeniser", "Tokenizer"]
