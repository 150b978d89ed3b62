"""A Python function and the machine code that numba makes of it, at its first call.

    Compiled       a kernel, or a helper that numba copies into the kernels that call it
    Routine        a long helper, compiled once and called at its address
    MadeByNumba    stands for something only numba can make

numba itself, most of a second to import, is imported when the first kernel is called; then the
kernel's own name and the names it mentions are looked up, and it is compiled: by another process
(compiling.py), which stores the machine code in the cache folder (kernel_cache.py), from where it
is loaded.
"""

import errno
import hashlib
import os
import types
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from tricycle_autograd import compiling, first_use, threads
from tricycle_autograd.compiling import describe
from tricycle_autograd.kernel_cache import cache_folder, cache_root, has_room, process
from tricycle_autograd.kernel_store import KernelStore, read_kernel
from tricycle_autograd.linking import link_before_lowering

# In plain Python a prange is a range; the compiler is shown numba's.
prange = range

# No "fastmath": the compiler may neither reorder sums nor contract a·b + c, for it would do so in
# another way on each kind of processor, and the bits of a run would differ; and it must not assume
# that infinities and NaNs never occur, for attention masks with -inf and errors must stay visible.
# Nor what C would call a kernel by: nobody does, and it is compiled with each.
FLAGS = {"error_model": "numpy", "nogil": True, "no_cfunc_wrapper": True}

# NUMBA_DISABLE_JIT=1: kernels run as the Python that they are written in.  Very slow, but one can
# step through them with a debugger, and find out whether a bug is the compiler's.
WITHOUT_NUMBA = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


@lru_cache
def prepare_process() -> None:
    """Settle threads, memory and how numba links, once, before the first kernel is made."""
    from tricycle_autograd.memory import keep_freed_memory

    with threads.ctrl_c_waits():  # numba is imported
        threads.prepare()
        keep_freed_memory()
        link_before_lowering()


