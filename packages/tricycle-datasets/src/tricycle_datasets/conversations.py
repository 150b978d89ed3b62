"""Conversations in files: records with a list of messages, as models that answer learn from them.

    {"messages": [{"role": "user", "content": "Hello?"},
                  {"role": "assistant", "content": "Good morning."}]}

A line of a .jsonl file, a record of a .json file; a role is system, user or assistant, and a
content is text.  `open_conversations` deals them to training and validation as `open_source` does
documents: each is on one side, by a hash of what is said in it.  `messages_of` gives their messages
again.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tricycle_datasets.source import FEW, Source, record_of
from tricycle_datasets.text_files import files_of, records_of

ROLES = ("system", "user", "assistant")


def open_conversations(
    data: str | os.PathLike[str],
    validation: float = 0.05,
    *,
    seed: int = 0,
    field: str = "messages",
) -> Source:
    """Find the conversations in a file or a folder, parted in two.

    data        a path: .jsonl, .ndjson or .json, perhaps compressed, or a folder of them
    validation  the share of the conversations that is kept for validation
    field       where records keep their messages

    The documents of the source are the messages as JSON; `messages_of` reads them.
    raises      FileNotFoundError; ValueError, naming the line, for what is not a conversation, and
                for fewer than 20 of them
    """
    place = Path(data)
    texts = list(_texts(place, field))
    if len(texts) < FEW:
        raise ValueError(
            f"{place} holds {len(texts)} conversations: at least {FEW} are needed, of which some "
            "are kept to check with"
        )
    return Source(place.name, record_of(place, field), lambda: iter(texts), validation, seed)


def messages_of(documents: Iterable[str]) -> Iterator[list[dict[str, str]]]:
    """The messages of each conversation that a source of `open_conversations` gives."""
    return (json.loads(text) for text in documents)


def _texts(place: Path, field: str) -> Iterator[str]:
    for file in files_of(place):
        for where, record in records_of(file):
            messages = record.get(field) if isinstance(record, dict) else None
            yield json.dumps(_checked(messages, where, field), ensure_ascii=False)


def _checked(messages: Any, where: str, field: str) -> list[dict[str, str]]:
    if not isinstance(messages, list) or not messages:
        raise ValueError(f'{where} has no list of messages in the field "{field}"')
    found = []
    for number, message in enumerate(messages, start=1):
        role, content = (
            message.get(name) if isinstance(message, dict) else None for name in ("role", "content")
        )
        if role not in ROLES or not isinstance(content, str):
            raise ValueError(
                f"{where}, message {number}: wanted a role, one of {', '.join(ROLES)}, and a "
                f"content that is text, got {json.dumps(message):.80}"
            )
        found.append({"role": role, "content": content})
    if not any(message["role"] == "assistant" for message in found):
        raise ValueError(f"{where} has no message of an assistant, and nothing to learn")
    return found
