"""Kernels are compiled by a process of their own, and loaded by everybody else."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tricycle_autograd import compiling
from tricycle_autograd.compiling import CompilingService, describe, numba_type, request_for
from tricycle_autograd.cpu import cpu_kernel, prange

pytestmark = pytest.mark.slow  # it starts many processes

KERNEL = """
import numpy as np
from tricycle_autograd.cpu import cpu_kernel, prange

@cpu_kernel
def double(x):
    for i in prange(len(x)):
        x[i] *= 2

@cpu_kernel
def count(x, n):
    for _ in range(n):
        x[0] += 1.5
"""


@pytest.fixture(autouse=True)
def my_kernels(tmp_path):
    (tmp_path / "my_kernels.py").write_text(KERNEL)


def run(tmp_path, program):
    environment = {**os.environ, "TRICYCLE_CACHE": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    # The sources are found by path here; where they are installed this adds nothing.
    environment["PYTHONPATH"] += os.pathsep + os.pathsep.join(sys.path)
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )


def test_the_compiling_process_stores_what_others_load(tmp_path):
    program = """
import numpy as np
from my_kernels import double
x = np.ones(3, np.float32)
double(x)
loaded, compiled = double.dispatcher.stats.cache_hits, double.dispatcher.stats.cache_misses
print(x.tolist(), sum(loaded.values()), sum(compiled.values()))
"""
    first, second = run(tmp_path, program), run(tmp_path, program)
    assert first.stdout == second.stdout == "[2.0, 2.0, 2.0] 1 0\n"
    assert first.stderr.count("compiling kernels for this machine") == 1
    assert second.stderr == ""
    assert len(list(tmp_path.rglob("double-*.stored"))) == 1


def test_a_program_may_end_while_kernels_are_compiled_ahead(tmp_path):
    program = """
import numpy as np
from my_kernels import double
from tricycle_autograd import compiling
float_array = ["array", "float32", 2, "C", True]
compiling.expect([compiling.request_for("my_kernels", "double", [float_array])])
double(np.ones(3, np.float32))
"""
    told = run(tmp_path, program).stderr
    assert "compiling kernels for this machine" in told
    assert "Traceback" not in told


def test_a_kernel_that_cannot_be_imported_is_compiled_where_it_is():
    @cpu_kernel
    def triple(x):
        for i in prange(len(x)):
            x[i] *= 3

    x = np.ones(3, np.float32)
    triple(x)
    assert x.tolist() == [3, 3, 3]


def test_a_kernel_that_does_not_compile_says_why(tmp_path):
    program = """
import numpy as np
from my_kernels import double
from numba.core.errors import TypingError
try:
    double(np.array(["a"]))
except TypingError:
    print("refused")
"""
    assert run(tmp_path, program).stdout == "refused\n"


def test_what_is_not_there_is_not_compiled():
    compile = compiling.service.compile
    assert not compile(request_for("no_such_module", "kernel", []))
    assert not compile(request_for("__main__", "kernel", []))
    assert not compile(request_for("tricycle_autograd.cpu", "function.<locals>.kernel", []))


@pytest.fixture
def service():
    service = CompilingService()
    yield service
    service.end()


def test_a_compiler_that_was_killed_is_started_again(service):
    missing = request_for("no_such_module", "kernel", [])
    assert not service.compile(missing)
    service.on_demand.process.kill()
    service.on_demand.process.wait()
    assert not service.compile(missing)
    assert service.on_demand.process.poll() is None


def test_a_compiling_process_that_has_ended_leaves_the_list_of_processes(service):
    service.compile(request_for("no_such_module", "kernel", []))
    ended = service.on_demand.process.pid
    os.kill(ended, signal.SIGKILL)
    for _ in range(500):  # 5 seconds at most
        try:
            os.kill(ended, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    pytest.fail(f"process {ended} has ended, and its parent has not asked how")


def test_a_file_in_the_current_folder_is_not_taken_for_a_module_of_pythons(tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('the json.py in the current folder')")
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "kernel.py").write_text(KERNEL)
    program = tmp_path / "program" / "program.py"
    program.write_text(
        "import numpy, kernel; x = numpy.ones(2, 'f'); kernel.double(x); print(x.tolist())"
    )
    environment = {**os.environ, "TRICYCLE_CACHE": str(tmp_path / "cache")}
    ran = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "[2.0, 2.0]\n"
    assert "json.py" not in ran.stderr
    assert list((tmp_path / "cache").rglob("double-*.stored"))


def test_a_question_in_the_middle_of_another_is_answered_by_another_process(service):
    missing = request_for("no_such_module", "kernel", [])
    assert not service.compile(missing)
    with service.on_demand._answering:  # as if a signal's handler asked while one waits
        assert not service.on_demand.ask(missing)
    assert service._claim(missing) is None
    assert not service.compile(missing)  # by the thread that has claimed it, and cannot wait


def test_what_is_expected_is_compiled_from_the_end_and_everything_once(tmp_path):
    (tmp_path / "my_kernels.py").write_text(
        KERNEL + "".join(KERNEL[KERNEL.index("@") :].replace("double", f"f{i}") for i in range(4))
    )
    program = """
