"""Conversations as a model's makers write them: chat templates, in Python.

A model that answers has learned one way to write who says what, such as ChatML:

    <|im_start|>user
    Who wrote Hamlet?<|im_end|>
    <|im_start|>assistant
    Shakespeare.<|im_end|>

Its folder tells it by a template in Jinja: a program, which may run for minutes or fill the memory.
So it is not used.  It renders probes (chat_kinds.py), in a process of its own with little time and
memory (chat_probe.py), and `Template.recognised` says which of the ways below gives the same texts;
a template that none does is refused by its name.

While training only answers count, with the token that ends them: what a user says is read, and not
learned.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import Any, NamedTuple

import numpy as np

from tricycle_gpt.chat_kinds import FIRST, KIND_PROBES, PROBES, Message, kinds_of
from tricycle_gpt.chat_probe import rendered_all, text_of

ROLES = ("system", "user", "assistant")


class Part(NamedTuple):
    """A piece of a conversation's text.

    is_markup  the makers' words, which may be special tokens, not a person's
    counts     it is learned
    """

    text: str
    is_markup: bool
    counts: bool


@dataclass(frozen=True)
class Template:
    """A way to write conversations: each message between words of its role.

    name     for messages
    before   what stands before a message of each role
    after    what stands behind it: the token that ends it, and what is between messages
    begin    what a conversation begins with
    system   what the system says where a conversation does not begin with its message; None for
             nothing
    preface  what stands in front of the system's words, given or not
    trimmed  roles around whose messages blanks and line ends are left out
    refused  kinds of conversation that the makers refuse (chat_kinds.py)
    """

    name: str
    before: Callable[[str], str]
    after: tuple[str, str]
    begin: str = ""
    system: str | None = None
    preface: str = ""
    trimmed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def parts(self, messages: Iterable[Message]) -> list[Part]:
        """A conversation as pieces of text.  ValueError for one of a kind that is refused."""
        messages = list(messages)
        if wrong := [kind for kind in kinds_of(messages) if kind in self.refused]:
            raise ValueError(
                f"the model's chat template ({self.name}) refuses a conversation with "
                f"{' and '.join(wrong)}: leave it out, or write it in another way"
            )
        said = [(message["role"], message["content"]) for message in messages]
        return [part for part in self._parts(said) if part.text]

    def _parts(self, said: list[tuple[str, str]]) -> Iterator[Part]:
        """Pieces of text, some of them empty.  said: roles and contents"""
        said = [(role, self._trim(role, content)) for role, content in said]
        yield Part(self.begin, True, False)
        theirs = None if [role for role, _ in said[:1]] == ["system"] else self.system
        if theirs is not None:
            said = [("system", theirs), *said]
        for i, (role, content) in enumerate(said):
            answers = role == "assistant"
            yield Part(self.before(role), True, False)
            if i == 0 and role == "system":
                yield Part(self.preface, True, False)
            yield Part(content, theirs is not None and i == 0, answers)
            end, between = self.after
            yield Part(end, True, answers)
            yield Part(between, True, False)

    def _trim(self, role: str, content: str) -> str:
        return content.strip() if role in self.trimmed else content

    def text(self, messages: Iterable[Message]) -> str:
        """A conversation as text."""
        return "".join(part.text for part in self.parts(messages))

    def encode(self, messages: Iterable[Message], tokeniser: Any) -> tuple[np.ndarray, np.ndarray]:
        """A conversation's ids (N,), and which of them count (N,).

        tokeniser  has encode(text, allowed_special=…), encode_ordinary(text) and special_tokens;
                   what is said cannot spell a special token

        The ids are those of the whole text: what stands between two special tokens is encoded as
        one.  ValueError for a tokeniser whose special tokens change the text beside them.
        """
        parts = self.parts(messages)
        ids: list[int] = []
        counted: list[bool] = []
        for token, stretch in groupby(_cut(parts, tokeniser.special_tokens), key=_special):
            if token is None:
                new, new_counted = _encoded(list(stretch), tokeniser)
            else:
                flags = [part.counts for part in stretch]
                new, new_counted = [tokeniser.special_tokens[token]] * len(flags), flags
            ids += new
            counted += new_counted
        if not _spells(parts, tokeniser.special_tokens):
            whole = "".join(part.text for part in parts)
            if list(tokeniser.encode(whole, allowed_special="all")) != ids:
                raise ValueError(
                    "the tokeniser's special tokens change the text beside them (they take blanks, "
                    "say), and conversations cannot be encoded with it"
                )
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
        answers = rendered_all(template, PROBES + KIND_PROBES, where, begin, end)
        texts = [text_of(answer, where) for answer in answers[: len(PROBES)]]
        asked = list(zip(PROBES, texts, strict=True))
        refused: list[str] = []
        for probe, (text, why) in zip(KIND_PROBES, answers[len(PROBES) :], strict=True):
            if not why:
                asked.append((probe, text))
            elif not any(kind in refused for kind in kinds_of(probe)):
                refused.append(kinds_of(probe)[-1])  # those before it have probes of their own
        for candidate in candidates(texts[0], begin, end):
            if all(candidate.text(probe) == text for probe, text in asked):
                return replace(candidate, refused=tuple(refused))
        raise ValueError(
            f"the chat template of {where} is not known; {', '.join(NAMES)} are. "
            f"It writes {texts[0][:200]!r}"
        )


# ---- Encoding ----


def _special(part):
    return part.text if part.is_markup else None


def _cut(parts: Iterable[Part], special: Iterable[str]) -> Iterator[Part]:
    """Parts of which those that are markup are special tokens, and no other spells one."""
    tokens = sorted(special, key=len, reverse=True)
    cuts = re.compile("(" + "|".join(map(re.escape, tokens)) + ")") if tokens else None
    for part in parts:
        pieces = cuts.split(part.text) if part.is_markup and cuts else [part.text]
        for i, text in enumerate(pieces):
            if text:
                yield Part(text, i % 2 == 1, part.counts)


def _encoded(stretch: list[Part], tokeniser: Any) -> tuple[list[int], list[bool]]:
    """The ids of text without special tokens, and which of them count.

    An id that is partly of one piece and partly of the next is the next one's.
    """
    ids = list(tokeniser.encode_ordinary("".join(part.text for part in stretch)))
    counted: list[bool] = []
    before = ""
    for counts, alike in groupby(stretch, key=lambda part: part.counts):
        if before:
            n = _alike(tokeniser.encode_ordinary(before), ids)
            counted = counted[:n]
        counted += [counts] * (len(ids) - len(counted))
        before += "".join(part.text for part in alike)
    return ids, counted


def _alike(a, b):
    """How many ids two rows begin with alike."""
    n = 0
    for one, other in zip(a, b, strict=False):
        if one != other:
            break
        n += 1
    return n


def _spells(parts, special):
    """Whether a person's words spell a special token."""
    return any(token in part.text for part in parts if not part.is_markup for token in special)


