import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tricycle_autograd import kernel_cache, show_config
from tricycle_autograd.cpu import cpu_function, cpu_kernel, cpu_routine, prange

pytestmark = pytest.mark.slow  # it starts many processes


@cpu_function
def square(x):
    return x * x


@cpu_kernel
def add_squares(out, x):
    """out (N,) = the sum of the squares of each row of x (N, C)."""
    for i in prange(x.shape[0]):
        total = x.dtype.type(0)
        for j in range(x.shape[1]):
            total += square(x[i, j])
        out[i] = total


@cpu_routine("float32(float32, int64)")
def power(x, n):
    product = x
    for _ in range(n - 1):
        product *= x
    return product


@cpu_kernel
def add_powers(out, x, n):
    """out (N,) += x (N,) to the power of n."""
    for i in prange(x.size):
        out[i] += power(x[i], n)


def squares_of(x):
    out = np.empty(len(x), x.dtype)
    add_squares(out, x)
    return out


# ---- By hand ----


def test_a_kernel_runs_and_calls_its_helper():
    x = np.array([[1, 2], [3, 4]], np.float32)
    assert squares_of(x).tolist() == [5, 25]


def test_a_kernel_calls_a_routine():
    out = np.ones(3, np.float32)
    add_powers(out, np.array([1, 2, 3], np.float32), 3)
    assert out.tolist() == [2, 9, 28]


def test_routines_of_one_name_in_two_modules_are_two(program):
    routine = """
from tricycle_autograd.cpu import cpu_kernel, cpu_routine, prange

@cpu_routine("float64(float64)")
def step(x):
    return x + 1

@cpu_kernel
def run(out):
    for i in prange(out.size):
        out[i] = step(out[i])
"""
    (program.folder / "adds.py").write_text(routine)
    (program.folder / "multiplies.py").write_text(routine.replace("x + 1", "x * 100"))
    said, _ = program.run("""
import numpy as np
import adds, multiplies
for module, dtype in ((adds, float), (multiplies, float), (adds, np.float32)):
    x = np.full(1, 3, dtype)
    module.run(x)
    print(x[0])
""")
    assert said.split() == ["4.0", "300.0", "4.0"]


def test_a_kernel_keeps_its_name_and_its_explanation():
    assert add_squares.__name__ == "add_squares"
    assert add_squares.__doc__.startswith("out (N,) = the sum")


def test_kernels_let_nan_and_infinity_through():
    x = np.array([[np.nan, 1], [np.inf, 1], [-np.inf, 1]], np.float32)
    np.testing.assert_array_equal(squares_of(x), [np.nan, np.inf, np.inf])


# ---- Threads and processes ----


PROGRAM = """
import sys
import numpy as np
import kernel

x = np.random.default_rng(0).standard_normal((37, 1001)).astype(np.float32)
print(kernel.run(np.ones(4, np.float32)).tolist(), kernel.column_sums(x).tobytes().hex())
"""
KERNEL = """
import numpy as np
from constants import OFFSET
from helper import scale
from tricycle_autograd.cpu import cpu_kernel, prange

@cpu_kernel
def scale_all(out, x):
    for i in prange(x.shape[0]):
        out[i] = scale(x[i]) + OFFSET

@cpu_kernel
def add_chunks(partial, x):
    for chunk in prange(partial.shape[0]):
        for i in range(chunk, x.shape[0], partial.shape[0]):
            for j in range(x.shape[1]):
                partial[chunk, j] += x[i, j]

def run(x):
    out = np.empty_like(x)
    scale_all(out, x)
    return out

def column_sums(x):
    partial = np.zeros((8, x.shape[1]), np.float32)
    add_chunks(partial, x)
    return partial.sum(axis=0)
"""
HELPER = """
from tricycle_autograd.cpu import cpu_function

@cpu_function
def scale(x):
    return x * 2
"""


