"""NVRTC, NVIDIA's compiler as a library: CUDA C++ in, machine code out.  It needs no GPU.

    compile_cuda(path, "sm_90a", {"C": 768})        machine code of a GPU, and what was reported
    compile_cuda(path, "compute_80", {"C": 768})    PTX, the assembly language before it (ptx.py)

Constants are compiled in, as if the source began with `#define C 768`.  Headers that a source names
in quotes lie beside it, or here; they are handed over as text, so there are no search paths, and
none of CUDA's own headers are needed.

`compiled` keeps what was made on disk, under a hash of all that it was made from; `assembled` tells
how many registers each kernel takes on a GPU, which needs no GPU either.
"""

import ctypes
import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from tricycle_autograd.kernel_cache import kept_file, process

HERE = Path(__file__).parent
MISSING = (
    "CUDA kernels are compiled by NVRTC, which was not found; install it with the extra that fits "
    "your driver: tricycle-autograd[cuda12] or tricycle-autograd[cuda13]"
)


class CompilerError(Exception):
    """What NVRTC has against a source, line by line."""


def compiled(path: Path, architecture: str, constants: dict[str, Any]) -> bytes:
    """A .cu file as `compile_cuda` makes it; from the disk, if it was made before."""
    parts = [path.read_text(), sorted(headers_of(path).items()), options(architecture, constants)]
    digest = hashlib.sha256(repr([*parts, version()]).encode()).hexdigest()[:24]

    def make():
        if architecture.startswith("sm"):
            process.announce_compilation()
        return compile_cuda(path, architecture, constants)[0]

    return kept_file(f"cuda/{path.stem}-{architecture}-{digest}", make)


def compile_cuda(
    path: Path, architecture: str, constants: dict[str, Any], *more: str
) -> tuple[bytes, str]:
    """Compile a .cu file.

    architecture  "compute_80" for PTX that names the lines of the source, "sm_80" for machine code
    constants     are defined before the source begins
    more          options of NVRTC's: "-Xptxas", "-v" has it report registers and shared memory

    Returns PTX or machine code, and the report.  Raises CompilerError with the report, and
    ImportError where NVRTC is not installed.
    """
    lib, headers = library(), headers_of(path)
    texts = (ctypes.c_char_p * len(headers))(*[text.encode() for text in headers.values()])
    names = (ctypes.c_char_p * len(headers))(*[name.encode() for name in headers])
    program = ctypes.c_void_p()
    source = path.read_text().encode()
    given = (ctypes.byref(program), source, path.name.encode(), len(headers), texts, names)
    _check(lib.nvrtcCreateProgram(*given))
    try:
        flags = [option.encode() for option in (*options(architecture, constants), *more)]
        array = (ctypes.c_char_p * len(flags))(*flags)
        failed = lib.nvrtcCompileProgram(program, len(flags), array)
        report = _read(program, "ProgramLog").decode().strip("\0\n")
        if failed:
            raise CompilerError(report)
        return _read(program, "CUBIN" if architecture.startswith("sm") else "PTX"), report
    finally:
        lib.nvrtcDestroyProgram(ctypes.byref(program))


class Assembled(NamedTuple):
    """What the assembler says of a kernel's machine code.

    registers  that a thread has
    spilled    bytes for which there were no registers, so that they lie in memory: slow
    shared     bytes of shared memory, without those that a launch adds
    """

    registers: int
    spilled: int
    shared: int


def assembled(path: Path, architecture: str, constants: dict[str, Any]) -> dict[str, Assembled]:
    """Compile a .cu file for a GPU, "sm_90a" say, and tell of each of its kernels."""
    _, report = compile_cuda(path, architecture, constants, "-Xptxas", "-v")
    found = {}
    for name, text in re.findall(r"Function properties for (\w+)\n(.*?Used [^\n]*)", report, re.S):
        frame, stores, loads = map(int, re.findall(r"(\d+) bytes (?:stack|spill)", text))
        shared = re.search(r"(\d+) bytes smem", text)
        registers = re.findall(r"Used (\d+) registers", text)
        size = int(shared[1]) if shared else 0
        found[name] = Assembled(int(registers[0]), frame + stores + loads, size)
    return found


def headers_of(path: Path) -> dict[str, str]:
    """The headers that a source names in quotes, and those that they name: name to text."""
    found: dict[str, str] = {}
    waiting = [path]
    while waiting:
        for name in re.findall(r'(?m)^#include "(\S+)"', waiting.pop().read_text()):
            if name not in found:
                beside = path.parent / name
                waiting.append(beside if beside.is_file() else HERE / name)
                found[name] = waiting[-1].read_text()
    return found


def options(architecture: str, constants: dict[str, Any]) -> list[str]:
    """What NVRTC is told."""
    defines = [f"-D{name}={value}" for name, value in sorted(constants.items())]
    # So that PTX says which line of the source each instruction is from.
    lines = ["-lineinfo"] if architecture.startswith("compute") else []
    return ["-std=c++17", f"-arch={architecture}", *defines, *lines]


def version() -> tuple[int, int]:
    """NVRTC's version.  ImportError where it is not installed."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


@lru_cache
def library() -> ctypes.CDLL:
    """The library, wherever pip, conda or the system has put it.  ImportError without it."""
    try:
        from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib
    except ImportError as error:
        raise ImportError(MISSING) from error
    try:
        place = load_nvidia_dynamic_lib("nvrtc").abs_path
    except DynamicLibNotFoundError as error:
        raise ImportError(MISSING) from error
    assert place is not None
    lib = ctypes.CDLL(place)
    lib.nvrtcGetErrorString.restype = ctypes.c_char_p
    return lib


def is_there() -> bool:
    """Whether NVRTC is installed."""
    try:
        library()
    except ImportError:
        return False
    return True


def _read(program, what):
    """What NVRTC has made: first it says how long it is."""
    size = ctypes.c_size_t()
    _check(getattr(library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    text = ctypes.create_string_buffer(size.value)
    _check(getattr(library(), f"nvrtcGet{what}")(program, text))
    return text.raw if what == "CUBIN" else text.raw.rstrip(b"\0")  # C's strings end in a zero


def _check(result):
    if result:
        raise CompilerError(library().nvrtcGetErrorString(result).decode())
