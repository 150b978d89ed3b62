"""Records with a list of messages: read, checked, and dealt to two sides."""

import gzip
import json

import numpy as np
import pytest

from tricycle_datasets import Batches, messages_of, open_conversations

SAID = [
    [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"é{n}."}]
    for n in range(40)
]
LINES = "".join(json.dumps({"messages": said, "id": 1}) + "\n" for said in SAID)


def test_every_conversation_is_on_one_side(tmp_path):
    (tmp_path / "chats.jsonl").write_text(LINES)
    with gzip.open(tmp_path / "packed.ndjson.gz", "wt") as file:
        file.write(LINES + "\n")
    (tmp_path / "list.json").write_text(json.dumps([{"messages": said} for said in SAID]))
    sides = []
    for name in ("chats.jsonl", "packed.ndjson.gz", "list.json"):
        source = open_conversations(tmp_path / name, 0.1)
        assert source.name == name
        assert len(source.record["sha256"]) == 64
        train, held = (list(messages_of(side)) for side in (source.training(), source.validation()))
        assert sorted(map(str, train + held)) == sorted(map(str, SAID))
        assert len(held) == 4
        sides.append((train, held))
    assert sides[0] == sides[1] == sides[2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "x"}', 'line 3 of .* has no list of messages in the field "messages"'),
        ('{"messages": []}', "line 3 of .* has no list of messages"),
        (
            '{"messages": [{"role": "robot", "content": "x"}]}',
            "line 3 of .*, message 1: wanted a role, one of system, user, assistant, and a content",
        ),
        ('{"messages": [{"role": "user", "content": [1]}]}', "a content that is text, got"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "no message of an assistant"),
        ("{", "line 3 of .* is not JSON"),
    ],
)
def test_what_is_not_a_conversation_is_named(tmp_path, line, message):
    lines = LINES.splitlines()
    lines[2] = line
    (tmp_path / "chats.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        open_conversations(tmp_path / "chats.jsonl")
    if line != "{":
        records = [json.loads(line) for line in lines]
        (tmp_path / "chats.json").write_text(json.dumps(records))
        with pytest.raises(ValueError, match=message.replace("line 3", "record 3")):
            open_conversations(tmp_path / "chats.json")


def test_files_without_records_and_few_conversations_are_refused(tmp_path):
    (tmp_path / "chats.txt").write_text("Hello")
    with pytest.raises(ValueError, match="chats.txt has no records: wanted"):
        open_conversations(tmp_path / "chats.txt")
    (tmp_path / "chats.jsonl").write_text("".join(LINES.splitlines(keepends=True)[:19]))
    with pytest.raises(ValueError, match="holds 19 conversations: at least 20 are needed"):
        open_conversations(tmp_path / "chats.jsonl")


def test_only_what_counts_is_a_target():
    tokens, counted = np.arange(100), np.arange(100) % 3 == 0
    for inputs, targets in zip(range(5), Batches(tokens, 4, 7, seed=1, counted=counted)):
        del inputs
        ids, wanted = targets
        expected = np.where(counted[ids + 1], ids + 1, -100)
        np.testing.assert_array_equal(wanted, expected)
    with pytest.raises(ValueError, match=r"expected shape \(100,\), got \(99,\)"):
        Batches(tokens, 4, 7, seed=1, counted=counted[1:])
