"""A process of its own that compiles kernels, so that everybody else only loads them.

A process that compiles a kernel with numba and goes on to use it runs other machine code than
one that loads the same kernel from the disk: in the first, parts that were compiled on the way
are called where they lie; in the second, all comes from one file, optimised once more as a whole.
Both should be right (numba makes mistakes there: linking.py), but they may round differently in the
last bit.  Then a run that was interrupted and resumed would not end at the same bits as one that
was not.

So a process that needs a kernel which is not on the disk asks another process, started for
the purpose, to compile and store it, and then loads it, as every later process will.

    needs a kernel                                  serve()
    {"module": …, "name": …, "types": …}   ──►      imports it, compiles it, stores it
    loads it                               ◄──      "stored"

Compiling is slow, a second for a large kernel, and keeps one core busy.  A caller that knows what
will be needed says so with `expect()`.  Then, as soon as a kernel is missing, a second compiling
process works through that list from its end, while the first compiles what is asked for, from the
beginning: they meet in the middle, and each kernel is compiled by one of them.

A compiling process ends when its standard input does, or when it was not needed for a while.
"""

import atexit
import importlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tricycle_autograd import kernel_cache
from tricycle_autograd.threads import allowed_cores

LIMIT = 1800.0  # seconds for one kernel: a large one takes 2, and minutes on an emulated processor
STOPPED_LIMIT = 5.0  # seconds that it may be stopped (SIGSTOP)
IDLE_SECONDS = 30.0  # it holds 200 MB: not worth keeping for what may come

# ---- the process that needs a kernel ----


class Compiler:
    """A compiling process, started when it is first asked."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None
        self._answering = threading.Lock()

    def ask(self, request: str) -> bool:
        """Have a kernel compiled and stored; False if that cannot be done."""
        if not self._answering.acquire(blocking=False):
            # A signal's handler needs a kernel in the middle of another question: the next answer
            # is not for it.
            return ask_another(request)
        try:
            return self._ask(request)
        finally:
            self._answering.release()

    def _ask(self, request):
        for _ in range(2):  # one that was idle may just have ended
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(request + "\n")
                process.stdin.flush()
                answer = process.stdout.readline() if will_answer(process) else ""
            except BrokenPipeError:
                answer = ""
            except BaseException:  # Ctrl-C: its answer would be taken for that to the next request
                process.kill()
                raise
            if answer:
                return answer == "stored\n"
            process.kill()
            process.wait()  # or the next try would be given this one
        return False

    def _running(self):
        if self.process is None or self.process.poll() is not None:
            if self.process is not None:
                self.process.communicate()  # closes the pipes of one that has ended
            self.process = start_process()
        return self.process

    def end(self) -> None:
        """Stop the process, whatever it is doing."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()  # its pipes stay open: the thread that works ahead may read one


def will_answer(process: subprocess.Popen) -> bool:
    """Wait for a process's answer, or its end; False, and say so, if it will not come."""
    if os.name == "nt":  # pipes cannot be waited for with a limit there
        return True
    assert process.stdout is not None
    began = stopped_since = time.monotonic()
    answers = select.poll()  # select.select knows the first 1024 open files only
    answers.register(process.stdout, select.POLLIN)
    while not answers.poll(1000):
        now = time.monotonic()
        if not is_stopped(process.pid):
            stopped_since = now
        if now - stopped_since > STOPPED_LIMIT or now - began > LIMIT:
            kernel_cache.process.say_once(
                f"process {process.pid}, which compiles kernels, was stopped or hangs; another one "
                "takes its place",
                "stopped",
            )
            return False
    return True


def is_stopped(number: int) -> bool:
    """Whether a process was stopped by a signal (Linux)."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return False


def ask_another(request: str) -> bool:
    """Have a kernel compiled and stored by a compiling process of its own."""
    compiler = Compiler()
    try:
        return compiler.ask(request)
    finally:
        compiler.end()


def program(text: str, *arguments: str) -> list[str]:
    """The words that start a Python program by its text, in a process of its own.

    -P: without it the current folder would come first, and a json.py there would be run.
    """
    return [sys.executable, "-P", "-c", text, *arguments]


def finding_our_modules() -> dict[str, str]:
    """The environment of a process that finds modules where this one does."""
    # Python looks at no entry that is not a string (a Path, say).
    path = [folder or os.getcwd() for folder in sys.path if isinstance(folder, str)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def start_process() -> subprocess.Popen:
    """A process that runs `serve`, and finds modules where this one does."""
    process = subprocess.Popen(
        program(f"from {__name__} import serve; serve()"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=finding_our_modules(),
        start_new_session=True,  # Ctrl-C in the terminal is not meant for it
    )
    # The system keeps a process that has ended in its list until its parent has asked how.
    threading.Thread(target=process.wait, daemon=True, name="compiling process").start()
    return process


class Work:
    """A kernel that is being compiled: by which thread, and when it is finished."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.finished = threading.Event()


