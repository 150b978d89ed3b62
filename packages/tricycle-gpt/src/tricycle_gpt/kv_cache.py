"""The key/value cache: what generation would otherwise compute again for every token.

A token's keys and values depend only on the tokens before it, so when one token is added all
the earlier ones are still right.  The cache keeps them, for every block, and the model then
only has to look at what is new.
"""

import numpy as np

from tricycle_gpt.config import GPTConfig


class LayerCache:
    """One block's keys and values so far.

    keys, values  (B, G, context_window, D), the first `length` positions of them filled
    """

    def __init__(self, batch_size: int, heads: int, window: int, head_size: int):
        self.keys = np.zeros((batch_size, heads, window, head_size), np.float32)
        self.values = np.zeros_like(self.keys)
        self.length = 0

    def append(self, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Keep the keys and values of new tokens; returns those of all tokens so far.

        keys, values  (B, G, T, D)
        returns       two views (B, G, length, D)

        Raises ValueError when there is no room left.
        """
        end = self.length + keys.shape[2]
        if end > self.keys.shape[2]:
            raise ValueError(f"the cache holds {self.keys.shape[2]} tokens, and {end} are too many")
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


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
