"""What is linked into kernels is code that LLVM has not yet made machine code of."""

import json
import os
import subprocess
import sys
import warnings

import pytest

pytestmark = pytest.mark.slow  # it starts many processes

COMPILE = """
import importlib, json, sys
import numba
from numba.core.codegen import CPUCodeLibrary
from tricycle_autograd import machine_code

module, kernel, cured = sys.argv[1:]
linked = {}
get_module = CPUCodeLibrary._get_module_for_linking

def look_and_get_module(library):
    module = get_module(library)
    linked[library.name] = str(module)
    return module

CPUCodeLibrary._get_module_for_linking = look_and_get_module
if cured == "no":
    machine_code.link_before_lowering = lambda: None
machine_code.process.compiles = True
getattr(importlib.import_module(module), kernel).store(None)
lowered = [name for name, code in linked.items() if "sunkaddr" in code]
print(json.dumps([numba.__version__, sorted(linked), lowered]))
"""


def compiled(tmp_path, module, kernel, cured="yes"):
    """(numba's version, names of what was linked, of what of it was lowered) for a Haswell."""
    environment = {**os.environ, "TRICYCLE_CACHE": str(tmp_path), "NUMBA_CPU_NAME": "haswell"}
    command = [sys.executable, "-c", COMPILE, f"tricycle_autograd.{module}", kernel, cured]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize(
    ("module", "kernel", "at_least"),
    [("gemm", "multiply_in_pieces", 20), ("gemm_one_row", "sum_rows", 2)],
)
def test_nothing_that_is_linked_has_been_lowered(tmp_path, module, kernel, at_least):
    _, linked, lowered = compiled(tmp_path, module, kernel)
    assert len(linked) >= at_least
    assert lowered == []


def test_the_cure_is_needed_or_can_go(tmp_path):
    """numba 0.66 to 0.68 (LLVM 22) link what was lowered; 0.61 to 0.65 are right by luck."""
    version, linked, lowered = compiled(tmp_path, "gemm_packing", "pack", cured="no")
    assert any("pack_steps" in name for name in linked)
    if not any("pack_steps" in name for name in lowered):
        warnings.warn(
            f"numba {version} links code as it was before it was lowered: where it does so for "
            "the oldest numba that is allowed too, linking.py can go",
            stacklevel=1,
        )
    assert compiled(tmp_path / "cured", "gemm_packing", "pack")[2] == []