# ---- What is known ----


def _of_tool(content):
    """Whether a user's message is what a tool answered."""
    return content.startswith("<tool_response>") and content.endswith("</tool_response>")


@dataclass(frozen=True)
class Thinking(Template):
    """Qwen3's: ChatML, of whose answers only those after the last question keep their thoughts.

    The last answer has a place for thoughts, be there any or not; an empty one is the makers' word.
    What a tool said is no question, though it stands where one would.
    """

    def _parts(self, said: list[tuple[str, str]]) -> Iterator[Part]:
        questions = [i for i, one in enumerate(said) if one[0] == "user" and not _of_tool(one[1])]
        last = len(said) - 1
        end, between = self.after
        for i, (role, content) in enumerate(said):
            answers = role == "assistant"
            yield Part(self.before(role), True, False)
            thoughts = ""
            if answers and "</think>" in content:
                thoughts = content.split("</think>")[0].rstrip("\n").split("<think>")[-1]
                thoughts = thoughts.lstrip("\n")
                content = content.split("</think>")[-1].lstrip("\n")
            if answers and i > (questions or [last])[-1] and (thoughts or i == last):
                yield Part("<think>\n", True, bool(thoughts))
                yield Part(thoughts, False, True)
                yield Part("\n</think>\n\n", True, bool(thoughts))
                content = content.lstrip("\n")
            yield Part(content, False, answers)
            yield Part(end, True, answers)
            yield Part(between, True, False)


