"""Conversations as rows of ids, of which answers alone count."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tricycle_gpt.chat import Template
from tricycle_gpt.chat_kinds import Message


class Answers:
    """Conversations as one row of ids, of which some count: text for `Batches` and `evaluate`.

    ids              (N,) integers
    counted          (N,) booleans: those that are learned and measured
    document_starts  where conversations begin
    """

    ndim = 1

    def __init__(self, ids: np.ndarray, counted: np.ndarray, starts: np.ndarray):
        self.ids, self.counted, self.document_starts = ids, counted, starts
        self.shape = ids.shape
        self.digest = hashlib.sha256(ids.tobytes() + counted.tobytes()).hexdigest()

    def counts(self) -> dict[str, int]:
        """How many there are of what, as a record of prepared data says it."""
        return {
            "n_tokens": len(self),
            "n_documents": len(self.document_starts),
            "n_counted": int(self.counted.sum()),
        }

    @property
    def opening(self) -> list[int]:
        """The ids of the first conversation before its first answer."""
        return self.ids[: int(np.argmax(self.counted))].tolist()

    @classmethod
    def of(
        cls, conversations: Iterable[list[Message]], template: Template, tokeniser: Any
    ) -> "Answers":
        """Encode conversations one behind the other.

        Raises ValueError if there are none, and, with its number, for one that the template
        refuses.
        """
        pairs = []
        for number, messages in enumerate(conversations, start=1):
            try:
                pairs.append(template.encode(messages, tokeniser))
            except ValueError as error:
                raise ValueError(f"conversation {number}: {error}") from error
        if not pairs:
            raise ValueError("there is no conversation to learn from")
        ids, counted = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        if not counted[1:].any():
            raise ValueError(f"of {len(pairs):,} conversations no token counts: no answer says any")
        lengths = [len(each) for each, _ in pairs]
        return cls(ids, counted, np.cumsum([0, *lengths[:-1]]))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> np.ndarray:
        return self.ids[part]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.ids, dtype)


@dataclass(frozen=True)
class Conversations:
    """Conversations to learn from and to check with, as tricycle_datasets' `Prepared` has texts.

    record  what they are, in plain values
    """

    train: Answers
    validation: Answers
    record: dict[str, Any]

    validation_bytes = None  # bits per byte would be of all that is said

    @property
    def end_of_text(self) -> str:
        """The special token that ends a text."""
        return self.record["end_of_text"]

    def facts(self) -> dict[str, str]:
        """What must be the same when a run is resumed: hashes of both sides and the tokeniser."""
        return {
            "train": self.train.digest,
            "validation": self.validation.digest,
            "tokeniser": self.record["tokeniser"],
        }