class Compiled:
    """A Python function and, from its first use on, the machine code made from it."""

    def __init__(self, function: Callable, signature: str | None = None, **options):
        self.function = function
        self.signature = signature
        self.options = options
        self.plain = function
        self._dispatcher = None
        self._files: set[str] | None = None
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__

    def __call__(self, *args):
        if WITHOUT_NUMBA:
            with np.errstate(over="ignore"):  # machine integers wrap around
                return self.plain(*args)
        process.check_not_forked()
        with process.lock:
            run = self._dispatcher or self.dispatcher
            return run(*args)

    def without_numba(self, function: Callable) -> Callable:
        """Attach what runs instead where NUMBA_DISABLE_JIT is set: for what Python cannot do."""
        self.plain = function
        return function

    @property
    def dispatcher(self):
        """numba's dispatcher for this function, made at first use."""
        if self._dispatcher is None:
            process.used = True
            prepare_process()
            self._dispatcher = self._make_dispatcher()
        return self._dispatcher

    def _make_dispatcher(self):
        import numba

        if not Path(self.function.__code__.co_filename).is_file():
            raise RuntimeError(
                f"the kernel {self.__name__} is not in a file: its machine code is kept by the "
                "file's text; write it to a module and import it from there"
            )
        dispatcher = numba.njit(self._function_for_numba(), **FLAGS, **self.options)
        dispatcher._cache = self._store()
        # numba's compile() only loads what is stored already; it is called for every new
        # combination of argument types.
        load = dispatcher.compile
        if self.signature is not None:
            self._have_stored(None)
            load(self.signature)
            dispatcher.disable_compile()
            self._try_once(dispatcher, None)
        else:

            def store_and_load(types):
                self._have_stored(types)
                loaded = load(types)
                self._try_once(dispatcher, types)
                return loaded

            dispatcher.compile = store_and_load
        return dispatcher

    def store(self, types) -> None:
        """In a compiling process: compile for these numba types, if there is no signature, and
        store the machine code, unless it is stored already."""
        file = self._file(types)
        if read_kernel(file) is not None:
            return
        if self.signature is None:
            self.dispatcher.compile(types)
        else:
            self.dispatcher  # noqa: B018  (made at first use, and compiled as it is made)
        if read_kernel(file) is None:
            raise OSError(errno.ENOSPC, "what was compiled could not be kept", str(file))

    def _have_stored(self, types):
        """See to it that the machine code for arguments of these types is on the disk."""
        if process.compiles:
            return
        described = None if types is None else [describe(t) for t in types]
        request = compiling.request_for(self.__module__, self.function.__qualname__, described)
        compiling.service.asked_for.append(request)
        if read_kernel(self._file(types), process.say_trouble) is not None:
            return
        process.announce_compilation()
        if compiling.service.compile(request) or has_room(cache_root()):
            return
        if process.keep_elsewhere(f"{cache_root()} has no room"):
            compiling.service.start_again()
            compiling.service.compile(request)

    def _try_once(self, dispatcher, types):
        """See to it that what was loaded has been found right on this machine: first_use.py."""
        if process.compiles:
            return
        try:
            first_use.try_once(self, dispatcher, types, self._file(types).with_suffix(".right"))
        except RuntimeError:
            self._dispatcher = None  # made again at the next call, tried again, and refused again
            raise

    def _file(self, types):
        """The file of the machine code for arguments of these types: kernel_store.py.

        What the sources say counts (cache_folder), not where they lie or how old they are: a second
        environment with the same release finds what the first one compiled.
        """
        parts = self.__module__, self.function.__qualname__, types, first_use.processor()
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
        return cache_folder(self.files(), self.constants()) / f"{self.__name__}-{digest}.stored"

    def _function_for_numba(self):
        """The function, with numba's own objects in place of those that stand for them."""
        import numba

        mentioned = self._mentioned()
        namespace = dict(self.function.__globals__)
        for name, value in mentioned.items():
            namespace[name] = numba.prange if value is prange else value.dispatcher
        function = types.FunctionType(
            self.function.__code__, namespace, self.function.__name__, self.function.__defaults__
        )
        function.__qualname__ = self.function.__qualname__
        function.__module__ = self.function.__module__
        return function

    def _store(self):
        """Where numba finds this function's machine code, and leaves it."""
        with_signature = self.signature is not None
        return KernelStore(
            lambda types: self._file(None if with_signature else types), process.say_trouble
        )

    def _mentioned(self):
        """The helpers (and prange) that the function's body mentions by name."""
        return {
            name: value
            for name, value in self._globals().items()
            if value is prange or isinstance(value, (Compiled, MadeByNumba))
        }

    def _globals(self):
        """What the names in the function's body mean outside it."""
        names: set[str] = set()
        codes = [self.function.__code__]
        while codes:
            code = codes.pop()
            names.update(code.co_names)
            codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
        everything = self.function.__globals__
        return {name: everything[name] for name in names if name in everything}

    def files(self) -> set[str]:
        """The source files whose text this kernel's machine code depends on."""
        if self._files is None:
            self._files = {self.function.__code__.co_filename}
            for value in self._mentioned().values():
                if value is not prange:
                    self._files |= value.files()
        return self._files

    def constants(self) -> set[str]:
        """The names from outside its body that this kernel's machine code holds: the numbers and
        arrays they stand for, and the modules that numba will look for when it loads the code."""
        found = {
            f"{name} = {value!r}"
            for name, value in self._globals().items()
            if isinstance(value, (int, float, str, tuple, np.generic))
        }
        found |= {
            f"{name} = {value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
            for name, value in self._globals().items()
            if isinstance(value, np.ndarray)
        }
        found.add(f"module {self.__module__}")
        for value in self._mentioned().values():
            if isinstance(value, Compiled):
                found |= value.constants()
        return found


class Routine(Compiled):
    """A function compiled to one copy of machine code, which kernels call through its name.

    numba copies an ordinary helper into every kernel that calls it, and compiles it again there.
    A routine is compiled by itself, once, for C's calling convention, and its address is
    registered under a symbol, as if it came from a C library: its callers stay small.
    """

    def _make_dispatcher(self):
        import numba
        from llvmlite import binding
        from numba.core.ccallback import CFunc
        from numba.core.sigutils import normalize_signature

        arguments, result = normalize_signature(self.signature)
        self._compiled = CFunc(
            self._function_for_numba(), (arguments, result), locals={}, options=FLAGS
        )
        self._compiled._cache = self._store()  # type: ignore[attr-defined]
        self._have_stored(None)
        self._compiled.compile()  # loads it, if it is stored
        # The whole process shares these names.
        symbol = f"{self.__module__}.{self.function.__qualname__}"
        binding.add_symbol(symbol, self._compiled.address)
        return numba.types.ExternalFunction(symbol, result(*arguments))


class MadeByNumba:
    """Stands for an object that numba makes, an intrinsic say, until a kernel needs it."""

    def __init__(self, make: Callable, file: str):
        self.make = make
        self.file = file
        self.plain: Callable | None = None
        self._made = None

    def __call__(self, *args):
        assert WITHOUT_NUMBA and self.plain is not None, "only kernels can call this"
        return self.plain(*args)

    def without_numba(self, function: Callable) -> Callable:
        """Attach what runs instead where NUMBA_DISABLE_JIT is set."""
        self.plain = function
        return function

    @property
    def dispatcher(self):
        """The object itself, made at first use."""
        if self._made is None:
            self._made = self.make()
        return self._made

    def files(self) -> set[str]:
        """The source file whose text this object depends on."""
        return {self.file}
