"""What a chat template is asked, and kinds of conversations that some templates refuse.

A template is known by what it writes, so what it is asked must tell it from all that write
something else: every role has blanks, line ends and letters of many kinds around and in what it
says, once with thoughts, and once in many turns.

Many templates refuse some conversations: two questions in a row, a system in the middle.  So each
kind that is out of the ordinary has questions of its own.  Where one is refused, conversations of
that kind are; where one is written otherwise, the template is not the known one.
"""

from collections.abc import Sequence

Message = dict[str, str]  # "role": system, user or assistant; "content"

SYSTEM = "a message of the system"
LATER_SYSTEM = "a message of the system that is not the first"
IN_A_ROW = "two messages of one role in a row"
ANSWER_FIRST = "an answer before any question"
NO_ANSWER = "no answer at its end"
EMPTY = "a message without a word"


def kinds_of(messages: Sequence[Message]) -> list[str]:
    """In which ways a conversation is out of the ordinary: user, assistant, user, assistant …"""
    roles = [message["role"] for message in messages]
    spoken = [role for role in roles if role != "system"]
    found = {
        SYSTEM: "system" in roles,
        LATER_SYSTEM: "system" in roles[1:],
        IN_A_ROW: any(a == b for a, b in zip(spoken, spoken[1:], strict=False)),
        ANSWER_FIRST: spoken[:1] == ["assistant"],
        NO_ANSWER: roles[-1:] != ["assistant"],
        EMPTY: any(not message["content"].strip() for message in messages),
    }
    return [kind for kind, is_so in found.items() if is_so]


ODD = "\n\t {} 1: it’s “Ünï”  a <b> & 'c'\r\n\n{{{{ x }}}} C:\\n 🙂 aB \t\n"
THOUGHTS = " \n<think>\n\n Hm {}.\n\n</think>\n\n\n Said. \n"


def _said(*turns: tuple[str, str]) -> list[Message]:
    return [{"role": role, "content": content} for role, content in turns]


def _odd(*roles: str) -> list[Message]:
    return _said(*((role, ODD.format(f"{role} {i}")) for i, role in enumerate(roles)))


QUESTION, ANSWER, ORDER = "user", "assistant", "system"
FIRST = _said((QUESTION, "Probe 1?"), (ANSWER, "Reply 1."))  # a beginning is read off it
PROBES: list[list[Message]] = [  # which must be written
    FIRST,
    _odd(*[QUESTION, ANSWER] * 8),
    _said((QUESTION, THOUGHTS), (ANSWER, THOUGHTS), (QUESTION, "More?"), (ANSWER, THOUGHTS)),
    _said(
        *((QUESTION, "Weather?"), (ANSWER, THOUGHTS)),
        *((QUESTION, "<tool_response>\nSun.\n</tool_response>"), (ANSWER, THOUGHTS)),
    ),
    _said((QUESTION, "Long? " * 300), (ANSWER, "long " * 300 + "\n</think>")),
]
KIND_PROBES: list[list[Message]] = [  # which may be refused
    _odd(ORDER, QUESTION, ANSWER, QUESTION, ANSWER),
    _said((ORDER, "Be brief."), (QUESTION, " Why?\n"), (ANSWER, "So.")),
    _odd(ORDER, ORDER, QUESTION, ANSWER),
    _odd(ORDER, QUESTION, ANSWER, ORDER, QUESTION, ANSWER),
    _odd(QUESTION, ORDER, ANSWER),
    _odd(QUESTION, QUESTION, ANSWER),
    _said((QUESTION, "Again?"), (ANSWER, THOUGHTS), (ANSWER, "Reply 2."), (ANSWER, "Reply 3.")),
    _odd(ANSWER, QUESTION, ANSWER),
    _odd(ORDER, ANSWER),
    _odd(QUESTION, ANSWER, QUESTION),
    _said((QUESTION, ""), (ANSWER, ""), (QUESTION, " "), (ANSWER, "\n")),
    _said((ORDER, ""), (QUESTION, "Well?"), (ANSWER, "")),
]