import threading
import numpy as np
import my_kernels
from tricycle_autograd import compiling
from tricycle_autograd.compiling import service

names = ["f0", "f1", "f2", "f3"]
compiling.allowed_cores = lambda: (2, "a test")
compiling.expect(
    [compiling.request_for("my_kernels", f, [["array", "float32", 1, "C", True]]) for f in names]
)
asked = []
for who, compiler in (("asked", service.on_demand), ("ahead", service.ahead)):
    ask = compiler.ask
    compiler.ask = lambda request, who=who, ask=ask: (asked.append((who, request)), ask(request))[1]
for f in names:
    x = np.ones(3, np.float32)
    getattr(my_kernels, f)(x)
    assert x.tolist() == [2, 2, 2]
requests = [request for _, request in asked]
assert len(requests) == len(set(requests)) == 4, requests
ahead = [request for who, request in asked if who == "ahead"]
assert '"f3"' in ahead[0]
assert '"f0"' in next(request for who, request in asked if who == "asked")
print("as it should be")
"""
    assert run(tmp_path, program).stdout == "as it should be\n"
    assert len(list(tmp_path.rglob("f*.stored"))) == 4


@pytest.mark.parametrize(
    "argument",
    [
        np.zeros((2, 3), np.float32),
        np.zeros((2, 3), np.float32).T,
        np.zeros((4, 6), np.float64)[::2, ::2],
        np.broadcast_to(np.float32(1), (3,)),
        np.zeros(3, np.int64),
        np.zeros(3, bool),
        np.float32(1),
        1,
        2.5,
        True,
    ],
    ids=str,
)
def test_types_survive_being_put_into_words(argument):
    import numba

    found = numba.typeof(argument)
    assert numba_type(describe(found)) == found


def test_a_path_that_is_no_string_among_the_places_of_modules_does_no_harm(tmp_path):
    ran = run(
        tmp_path,
        """
import pathlib, sys
sys.path.append(pathlib.Path("/there"))
import numpy as np
from my_kernels import double
x = np.ones(2, np.float32)
double(x)
print(x.tolist())
""",
    )
    assert ran.stdout == "[2.0, 2.0]\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_ends_and_leaves_the_compiling_process_to_its_parent(tmp_path):
    ran = run(
        tmp_path,
        """
import os, sys
import numpy as np
from my_kernels import double
from tricycle_autograd.compiling import service
double(np.ones(2, np.float32))
child = os.fork()
if child == 0:
    sys.exit(7)
for _ in range(1000):
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        break
    __import__("time").sleep(0.01)
else:
    os.kill(child, 9)
print(os.waitstatus_to_exitcode(status) if ended else "hangs", service.on_demand.process.poll())
""",
    )
    assert ran.stdout == "7 None\n"


INTERRUPTED = """
import os, signal, sys, threading, time
import numpy as np
from my_kernels import count, double

x = np.ones(3, np.float32)
{before}
threading.Timer({seconds}, os.kill, [os.getpid(), signal.SIGINT]).start()
try:
    {during}
    time.sleep(30)
    print("not heard")
except KeyboardInterrupt:
    print("heard")
double(x)
print(x[1:].tolist())
"""


@pytest.mark.parametrize(
    ("before", "during", "seconds"),
    [
        ("count(x, 1)", "count(x, 300_000_000)", 0.1),
        ("", "double(x)", 0.2),
        ("", "double(x)", 2.5),
    ],
    ids=["a long kernel", "numba's import", "a compilation"],
)
def test_ctrl_c_is_a_keyboardinterrupt_after_which_everything_works(
    tmp_path, before, during, seconds
):
    program = INTERRUPTED.format(before=before, during=during, seconds=seconds)
    ended = run(tmp_path, program)
    heard, values = ended.stdout.splitlines()
    assert heard == "heard"
    assert values in ("[2.0, 2.0]", "[4.0, 4.0]")  # once, or twice: compiled before it came
    assert "Error" not in ended.stderr


def test_who_waits_for_a_kernel_does_not_wait_for_a_folder_that_was_given_up():
    service, waited = CompilingService(), []
    service._claim("a kernel")
    other = threading.Thread(target=lambda: waited.append(service._claim("a kernel")))
    other.start()
    other.join()
    service.start_again()
    assert waited[0].finished.wait(10)
    assert service._claim("a kernel") is None  # and may have it compiled
