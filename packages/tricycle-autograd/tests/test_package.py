"""What holds for the package as a whole."""

import re
import subprocess
import sys
from pathlib import Path

import tricycle_autograd
from tricycle_autograd import Tensor


def test_every_public_name_is_there_once_and_in_order():
    names = tricycle_autograd.__all__
    assert names == sorted(set(names))
    assert [name for name in names if not hasattr(tricycle_autograd, name)] == []


def test_what_numpy_users_reach_for_is_there():
    functions = """exp log log1p expm1 sqrt sin cos tanh erf sigmoid abs sign clip maximum minimum
        where sum mean var std max min prod cumsum logsumexp reshape transpose swapaxes moveaxis
        expand_dims squeeze broadcast_to flip roll tile repeat pad concatenate stack split take
        take_along_axis tril triu diagonal trace outer matmul einsum argmax argmin all any"""
    assert set(functions.split()) <= set(tricycle_autograd.__all__)
    methods = """sum mean var std max min prod cumsum argmax argmin all any trace clip astype
        transpose reshape ravel flatten squeeze swapaxes repeat take diagonal T item tolist"""
    assert set(methods.split()) <= set(dir(Tensor))


def test_importing_prints_nothing_and_imports_no_compiler():
    code = "import sys, tricycle_autograd; print(sorted({'numba', 'cupy'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("[]\n", "")


def test_tensor_and_its_methods_import_no_operations():
    rooms = Path(tricycle_autograd.__file__).parent
    for room in ("tape", "tensor", "methods", "modes", "devices"):
        imported = set(
            re.findall(r"(?m)^from tricycle_autograd\.(\w+)", (rooms / f"{room}.py").read_text())
        )
        allowed = {"tape", "methods", "modes", "devices", "arrays", "additions"}  # of arrays
        assert imported <= allowed, room
        assert "import tricycle_autograd" not in (rooms / f"{room}.py").read_text(), room
