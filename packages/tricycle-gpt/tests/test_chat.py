"""Conversations: templates recognised by what they write, and answers alone that count."""

import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tricycle_gpt import Answers, Template, chat_probe, evaluate
from tricycle_gpt.chat import KNOWN
from tricycle_gpt.chat_kinds import ODD, kinds_of
from tricycle_gpt.chat_probe import rendered, rendered_all

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
ALTERNATING = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{% for m in messages %}" + ALTERNATING + "{% set r = 'model' if m['role'] == "
    "'assistant' else m['role'] %}{{ '<start_of_turn>' + r + '\n' + m['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}" + ALTERNATING + "{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
    "{{ m['content'] + eos_token }}{% else %}{{ raise_exception('roles') }}{% endif %}{% endfor %}"
)
NEMO = (
    "{% if messages[0]['role'] == 'system' %}{% set order = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% endif %}{{ bos_token }}{% for m in messages %}"
    + ALTERNATING
    + "{% if m['role'] == 'user' %}{% if loop.last and order is defined %}"
    "{{ '[INST]' + order + '\n\n' + m['content'] + '[/INST]' }}{% else %}"
    "{{ '[INST]' + m['content'] + '[/INST]' }}{% endif %}{% else %}"
    "{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set order = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% else %}{% set order = false %}{% endif %}"
    "{% for m in messages %}" + ALTERNATING + "{% if loop.index0 == 0 and order != false %}"
    "{% set c = '<<SYS>>\n' + order + '\n<</SYS>>\n\n' + m['content'] %}{% else %}"
    "{% set c = m['content'] %}{% endif %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + c.strip() + ' [/INST]' }}{% else %}"
    "{{ ' ' + c.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
QWEN_3 = (
    "{% if messages[0].role == 'system' %}"
    "{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{% endif %}"
    "{% set ns = namespace(searching=true, last=messages|length - 1) %}"
    "{% for m in messages[::-1] %}{% if ns.searching and m.role == 'user' and not "
    "(m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) %}"
    "{% set ns.searching = false %}{% set ns.last = messages|length - 1 - loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{% set c = m.content %}"
    "{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}"
    "{{ '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{% elif m.role == 'assistant' %}"
    "{% set thoughts = '' %}{% if '</think>' in c %}{% set thoughts = "
    "c.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.index0 > ns.last and (loop.last or thoughts) %}"
    "{{ '<|im_start|>assistant\n<think>\n' + thoughts.strip('\n') + '\n</think>\n\n' + "
    "c.lstrip('\n') }}{% else %}{{ '<|im_start|>assistant\n' + c }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
)
ROLES = ("system", "user", "assistant")


def conversation(roles):
    """Messages with blanks and thoughts in them."""
    thoughts = "\n<think>\nHm.\n</think>\n\nSaid. "
    words = [ODD.format(i) if i % 2 else thoughts for i in range(len(roles))]
    return [{"role": r, "content": text} for r, text in zip(roles, words, strict=True)]


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


@pytest.fixture
def here(monkeypatch):
    """Templates are run in this process, for there are many: they are ours."""

    def here(template, probes, where, begin, end):
        given = {"bos_token": begin, "eos_token": end}
        return chat_probe.answers_of(template, json.loads(probes), given)

    monkeypatch.setattr(chat_probe, "_rendered", here)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("jinja", "name", "begin", "system", "trimmed"),
    [
        (CHATML, "ChatML", "", None, ()),
        (WITH_A_SYSTEM, "ChatML", "", "You help.", ()),
        (LLAMA_3, "Llama 3", "<s>", None, ("system", "user", "assistant")),
        (LLAMA_3_1, "Llama 3", "<s>", "", ("system", "user", "assistant")),
        (ZEPHYR, "Zephyr", "", None, ()),
        ("{{ bos_token }}" + CHATML, "ChatML", "<s>", None, ()),
        (QWEN_3, "Qwen3", "", None, ()),
        (GEMMA, "Gemma", "<s>", None, ("user", "assistant")),
        (MISTRAL, "Mistral", "<s>", None, ()),
        (NEMO, "Mistral", "<s>", None, ()),
        (LLAMA_2, "Llama 2", "<s>", None, ("user", "assistant")),
    ],
    ids=[
        *("ChatML", "SmolLM2, Qwen2.5", "Llama 3", "Llama 3.1", "Zephyr", "with a beginning"),
        *("Qwen3", "Gemma", "Mistral", "Nemo", "Llama 2"),
    ],
)
def test_a_template_is_recognised_by_what_it_writes(jinja, name, begin, system, trimmed):
    found = Template.recognised(jinja, "here", "<s>", "</s>")
    assert (found.name, found.begin, found.system) == (name, begin, system)
    assert found.trimmed == trimmed
    # All conversations of up to four messages: the same text, or none.
    asked = [conversation(roles) for n in (1, 2, 3, 4) for roles in product(ROLES, repeat=n)]
    texts = rendered_all(jinja, [SAID, *asked], "here", "<s>", "</s>")
    for messages, (text, why) in zip([SAID, *asked], texts, strict=True):
        if set(kinds_of(messages)) & set(found.refused):
            with pytest.raises(ValueError, match=r"the model's chat template .* refuses a conv"):
                found.text(messages)
        else:
            assert not why
            assert found.text(messages) == text
    assert bool(found.refused) == (name in ("Gemma", "Mistral", "Llama 2"))


