"""A process of its own that compiles kernels, so that everybody else only loads them.

A process that compiles a kernel with numba and goes on to use it runs other machine code than
one that loads the same kernel from the disk: in the first, parts that were compiled on the way
are called where they lie; in the second, all comes from one file, optimised once more as a whole.
Both are right, but they may round differently in the last bit.  Then a run that was interrupted
and resumed would not end at the same bits as one that was not.

So a process that needs a kernel which is not on the disk asks another process, started for
the purpose, to compile and store it, and then loads it, as every later process will.

    needs a kernel                                  serve()
    {"module": …, "name": …, "types": …}   ──►      imports it, compiles it, stores it
    loads it                               ◄──      "stored"

The compiling process ends when its standard input does, or when it was not needed for a while.
"""

import atexit
import importlib
import json
import os
import subprocess
import sys
import threading
from typing import Any

IDLE_SECONDS = 30.0  # it holds 200 MB: not worth keeping for what may come

_compiler: subprocess.Popen | None = None


# ---- the process that needs a kernel ----


def compile_elsewhere(module: str, name: str, types: list[Any] | None) -> bool:
    """Have a kernel compiled and stored by the compiling process.

    module, name  where to find it: "tricycle_nn.rms_norm", "CPU.forward"
    types         its arguments, as `describe` puts them; None for one with a signature

    Returns False if that cannot be done: the kernel cannot be imported by its name (it was made
    in a notebook or inside a function), or it does not compile; then compiling it here shows why.
    """
    if module == "__main__" or "<" in name:
        return False
    request = json.dumps({"module": module, "name": name, "types": types}) + "\n"
    for _ in range(2):  # a compiler that was idle may just have ended
        compiler = _running_compiler()
        assert compiler.stdin is not None
        assert compiler.stdout is not None
        try:
            compiler.stdin.write(request)
            compiler.stdin.flush()
            answer = compiler.stdout.readline()
        except BrokenPipeError:
            answer = ""
        except BaseException:  # Ctrl-C: its answer would be taken for that to the next request
            compiler.kill()
            raise
        if answer:
            return answer == "stored\n"
        compiler.kill()
    return False


def _running_compiler():
    global _compiler
    if _compiler is None or _compiler.poll() is not None:
        _compiler = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # Ctrl-C in the terminal is not meant for it
        )
    return _compiler


@atexit.register
def _end_compiler():
    if _compiler is not None:
        _compiler.kill()
        _compiler.communicate()  # closes the pipes and waits


def describe(numba_type: Any) -> list[Any]:
    """The numba type of a kernel's argument, an array or a number, in words that JSON has."""
    if hasattr(numba_type, "layout"):
        element, ndim, layout = str(numba_type.dtype), numba_type.ndim, numba_type.layout
        return ["array", element, ndim, layout, numba_type.mutable]
    return ["number", str(numba_type)]


# ---- the process that compiles ----


def numba_type(description: list[Any]):
    """The numba type that `describe` put into words."""
    from numba import types

    kind, element, *rest = description
    if kind == "number":
        return getattr(types, element)
    ndim, layout, mutable = rest
    return types.Array(getattr(types, element), ndim, layout, readonly=not mutable)


def serve() -> None:
    """Compile what standard input asks for, a line each, until it ends."""
    from tricycle_autograd import cpu

    cpu.compile_here()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever an import prints is no answer
    while True:
        idle = threading.Timer(IDLE_SECONDS, os._exit, [0])
        idle.daemon = True
        idle.start()
        line = sys.stdin.readline()
        idle.cancel()
        if not line:
            return
        answers.write(_answer(**json.loads(line)))
        answers.flush()


def _answer(module, name, types):
    from numba.core.errors import NumbaError

    try:
        kernel = importlib.import_module(module)
        for part in name.split("."):
            kernel = getattr(kernel, part)
        kernel.store(None if types is None else tuple(numba_type(t) for t in types))
    except (ImportError, AttributeError, NumbaError) as error:
        print(f"{module}.{name} was not compiled: {error}", file=sys.stderr)
        return "failed\n"
    return "stored\n"
