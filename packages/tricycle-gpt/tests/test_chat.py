"""Conversations: templates recognised by what they write, and answers alone that count."""

from pathlib import Path

import numpy as np
import pytest

from tricycle_gpt import Answers, Template, chat_probe, evaluate
from tricycle_gpt.chat import KNOWN
from tricycle_gpt.chat_probe import rendered

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_A_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}"
    "{% endif %}" + CHATML
)
LLAMA_3 = (
    "{% for m in messages %}{% set c = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    " + m['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set c = bos_token + c %}"
    "{% endif %}{{ c }}{% endfor %}"
)
LLAMA_3_1 = (
    "{% if messages[0].role == 'system' %}{% set said = messages[0].content | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set said = '' %}{% endif %}"
    "{{ bos_token + '<|start_header_id|>system<|end_header_id|>\n\nToday: 1 May\n\n' + said + "
    "'<|eot_id|>' }}{% set bos_token = '' %}" + LLAMA_3.replace("bos_token + ", "")
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
)
SAID = [
    {"role": "user", "content": " Hello? "},
    {"role": "assistant", "content": "Hi <|im_end|>."},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Bye!"},
]


def test_chatml_by_hand():
    assert KNOWN[0].text(SAID[2:]) == (
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nBye!<|im_end|>\n"
    )


@pytest.mark.parametrize(
    ("jinja", "name", "begin", "system", "trimmed"),
    [
        (CHATML, "ChatML", "", None, False),
        (WITH_A_SYSTEM, "ChatML", "", "You help.", False),
        (LLAMA_3, "Llama 3", "<s>", None, True),
        (LLAMA_3_1, "Llama 3", "<s>", "", True),
        (ZEPHYR, "Zephyr", "", None, False),
        ("{{ bos_token }}" + CHATML, "ChatML", "<s>", None, False),
    ],
    ids=["ChatML", "SmolLM2, Qwen2.5", "Llama 3", "Llama 3.1", "Zephyr", "with a beginning"],
)
def test_a_template_is_recognised_by_what_it_writes(jinja, name, begin, system, trimmed):
    found = Template.recognised(jinja, "here", "<s>", "</s>")
    assert (found.name, found.begin, found.system) == (name, begin, system)
    assert found.trimmed == trimmed
    said = [{"role": "system", "content": "Be kind."}, *SAID]
    for messages in (SAID, said):
        assert found.text(messages) == rendered(jinja, messages, "here", "<s>", "</s>")


@pytest.mark.parametrize(
    ("jinja", "message"),
    [
        ("{% for m in messages %}[{{ m.content }}]{% endfor %}", "here is not known; ChatML, Lla"),
        ("{{ messages[0].content.upper.__globals__ }}", "here cannot be used: .*unsafe|not known"),
        ("{% for m in %}", "here cannot be used: .*Syntax|Expected"),
        ("{{ raise_exception('only users') }}", "here cannot be used: ValueError: only users"),
        ("{{ '%900000000d' % 1 }}", "here cannot be used: .*"),
        ("x" * 100_001, "has 100,001 characters: too many"),
        ("{{ 'x' * 200000 }}", "here cannot be used: it takes too much time or memory"),
    ],
    ids=["unknown", "attributes", "syntax", "refuses", "memory", "long", "long result"],
)
def test_a_template_that_cannot_be_used_is_refused_by_its_name(jinja, message):
    with pytest.raises(ValueError, match=message):
        Template.recognised(jinja, "here")


def test_a_template_without_an_end_is_stopped(monkeypatch, tmp_path):
    short = tmp_path / "probe.py"
    text = Path(chat_probe.__file__).read_text(encoding="utf-8")
    short.write_text(text.replace("SECONDS = 10", "SECONDS = 1"), encoding="utf-8")
    monkeypatch.setattr(chat_probe, "__file__", str(short))
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(ValueError, match="here cannot be used|does not come to an end"):
        Template.recognised(endless, "here")


class Letters:
    """A tokeniser of single characters, with two special tokens."""

    special_tokens = {"<|im_start|>": 300, "<|im_end|>": 301}

    def encode(self, text, allowed_special=()):
        for token, i in self.special_tokens.items():
            text = text.replace(token, chr(i))
        return [ord(c) for c in text]

    def encode_ordinary(self, text):
        return [ord(c) for c in text]


def test_answers_and_their_ends_count_and_what_is_said_spells_no_special_token():
    ids, counted = KNOWN[0].encode(SAID, Letters())
    assert "".join(map(chr, ids[counted].tolist())) == f"Hi <|im_end|>.{chr(301)}Bye!{chr(301)}"
    assert ids.tolist().count(301) == 4
    assert ids.tolist().count(300) == 4


def test_conversations_are_one_row_of_ids(make_tiny):
    template = KNOWN[0]
    row = Answers.of([SAID[:2], SAID], template, Letters())
    first, counted = template.encode(SAID[:2], Letters())
    assert row.document_starts.tolist() == [0, len(first)]
    assert row.counts()["n_counted"] == 15 + 15 + 5
    assert row.opening == first[: int(np.argmax(counted))].tolist()
    model = make_tiny(vocab_size=302)
    loss = evaluate(model, row)
    assert loss.tokens == row.counts()["n_counted"]
    # By hand: the loss of the windows of 16 with all that does not count left out.
    total = 0.0
    for start in range(0, len(row) - 1, 16):
        ids = row.ids[start : start + 17]
        targets = np.where(row.counted[start + 1 : start + 17], ids[1:], -100)
        if (targets >= 0).any():
            mean = model.loss(ids[None, :-1], targets[None]).item()
            total += mean * (targets >= 0).sum()
    assert loss.loss == pytest.approx(total / loss.tokens, rel=1e-5)
    with pytest.raises(ValueError, match="there is no conversation to learn from"):
        Answers.of([], template, Letters())


def test_a_preface_stands_before_the_first_system_message_alone():
    way = Template("a way", lambda role: f"<{role}>", ("</>", ""), system="", preface="Date. ")
    said = [{"role": "system", "content": text} for text in ("One", "Two")]
    assert way.text(said) == "<system>Date. One</><system>Two</>"
    assert way.text([]) == "<system>Date. </>"


@pytest.mark.parametrize("blanks", ["m['role'] == 'user'", "m['role'] == 'system'"])
def test_a_template_that_trims_only_some_is_not_taken_for_one_that_does_not(blanks):
    trimming = CHATML.replace(
        "m['content']", f"(m['content'] | trim if {blanks} else m['content'])"
    )
    with pytest.raises(ValueError, match="is not known; ChatML"):
        Template.recognised(trimming, "there")