@pytest.mark.parametrize(
    ("jinja", "message"),
    [
        ("{% for m in messages %}[{{ m.content }}]{% endfor %}", "here is not known; ChatML, Qwe"),
        (
            "{{ messages[0].content.__class__.mro() }}",
            "here cannot be used: Security.*__class__.*unsafe",
        ),
        ("{% for m in %}", "here cannot be used: .*TemplateSyntaxError: Expected"),
        ("{{ raise_exception('only users') }}", "here cannot be used: ValueError: only users"),
        ("{{ '%900000000d' % 1 }}", "here cannot be used: MemoryError"),
        (
            "{{ raise_exception('a' * (messages | length * 10000000)) }}",
            "here cannot be used: ValueError: a{200}$",
        ),
        ("{{ messages.nothing.at.all }}", "here cannot be used: UndefinedError: .* no attr"),
        ("x" * 100_001, "has 100,001 characters: too many"),
        ("{{ 'x' * 200000 }}", "here cannot be used: it takes too much time or memory"),
    ],
    ids=[
        *("unknown", "attributes", "syntax", "refuses", "memory", "long refusal", "undefined"),
        *("long", "long result"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_by_its_name(jinja, message):
    with pytest.raises(ValueError, match=message):
        Template.recognised(jinja, "here")


def test_what_one_conversation_is_written_as_is_asked_in_a_process_of_its_own():
    written = KNOWN[0].text(SAID)
    assert rendered(CHATML, SAID, "here") == written
    assert "é “”" in rendered("{{ bos_token }}", SAID, "here", "é “”")


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
    refusing = replace(template, refused=("no answer at its end",))
    with pytest.raises(
        ValueError, match=r"^conversation 2: .* refuses a conversation with no answer"
    ):
        Answers.of([SAID, SAID[:1]], refusing, Letters())
    silent = Template("silent", lambda role: "x", ("", ""))
    with pytest.raises(ValueError, match="of 1 conversations no token counts: no answer says any"):
        Answers.of([[SAID[0], {"role": "assistant", "content": ""}]], silent, Letters())


def test_only_windows_with_answers_are_looked_at(make_tiny):
    # Ten windows of 16, of which the fifth and the last count one token each.
    ids, counted = np.arange(161) % 23, np.zeros(161, bool)
    counted[[4 * 16 + 1, 160]] = True
    row = Answers(ids, counted, np.array([0]))
    model = make_tiny()
    assert evaluate(model, row, max_windows=2) == evaluate(model, row)
    assert evaluate(model, row).tokens == 2
    assert np.isfinite(evaluate(model, row, max_windows=1).loss)
    counted[:] = False
    counted[0] = True  # which nothing stands before
    with pytest.raises(ValueError, match="of the 161 tokens to measure none counts: there is no"):
        evaluate(model, row)


def test_a_preface_stands_before_the_first_system_message_alone():
    way = Template("a way", lambda role: f"<{role}>", ("</>", ""), system="", preface="Date. ")
    said = [{"role": "system", "content": text} for text in ("One", "Two")]
    assert way.text(said) == "<system>Date. One</><system>Two</>"
    assert way.text([]) == "<system>Date. </>"


def ours(jinja):
    """What a variant of ChatML writes, told by its changes."""
    return CHATML.replace("m['content']", f"({jinja})")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("roles", [("user",), ("assistant",), ("system", "assistant")])
def test_a_template_that_trims_only_some_roles_is_read_so(roles):
    jinja = ours(f"m['content'] | trim if m['role'] in {roles} else m['content']")
    assert Template.recognised(jinja, "there").trimmed == roles


VARIANTS = {
    "left blanks": "m['content'].lstrip()",
    "right blanks": "m['content'].rstrip()",
    "line ends of answers": (
        "m['content'].strip('\n') if m['role'] == 'assistant' else m['content']"
    ),
    "line ends of the system": "m['content'].strip('\n') if loop.first else m['content']",
    "no thoughts": "m['content'].split('</think>')[-1]",
    "no earlier thoughts": "m['content'] if loop.last else m['content'].split('</think>')[-1]",
    "no thoughts at the end": "m['content'].split('</think>')[-1] if loop.last else m['content']",
    "escaped": "m['content'] | e",
    "lower": "m['content'] | lower",
    "tabs": "m['content'].replace('\t', ' ')",
    "line ends": "m['content'].replace('\\r', '')",
    "short": "m['content'][:200]",
    "the last answer": "m['content'] | trim if loop.last else m['content']",
    "the first message": "m['content'] | trim if loop.first else m['content']",
    "later turns": "m['content'] | trim if loop.index0 > 9 else m['content']",
    "later systems": "m['content'] if loop.first or m['role'] != 'system' else ''",
    "a question in a row": "m['content'] if loop.index0 != 1 or m['role'] != 'user' else 'x'",
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_that_writes_something_else_is_not_taken_for_chatml(variant):
    with pytest.raises(ValueError, match="is not known; ChatML, Qwen3, Llama 3, Gemma, Zephyr"):
        Template.recognised(ours(VARIANTS[variant]), "there")


@pytest.mark.usefixtures("here")
def test_a_conversation_of_a_kind_that_the_makers_refuse_is_refused_by_it():
    found = Template.recognised(MISTRAL, "here", "<s>", "</s>")
    assert found.text(SAID[2:]) == "<s>[INST] Bye [/INST]Bye!</s>"
    order = {"role": "system", "content": "Be kind."}
    message = r"template \(Mistral\) refuses a conversation with a message of the system: leave it"
    with pytest.raises(ValueError, match=message):
        found.text([order, *SAID])
    with pytest.raises(ValueError, match="with an answer before any question: leave"):
        found.text([SAID[1]])
    assert kinds_of(SAID) == []


@pytest.mark.usefixtures("here")
def test_of_qwen3_thoughts_count_where_there_are_some():
    found = Template.recognised(QWEN_3, "here")
    thought = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nBye!"}
    counted = lambda said: "".join(part.text for part in found.parts(said) if part.counts)  # noqa: E731
    assert counted([*SAID[:3], thought]) == (
        "Hi <|im_end|>.<|im_end|><think>\nHm.\n</think>\n\nBye!<|im_end|>"
    )
    assert counted([SAID[2], thought, *SAID[2:]]) == "Bye!<|im_end|>Bye!<|im_end|>"


class Words(Letters):
    """As `Letters`, but blanks belong to the letter behind them, and a text begins with one."""

    def encode_ordinary(self, text):
        text = text if text.startswith(" ") else " " + text
        return [ord(c) + 1000 * text[i - 1].isspace() for i, c in enumerate(text) if c != " "]

    def encode(self, text, allowed_special=()):
        ids = []
        for piece in re.split(r"(<\|im_start\|>|<\|im_end\|>)", text):
            known = self.special_tokens.get(piece)
            ids += self.encode_ordinary(piece) * bool(piece) if known is None else [known]
        return ids


def test_ids_are_those_of_the_whole_text():
    said = [{"role": "user", "content": " a b"}, {"role": "assistant", "content": "c d"}]
    template = Template("way", lambda role: f"<|im_start|>{role}:", ("<|im_end|>", ""))
    ids, counted = template.encode(said, Words())
    assert ids.tolist() == Words().encode(template.text(said), allowed_special="all")
    assert ids[counted].tolist() == [ord("c"), ord("d") + 1000, 301]  # "c" has no blank before it
    # An id of two pieces, the last of the markup and the first of the answer, is the answer's.
    pairs = Template("pairs", lambda role: f"{role[0]} ", ("<|im_end|>", ""))
    assert pairs.encode(said, Words())[0].tolist()[-4:] == [
        ord("a") + 1000,
        ord("c") + 1000,
        ord("d") + 1000,
        301,
    ]
    assert pairs.encode(said, Words())[1].tolist()[-4:] == [False, True, True, True]


class Greedy(Letters):
    """Its special tokens take the line end behind them."""

    def encode(self, text, allowed_special=()):
        return super().encode(text.replace("|>\n", "|>"))


def test_special_tokens_that_take_the_text_beside_them_are_refused():
    with pytest.raises(ValueError, match="special tokens change the text beside them"):
        KNOWN[0].encode(SAID[2:], Greedy())
