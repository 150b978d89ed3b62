"""The lists of kernels that are compiled ahead are those that training asks for."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "list_kernels.py"


@pytest.mark.parametrize("block", ["gpt2", "llama"])
def test_the_lists_are_up_to_date(block):
    spec = importlib.util.spec_from_file_location("list_kernels", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = (script.FOLDER / f"kernels_{block}.txt").read_text("utf-8")
    assert written == script.kernels_of(block), "run scripts/list_kernels.py"
