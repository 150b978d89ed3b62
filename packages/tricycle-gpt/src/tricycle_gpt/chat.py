"""Conversations as a model's makers write them: chat templates, in Python.

A model that answers has learned one way to write who says what, such as ChatML:

    <|im_start|>user
    Who wrote Hamlet?<|im_end|>
    <|im_start|>assistant
    Shakespeare.<|im_end|>

Its folder tells it by a template in Jinja: a program, which may run for minutes or fill the memory.
So it is not used.  It renders two probes, in a process of its own with little time and memory
(chat_probe.py), and `Template.recognised` says which of the ways below gives the same text; a
template that none does is refused by its name.

While training only answers count, with the token that ends them: what a user says is read, and not
learned.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tricycle_gpt.chat_probe import rendered

Message = dict[str, str]  # "role": system, user or assistant; "content"

PROBES: list[list[Message]] = [
    [{"role": "user", "content": "Probe 1?"}, {"role": "assistant", "content": "Reply 1."}],
    [
        {"role": "system", "content": "\n Order. \n"},
        {"role": "user", "content": " Probe 2?\n"},
        {"role": "assistant", "content": " <think>\nHm.\n</think>\n\nReply 2. \n"},
        {"role": "user", "content": "Probe 3?"},
        {"role": "assistant", "content": "Reply 3."},
    ],
]


@dataclass(frozen=True)
class Template:
    """A way to write conversations.

    name     for messages
    before   what stands before a message of each role
    after    what stands behind it: the token that ends it, and what is between messages
    begin    what a conversation begins with
    system   what the system says where a conversation does not begin with its message; None for
             nothing
    preface  what stands in front of the system's words, given or not
    trimmed  blanks and line ends around a message are left out
    """

    name: str
    before: Callable[[str], str]
    after: tuple[str, str]
    begin: str = ""
    system: str | None = None
    preface: str = ""
    trimmed: bool = False

    def parts(self, messages: Iterable[Message]) -> list[tuple[str, bool, bool]]:
        """A conversation as pieces of text: (text, it is markup, it counts)."""
        given = [(message["role"], message["content"]) for message in messages]
        if self.system is not None and [role for role, _ in given[:1]] != ["system"]:
            given = [("system", self.system), *given]
        end, between = self.after
        found = [(self.begin, True, False)]
        for i, (role, content) in enumerate(given):
            answers = role == "assistant"
            found.append((self.before(role), True, False))
            said = content.strip() if self.trimmed else content
            first = i == 0 and role == "system"
            found.append(((self.preface if first else "") + said, False, answers))
            found += [(end, True, answers), (between, True, False)]
        return [part for part in found if part[0]]

    def text(self, messages: Iterable[Message]) -> str:
        """A conversation as text."""
        return "".join(text for text, _, _ in self.parts(messages))

    def encode(self, messages: Iterable[Message], tokeniser: Any) -> tuple[np.ndarray, np.ndarray]:
        """A conversation's ids (N,), and which of them count (N,).

        tokeniser  has encode(text, allowed_special=…) and encode_ordinary(text); what is said
                   cannot spell a special token
        """
        ids: list[int] = []
        counted: list[bool] = []
        for text, is_markup, counts in self.parts(messages):
            if is_markup:
                new = tokeniser.encode(text, allowed_special="all")
            else:
                new = tokeniser.encode_ordinary(text)
            ids += new
            counted += [counts] * len(new)
        return np.array(ids, np.int64), np.array(counted, bool)

    @classmethod
    def recognised(cls, template: str, where: str, begin: str = "", end: str = "") -> "Template":
        """The way to write conversations that a Jinja template means.

        template    its text
        where       what messages begin with
        begin, end  the tokens that begin and end a text, which a template may mention

        Raises ValueError for a template that is none of those known, that fails, or that takes too
        long; ImportError where jinja2 is not installed.
        """
        one, two = (rendered(template, probe, where, begin, end) for probe in PROBES)
        for known in known_templates(end):
            for trimmed in (False, True):
                found = replace(known, trimmed=trimmed)
                for candidate in _with_frame(found, one, begin):
                    if [candidate.text(probe) for probe in PROBES] == [one, two]:
                        return candidate
        raise ValueError(
            f"the chat template of {where} is not known; {', '.join(t.name for t in KNOWN)} are. "
            f"It writes {one[:200]!r}"
        )


def _with_frame(known, one, begin):
    """A known way with what this template puts in front: nothing, a beginning, a system's words."""
    for first in dict.fromkeys(("", begin)):
        yield replace(known, begin=first)
        opening, closing = first + known.before("system"), "".join(known.after)
        rest = one.removeprefix(opening)
        words = rest.partition(closing + known.before("user"))[0]
        if rest != one and words != rest:
            yield replace(known, begin=first, system=words)
            yield replace(known, begin=first, system="", preface=words)  # Llama 3.1's dates


def known_templates(end: str) -> list[Template]:
    """Those that can be written; `end` is the token that ends a text, which one of them uses."""
    return [*KNOWN[:-1], replace(KNOWN[-1], after=(end, "\n"))] if end else KNOWN[:-1]


KNOWN = [
    Template("ChatML", lambda role: f"<|im_start|>{role}\n", ("<|im_end|>", "\n")),
    Template(
        "Llama 3",
        lambda role: f"<|start_header_id|>{role}<|end_header_id|>\n\n",
        ("<|eot_id|>", ""),
    ),
    Template("Zephyr", lambda role: f"<|{role}|>\n", ("</s>", "\n")),  # TinyLlama's too
]


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
        """Encode conversations one behind the other.  ValueError if there are none."""
        pairs = [template.encode(messages, tokeniser) for messages in conversations]
        if not pairs:
            raise ValueError("there is no conversation to learn from")
        ids, counted = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
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
