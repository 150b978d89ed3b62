"""What is linked into the kernels is code that LLVM has not yet made machine code of."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # it starts many processes

COMPILE = """
import json
import sys
from numba.core.codegen import CPUCodeLibrary
import tricycle_bpe.linking

if sys.argv[1] == "no":
    tricycle_bpe.linking.link_before_lowering = lambda: None
linked = {}
get_module = CPUCodeLibrary._get_module_for_linking

def look_and_get_module(library):
    module = get_module(library)
    linked[library.name] = str(module)
    return module

CPUCodeLibrary._get_module_for_linking = look_and_get_module
from tricycle_bpe import Tokeniser

trained = Tokeniser.train(["low lower lowest"], 259, pattern="o200k", ties="bytes")
assert trained.decode(trained.encode("lower")) == "lower"
# CodeGenPrepare, a part of LLVM's making machine code, leaves this name
print(json.dumps([len(linked), [name for name, code in linked.items() if "sunkaddr" in code]]))
"""


@pytest.fixture
def linked(tmp_path):
    """(number of modules that were linked, names of those that were lowered) for a Haswell."""

    def compile_all(cured: str) -> tuple[int, list[str]]:
        cache = str(tmp_path / cured)
        environment = {**os.environ, "TRICYCLE_CACHE": cache, "NUMBA_CPU_NAME": "haswell"}
        command = [sys.executable, "-c", COMPILE, cured]
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        n_linked, lowered = json.loads(run.stdout)
        return n_linked, lowered

    return compile_all


def test_nothing_that_is_linked_has_been_lowered(linked):
    n_linked, lowered = linked("yes")
    assert n_linked >= 20
    assert lowered == []
