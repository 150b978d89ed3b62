"""The key/value cache: what generation would otherwise compute again for every token.

A token's keys and values depend only on the tokens before it, so when one token is added all
the earlier ones are still right.  The cache keeps them, for every block, and the model then
only has to look at what is new.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tricycle_autograd.devices import array_module
from tricycle_gpt.config import GPTConfig


class LayerCache:
    """One block's keys and values so far.

    keys, values  (B, G, window, D), the first `length` positions of them filled; made when the
                  first arrive, in their dtype
    shape         (B, G, window, D)
    """

    def __init__(self, batch_size: int, heads: int, window: int, head_size: int):
        self.shape = (batch_size, heads, window, head_size)
        self.keys: Any = None
        self.values: Any = None
        self.length = 0

    def append(self, keys: Any, values: Any) -> tuple[Any, Any]:
        """Keep the keys and values of new tokens; returns those of all tokens so far.

        keys, values  (B, G, T, D)
        returns       two views (B, G, length, D)

        Raises ValueError when there is no room left, and for another number of sequences or heads.
        """
        B, G, window, D = self.shape
        if (*keys.shape[:2], keys.shape[3]) != (B, G, D) or values.shape != keys.shape:
            raise ValueError(
                f"this cache is for keys and values of shape ({B}, {G}, time, {D}), got "
                f"{keys.shape} and {values.shape}; make one for this many sequences: "
                "KVCache(config, batch_size)"
            )
        end = self.length + keys.shape[2]
        if end > window:
            raise ValueError(f"the cache holds {window} tokens, and {end} are too many")
        if self.keys is None or self.keys.dtype != keys.dtype:
            self._make_room(keys)
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _make_room(self, like):
        """Room in the dtype of the first keys, and beside them."""
        if self.length:
            raise TypeError(
                f"the cache holds {self.keys.dtype} and was given {like.dtype}; clear() it when "
                "the model changes"
            )
        self.keys, self.values = (array_module(like).zeros(self.shape, like.dtype) for _ in "kv")


class KVCache:
    """The caches of all blocks of a model.

    config      the model's
    batch_size  sequences that are continued side by side
    """

    def __init__(self, config: GPTConfig, batch_size: int = 1):
        self.layers = [
            LayerCache(batch_size, config.key_value_heads, config.context_window, config.head_size)
            for _ in range(config.n_layers)
        ]

    @property
    def length(self) -> int:
        """Tokens seen so far."""
        return self.layers[0].length

    def clear(self) -> None:
        """Forget everything; the memory is kept."""
        for layer in self.layers:
            layer.length = 0

    @contextmanager
    def as_before_if_it_fails(self) -> Iterator[None]:
        """A block of code after which, if it raises, the cache knows what it knew before."""
        lengths = [layer.length for layer in self.layers]
        try:
            yield
        except BaseException:
            for layer, length in zip(self.layers, lengths, strict=True):
                layer.length = length
            raise