class CompilingService:
    """The two compiling processes of this one, and what they have to do.

    asked_for   what this process has asked for so far, compiled or not, in order: see
                scripts/list_kernels.py
    on_demand   compiles what is needed now
    ahead       compiles what is expected, from its end
    """

    def __init__(self) -> None:
        self.asked_for: list[str] = []
        self.on_demand, self.ahead = Compiler(), Compiler()
        self._expected: list[str] = []
        self._working_ahead = False
        self._lock = threading.RLock()  # for what follows
        self._under_way: dict[str, Work] = {}
        self._stored: set[str] = set()

    def expect(self, requests: list[str]) -> None:
        """Say which kernels will be needed, in that order, should one of them be missing."""
        known = self._expected
        known.extend(request for request in requests if request not in known)

    def compile(self, request: str) -> bool:
        """Have a kernel compiled and stored by a compiling process.

        Returns False if that cannot be done: the kernel cannot be imported by its name (it is in
        the program itself or inside a function), or it does not compile; then compiling it here
        shows why.
        """
        called = json.loads(request)
        if called["module"] == "__main__" or "<" in called["name"]:
            return False
        self._work_ahead()
        while (other := self._claim(request)) is not None:
            if other.thread == threading.get_ident():
                return ask_another(request)  # a signal's handler needs it too, and cannot wait
            other.finished.wait()
            if request in self._stored:
                return True
        return self._compile(self.on_demand, request)

    def end(self) -> None:
        """Stop both processes."""
        self.on_demand.end()
        self.ahead.end()

    def start_again(self) -> None:
        """Forget what was stored, which is for a folder that is not used any more.

        Threads that wait for a kernel have it compiled anew.
        """
        self.end()
        with self._lock:
            for work in self._under_way.values():
                work.finished.set()
            self._under_way.clear()
            self._stored.clear()
        self._working_ahead = False

    def leave_to_parent(self) -> None:
        """In a forked process: the compiling processes are its parent's, and are not ended here.

        Nor waited for: a thread of the parent does, and holds a lock that stays closed here.
        """
        self.on_demand, self.ahead = Compiler(), Compiler()

    def _work_ahead(self):
        """Start compiling what is expected, from the end, unless there is only one core."""
        if self._working_ahead or not self._expected or allowed_cores()[0] < 2:
            return
        self._working_ahead = True

        def work():
            for request in reversed(self._expected):
                if self._claim(request) is None:
                    self._compile(self.ahead, request)

        threading.Thread(target=work, daemon=True, name="kernels ahead").start()

    def _claim(self, request):
        """None if the kernel is now the caller's to compile; else another's work on it."""
        with self._lock:
            if request in self._under_way:
                return self._under_way[request]
            self._under_way[request] = Work()
            return None

    def _compile(self, compiler, request):
        """Compile what was claimed.  What failed may be tried again."""
        stored = False
        try:
            stored = compiler.ask(request)
        finally:
            with self._lock:
                work = self._under_way.get(request)  # None: started again meanwhile
                if work is not None and stored:
                    self._stored.add(request)
                elif work is not None:
                    del self._under_way[request]
            if work is not None:
                work.finished.set()
        return stored


service = CompilingService()
atexit.register(service.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=service.leave_to_parent)


def expect(requests: list[str]) -> None:
    """Say which kernels this process will need, in that order, should one of them be missing."""
    service.expect(requests)


def request_for(module: str, name: str, types: list[Any] | None) -> str:
    """What a compiling process is asked.

    module, name  where to find the kernel: "tricycle_nn.rms_norm", "CPU.forward"
    types         its arguments, as `describe` puts them; None for one with a signature
    """
    return json.dumps({"module": module, "name": name, "types": types})


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
    kernel_cache.process.compiles = True
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
    except OSError:  # a full disk: the process that asked looks for another place
        return "failed\n"
    except (ImportError, AttributeError, NumbaError) as error:
        print(f"{module}.{name} was not compiled: {error}", file=sys.stderr)
        return "failed\n"
    return "stored\n"