@dataclass(frozen=True)
class Instructions(Template):
    """Mistral's and Llama 2's: questions between [INST] and [/INST], answers behind them.

    around     what stands on both sides of a question
    beside     what stands on both sides of an answer, before the token that ends it
    each       a conversation's beginning is written before each question
    orders     what stands on both sides of the system's words, which are the beginning of the first
               question; or, if `only_last`, of one that is not answered yet
    """

    around: tuple[str, str] = ("[INST] ", " [/INST]")
    beside: tuple[str, str] = ("", "")
    each: bool = False
    orders: tuple[str, str] = ("", "")
    only_last: bool = False

    def _parts(self, said: list[tuple[str, str]]) -> Iterator[Part]:
        orders = [content for role, content in said[:1] if role == "system"]
        said = said[len(orders) :]
        end, between = self.after
        yield Part("" if self.each else self.begin, True, False)
        for i, (role, content) in enumerate(said):
            if role == "assistant":
                yield Part(self.beside[0], False, True)
                yield Part(self._trim(role, content), False, True)
                yield Part(self.beside[1], False, True)
                yield Part(end, True, True)
                yield Part(between, True, False)
                continue
            yield Part(self.begin if self.each else "", True, False)
            yield Part(self.around[0], True, False)
            if orders and i == (len(said) - 1 if self.only_last else 0):
                yield Part(self.orders[0], True, False)
                yield Part(orders[0], False, False)
                yield Part(self.orders[1], True, False)
                # Trimmed with them, as one text: blanks in front of it are within.
                content = content.rstrip() if role in self.trimmed else content
            else:
                content = self._trim(role, content)
            yield Part(content, False, False)
            yield Part(self.around[1], True, False)


KNOWN = [
    Template("ChatML", lambda role: f"<|im_start|>{role}\n", ("<|im_end|>", "\n")),
    Thinking("Qwen3", lambda role: f"<|im_start|>{role}\n", ("<|im_end|>", "\n")),
    Template(
        "Llama 3",
        lambda role: f"<|start_header_id|>{role}<|end_header_id|>\n\n",
        ("<|eot_id|>", ""),
    ),
    Template(
        "Gemma",
        lambda role: f"<start_of_turn>{'model' if role == 'assistant' else role}\n",
        ("<end_of_turn>", "\n"),
    ),
]
NAMES = (*(known.name for known in KNOWN), "Zephyr", "Mistral", "Llama 2")
TRIMS = [
    tuple(role for role, on in zip(ROLES, which, strict=True) if on)
    for which in product((False, True), repeat=len(ROLES))
]
ORDERS = {  # of whom: around the system's words, and whether only in the last question
    "Mistral": [(("", "\n\n"), False), (("", "\n\n"), True)],
    "Llama 2": [(("<<SYS>>\n", "\n<</SYS>>\n\n"), False)],
}


def candidates(first: str, begin: str, end: str) -> Iterator[Template]:
    """Ways that may be meant.  first: what FIRST is written as; begin, end: of a text."""
    framed = [way for known in _turns(end) for way in _with_frame(known, first, begin)]
    for way in (*framed, *_instructions(begin, end)):
        if way.text(FIRST) == first:
            yield from (replace(way, trimmed=roles) for roles in TRIMS)


def _turns(end):
    """Those with a message between words of its role."""
    yield from KNOWN
    if end:  # TinyLlama's too
        yield Template("Zephyr", lambda role: f"<|{role}|>\n", (end, "\n"))


def _with_frame(known, first, begin):
    """A known way with what this template puts in front: nothing, a beginning, a system's words."""
    for begins in dict.fromkeys(("", begin)):
        yield replace(known, begin=begins)
        opening, closing = begins + known.before("system"), "".join(known.after)
        rest = first.removeprefix(opening)
        words = rest.partition(closing + known.before("user"))[0]
        if rest != first and words != rest:
            yield replace(known, begin=begins, system=words)
            yield replace(known, begin=begins, system="", preface=words)  # Llama 3.1's dates


def _instructions(begin, end):
    """All ways to write [INST] that are met."""
    for name, orders in ORDERS.items():
        for choice in product(
            dict.fromkeys(("", begin)),
            (False, True),
            ("", " "),
            ("[INST] ", " [INST] ", "[INST]"),
            (" [/INST]", "[/INST]"),
            ("", " "),
            ("", " "),
            orders,
        ):
            begins, each, between, before, after, lead, tail, (around_orders, only_last) = choice
            yield Instructions(
                name,
                lambda role: "",
                (end, between),
                begins,
                around=(before, after),
                beside=(lead, tail),
                each=each,
                orders=around_orders,
                only_last=only_last,
            )
