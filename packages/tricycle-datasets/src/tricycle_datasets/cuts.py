"""Where the windows lie: across documents, or each within one.

A shard folder holds its documents one after the other, as GPT-2 and nanoGPT have it: each ends with
the end-of-text token, and the next begins at once.  There are two ways to cut windows from that:

- *Packed.*  The row is cut every T tokens, wherever that falls.  A window may hold the end of one
  document and the beginning of others; the end-of-text token between them says so, and the model
  learns to look no further back.  Every token is used and every window is full.  This is how GPT-2
  was trained.
- *By document.*  Every document is cut from its beginning, and the last window of each is what
  remains.  What is missing there is filled up: inputs with id 0, targets with -100, which a loss
  leaves out.  The end-of-text token is a target like others, so a model learns where texts end; the
  first token of a document is the target of no window, since nothing comes before it.  A document
  of one token makes no window.

With T = 4 and `|` for end-of-text, the tokens a b c d e | f g | give

    packed (phase 0)    a b c d -> b c d e     e | f g -> | f g |
    by document         a b c d -> b c d e     e . . . -> | . . .     f g . . -> g | . .

Both answer two questions: how many windows an epoch has, and where the windows of some numbers
lie.  Neither keeps anything for a window; cutting by document keeps 16 bytes for each document.
"""

import numpy as np

from tricycle_datasets.permutation import secrets

IGNORED = -100  # a target that the loss leaves out


class PackedCut:
    """Windows that touch, from a different offset each epoch: (N,) tokens, T to a window."""

    def __init__(self, n_tokens: int, context_window: int, seed: int):
        self.n_tokens, self.context_window, self.seed = n_tokens, context_window, seed

    def windows_in(self, epoch: int) -> int:
        """How many windows fit after the epoch's offset."""
        return (self.n_tokens - 1 - self._phase(epoch)) // self.context_window

    def place(self, epoch: int, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where windows (n,) start, and how many targets each has: T."""
        starts = self._phase(epoch) + numbers * self.context_window
        return starts, np.full(len(numbers), self.context_window)

    def _phase(self, epoch: int) -> int:
        """Where the first window of an epoch starts; at least one window must fit after it."""
        phases = min(self.context_window, self.n_tokens - self.context_window)
        return int(secrets(f"phase seed {self.seed} epoch {epoch}", 1)[0]) % phases


class DocumentCut:
    """Windows that each lie within one document, the same ones in every epoch.

    document_starts  (D,) in order, of N tokens

    >>> cut = DocumentCut(np.array([0, 6]), 9, context_window=4)
    >>> [array.tolist() for array in cut.place(0, np.arange(cut.windows_in(0)))]
    [[0, 4, 6], [4, 1, 2]]
    """

    def __init__(self, document_starts: np.ndarray, n_tokens: int, context_window: int):
        self.context_window = context_window
        self.ends = np.append(document_starts[1:], n_tokens)  # (D,)
        n_targets = np.maximum(self.ends - document_starts - 1, 0)
        # How many windows come before each document, and at the end how many there are: (D + 1,)
        self.before = np.append(0, np.cumsum(-(-n_targets // context_window)))
        self.starts = document_starts

    def windows_in(self, _epoch: int) -> int:
        """How many windows there are."""
        return int(self.before[-1])

    def place(self, _epoch: int, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where windows (n,) start, and how many targets each has: T, or fewer at a text's end."""
        document = np.searchsorted(self.before, numbers, side="right") - 1
        starts = self.starts[document] + (numbers - self.before[document]) * self.context_window
        return starts, np.minimum(self.context_window, self.ends[document] - 1 - starts)
