"""A kernel that computes nonsense on this machine is an error at its first call, never a NaN."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tricycle_autograd import gemm, gemm_one_row
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.first_use import agree, as_types, cases_for, in_python, trials_of, try_once

pytestmark = pytest.mark.slow  # it starts many processes

PACKAGE = {
    "__init__.py": "",
    "kernels.py": """
import numpy as np
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange

@cpu_function
def twice(x):
    return x * 2

@cpu_kernel
def right(y, x):
    for i in prange(len(x)):
        y[i] = twice(x[i])

@cpu_kernel
def wrong(y, x):  # as if the compiler had made a mistake: what it should do stands below
    for i in prange(len(x)):
        y[i] = 0

@wrong.without_numba
def wrong_in_python(y, x):
    y[...] = x * 2

@cpu_kernel(signature="void(float32[:], float32[:])")
def wrong_with_a_signature(y, x):
    for i in prange(len(x)):
        y[i] = np.nan

@wrong_with_a_signature.without_numba
def wrong_with_a_signature_in_python(y, x):
    y[...] = x * 2
""",
    "kernel_trials.py": """
import numpy as np

def arrays(rng):
    print("tried", flush=True)
    return np.zeros(5, np.float32), rng.standard_normal(5).astype(np.float32)

TRIALS = {
    "kernels.right": arrays,
    "kernels.wrong": arrays,
    "kernels.wrong_with_a_signature": arrays,
}
""",
}
CALL = """
import sys
import numpy as np
from my_package import kernels

kernel = getattr(kernels, sys.argv[1])
for _ in range(2):
    y = np.zeros(3, np.float32)
    try:
        kernel(y, np.ones(3, np.float32))
        print(y.tolist())
    except RuntimeError as error:
        print(error)
"""


@pytest.fixture
def call(tmp_path):
    """Call a kernel of my_package twice in a new process; the lines it prints."""
    (tmp_path / "my_package").mkdir()
    for name, text in PACKAGE.items():
        (tmp_path / "my_package" / name).write_text(text)

    def run(kernel: str, program: str = CALL) -> list[str]:
        environment = {**os.environ, "TRICYCLE_CACHE": str(tmp_path / "cache")}
        environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
        command = [sys.executable, "-c", program, kernel]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def marks(folder: Path) -> list[str]:
    return [mark.name.split("-")[0] for mark in folder.rglob("*.right")]


@pytest.mark.parametrize("kernel", ["wrong", "wrong_with_a_signature"])
def test_a_kernel_that_computes_nonsense_is_refused_at_every_call(call, tmp_path, kernel):
    tried, first, tried_again, second = call(kernel)
    assert tried == tried_again == "tried"
    assert first == second
    assert f"the kernel my_package.kernels.{kernel} computes wrong numbers on this mach" in first
    assert "set TRICYCLE_CACHE to an empty folder" in first
    assert "NUMBA_CPU_NAME=generic" in first
    assert "show_config" in first
    assert marks(tmp_path / "cache") == []


def test_a_kernel_that_is_right_is_tried_once_on_a_machine(call, tmp_path):
    assert call("right") == ["tried", "[2.0, 2.0, 2.0]", "[2.0, 2.0, 2.0]"]
    assert call("right") == ["[2.0, 2.0, 2.0]", "[2.0, 2.0, 2.0]"]
    assert marks(tmp_path / "cache") == ["right"]


def test_a_cache_that_cannot_be_written_to_is_no_obstacle(call, tmp_path):
    full = (
        "import pathlib\ndef touch(self): raise OSError('read-only')\npathlib.Path.touch = touch\n"
    )
    assert call("right", full + CALL) == ["tried", "[2.0, 2.0, 2.0]", "[2.0, 2.0, 2.0]"]
    assert call("right", full + CALL)[0] == "tried"
    assert marks(tmp_path / "cache") == []


def test_for_another_processor_it_is_tried_again(call, tmp_path):
    call("right")
    other = "import os\nos.environ['NUMBA_CPU_NAME'] = 'generic'\n"
    assert call("right", other + CALL)[0] == "tried"
    assert marks(tmp_path / "cache") == ["right", "right"]


# ---- our own kernels ----


@pytest.mark.parametrize(
    "kernel", [gemm.multiply_in_pieces, gemm_one_row.sum_rows, gemm_one_row.sum_columns]
)
def test_the_products_are_right_here(kernel, tmp_path):
    assert cases_for(kernel) is not None
    try_once(kernel, kernel.dispatcher, None, tmp_path / "mark")
    assert (tmp_path / "mark").exists()


def test_every_tile_that_computes_something_else_is_found(tmp_path):
    def off_by_a_row(out, a, b, *settings):
        gemm.multiply_in_pieces.dispatcher(out, a, b, *settings)
        if out.shape[0] == 3:
            out[2, 0] += 1

    with pytest.raises(RuntimeError, match=r"gemm\.multiply_in_pieces computes wrong numbers"):
        try_once(gemm.multiply_in_pieces, off_by_a_row, None, tmp_path / "mark")


def test_a_room_of_another_name_is_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "with_trials_of_its_own"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "trials.py").write_text("raise SystemExit('an experiment was started')")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module(package.name)
    assert trials_of(package.name) == {}


def test_trials_are_looked_for_in_packages_only():
    assert "gemm.multiply_in_pieces" in trials_of("tricycle_autograd")
    assert trials_of("json") == {}
    assert trials_of("no_such_package") == {}


# ---- the Python of a kernel, and its arguments ----


@cpu_function
def thrice(x):
    return 3 * x


@cpu_kernel
def thrice_all(y, x):
    for i in prange(len(x)):
        y[i] = thrice(x[i])


def test_the_python_of_a_kernel_calls_the_python_of_its_helpers():
    y = [0, 0]
    in_python(thrice_all)(y, [1, "a"])  # no machine code takes lists
    assert y == [3, "aaa"]


def test_arguments_are_made_of_the_types_that_a_kernel_was_loaded_for():
    from numba import typeof, types

    wanted = (
        types.Array(types.float32, 2, "F", readonly=True),
        types.Array(types.float64, 2, "A"),
        types.float32,
        types.int64,
        types.boolean,
    )
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    made = as_types([x, x, 2, 3, True], wanted)
    assert tuple(typeof(value) for value in made) == wanted
    assert made[0].tolist() == made[1].tolist() == x.tolist()
    assert made[2:] == [2, 3, True]


def test_arguments_of_other_dimensions_are_not_tried():
    from numba import types

    assert as_types([np.zeros(3)], (types.Array(types.float64, 2, "C"),)) is None
    assert as_types([np.zeros(3), 1], (types.Array(types.float64, 1, "C"),)) is None
    assert as_types([1.0], (types.unicode_type,)) is None


def test_near_is_near_enough_and_garbage_is_not():
    x = np.array([1.0, -2.0, np.inf, np.nan])
    assert agree([x, 3], [x * (1 + 1e-5), 3])
    assert not agree([x], [np.array([1.0, -2.1, np.inf, np.nan])])
    assert not agree([np.array([np.nan, 1])], [np.array([1.0, 1])])
    assert not agree([np.array([1.0, 1])], [np.array([np.inf, 1])])
    assert not agree([np.array([1, 2])], [np.array([1, 3])])