class Program:
    """A kernel with its helper and a constant in files of their own, run in new processes."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "kernel.py").write_text(KERNEL)
        (folder / "helper.py").write_text(HELPER)
        (folder / "constants.py").write_text("OFFSET = 0.0\n")

    def run(self, program=PROGRAM, **environment):
        """What the program prints: (its output, its messages)."""
        environment = {"TRICYCLE_CACHE": str(self.folder / "cache"), **environment}
        run = subprocess.run(
            [sys.executable, "-c", program],
            cwd=self.folder,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout, run.stderr

    def replace(self, file, before, after):
        path = self.folder / file
        path.write_text(path.read_text().replace(before, after))


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return Program(tmp_path_factory.mktemp("program"))


def test_any_number_of_threads_gives_the_same_bits(program):
    results = {n: program.run(TRICYCLE_NUM_THREADS=str(n))[0] for n in (1, 2, 4)}
    assert results[1] == results[2] == results[4]
    assert results[1].startswith("[2.0, 2.0, 2.0, 2.0] ")


def test_compiling_is_said_once_and_cached(tmp_path):
    program = Program(tmp_path)
    first, message = program.run()
    assert message.startswith("tricycle: compiling kernels for this machine; this happens once")
    assert message.count("\n") == 1
    assert str(tmp_path / "cache") in message
    assert program.run() == (first, "")

    # An edit in a file that the kernel only imports from: numba alone would not notice.
    program.replace("helper.py", "x * 2", "x * 3")
    assert program.run()[0].startswith("[3.0, 3.0, 3.0, 3.0]")
    program.replace("constants.py", "0.0", "10.0")
    assert program.run()[0].startswith("[13.0, 13.0, 13.0, 13.0]")


def test_two_python_threads_may_call_kernels_at_once(program):
    # numba's simplest thread layer, the one that is always there, dies of this without a lock
    threads = (
        "import threading, numpy, kernel\n"
        "x = numpy.ones(100_000, numpy.float32)\n"
        "right = []\n"
        "def work():\n"
        "    right.extend((kernel.run(x) == 2).all() for _ in range(200))\n"
        "threads = [threading.Thread(target=work) for _ in range(2)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "print(len(right), all(right))\n"
    )
    printed, _ = program.run(threads, NUMBA_THREADING_LAYER="workqueue", TRICYCLE_NUM_THREADS="2")
    assert printed == "400 True\n"


def test_a_kernel_may_be_called_in_the_middle_of_another():
    results = []

    def work():
        with kernel_cache.process.lock:  # as it is while a kernel runs, in a handler or a __del__
            results.append(squares_of(np.ones((2, 3), np.float32)).tolist())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout=120)
    assert results == [[3, 3]]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")
def test_a_signal_that_calls_a_kernel_does_not_stop_the_program(program, tmp_path):
    interrupted = (
        "import signal, numpy, kernel\n"
        "from tricycle_autograd import compiling\n"
        "x = numpy.ones(1000, numpy.float32)\n"
        "handled, delays = [], [0.2]\n"
        "signal.signal(signal.SIGALRM, lambda *_: handled.append(kernel.run(x)[0]))\n"
        "start = compiling.start_process\n"
        "def start_and_be_interrupted_soon():\n"
        "    if delays:\n"
        "        signal.setitimer(signal.ITIMER_REAL, delays.pop())\n"
        "    return start()\n"
        "compiling.start_process = start_and_be_interrupted_soon\n"
        "kernel.run(x)\n"
        "assert len(handled) == 1\n"  # while it was being compiled
        "signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)\n"
        "while len(handled) < 200:\n"
        "    assert kernel.run(x)[0] == 2\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "print(set(map(float, handled)))\n"
    )
    assert program.run(interrupted, TRICYCLE_CACHE=str(tmp_path))[0] == "{2.0}\n"


def test_a_spawned_process_runs_kernels(program):
    spawned = (
        "import multiprocessing, numpy, kernel\n"
        "if __name__ == '__main__':\n"
        "    x = numpy.ones(2, numpy.float32)\n"
        "    kernel.run(x)\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.apply(kernel.run, (x,)).tolist())\n"
    )
    assert program.run(spawned)[0] == "[2.0, 2.0]\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_is_told_to_be_spawned(program):
    forked = (
        "import os, numpy, kernel\n"
        "x = numpy.ones(2, numpy.float32)\n"
        "def in_a_fork():\n"
        "    if os.fork() == 0:\n"
        "        try:\n"
        "            print(kernel.run(x).tolist(), flush=True)\n"
        "        except RuntimeError as error:\n"
        "            print(error, flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
        "in_a_fork()\n"
        "kernel.run(x)\n"
        "in_a_fork()\n"
    )
    before, after = program.run(forked)[0].splitlines()
    assert before == "[2.0, 2.0]"  # no kernel had been used before the fork
    assert "forked from one that had used kernels" in after
    assert 'get_context("spawn")' in after


# ---- What is shown ----


def test_the_configuration_is_printed_and_returned(capsys):
    found = show_config()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(found)
    assert found["numpy"] == np.__version__
    for line, (name, value) in zip(printed, found.items(), strict=True):
        assert line.startswith(name)
        assert line.endswith(value)


def test_the_number_of_threads_shown_is_that_in_use(program):
    shown = program.run(
        "import os\n"
        "os.environ['NUMBA_NUM_THREADS'] = '1'\n"
        "import numba\n"
        "os.environ['TRICYCLE_NUM_THREADS'] = '3'\n"
        "from tricycle_autograd import kernel_cache, show_config\n"
        "print(show_config()['threads'])\n"
    )
    assert shown[0].splitlines()[-1] == "1, from numba, which was imported before"


def test_a_kernel_that_is_not_in_a_file_says_so(program):
    said = program.run(
        "from tricycle_autograd.cpu import cpu_kernel\n"
        "@cpu_kernel\n"
        "def nothing():\n"
        "    pass\n"
        "try:\n"
        "    nothing()\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
    )
    assert "the kernel nothing is not in a file" in said[0]
