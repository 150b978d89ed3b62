"""What holds for the package as a whole."""

import re
import subprocess
import sys
from pathlib import Path

import tricycle_nn
from tricycle_autograd.fused import registry

TESTS = Path(__file__).parent
# In parts, so that this file is not taken for a check.
CHECKS = ("check" + "_fused(", "check" + "_update(")


def test_every_public_name_is_there_once_and_sorted():
    names = tricycle_nn.__all__
    assert all(hasattr(tricycle_nn, name) for name in names)
    assert len(set(names)) == len(names)


def test_every_public_object_says_what_it_is():
    assert [name for name in tricycle_nn.__all__ if not getattr(tricycle_nn, name).__doc__] == []


def test_every_fused_operation_has_kernels_and_a_check():
    ours = [op for name, op in registry.items() if name.startswith("tricycle_nn.")]
    assert len(ours) >= 15
    texts = map(Path.read_text, TESTS.glob("test_*.py"))
    checked = [text for text in texts if any(check in text for check in CHECKS)]
    for operation in ours:
        name = operation.__name__
        assert "cpu" in operation.by_device, f"{name} has no kernels"
        assert any(re.search(rf"\b{name}\b", text) for text in checked), f"{name} has no check"


def test_importing_prints_nothing_and_starts_no_compiler():
    code = "import sys, tricycle_nn; print(sorted({'numba', 'cupy', 'torch'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("[]\n", "")
