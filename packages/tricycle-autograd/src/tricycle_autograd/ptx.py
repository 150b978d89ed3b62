"""Reads PTX, NVIDIA's assembly language, which NVRTC makes of CUDA C++ without a GPU.

    program = Program(text)
    program["forward"]        a kernel: its parameters, registers, shared memory and instructions

An instruction remembers the line of the .cu file that it was made from.  ptx_machine.py runs
kernels; that is how they are tested on machines without a GPU.

PTX is documented in NVIDIA's "Parallel Thread Execution ISA".
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

# What the letters after an instruction's name say of its operands.
TYPES = {
    **{f"u{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    **{f"s{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"b{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "pred": np.dtype(bool),
}
SHARED_ALIGNMENT = 128  # bytes: where the memory begins whose size a launch gives


class Fault(Exception):
    """What a kernel must not do, and the line of the .cu file where it does it."""


@dataclass
class Instruction:
    """One step of a thread.

    op        "ld.global.u32" at its dots: ["ld", "global", "u32"]
    operands  as they are written, the result first
    guard     "%p1" or "!%p1": only threads for which it holds take the step; or None
    where     the line of the .cu file
    text      all of it
    """

    op: list[str]
    operands: list[str]
    guard: str | None
    where: str
    text: str


@dataclass
class Kernel:
    """One kernel of a program.

    parameters    name and size in bytes of each
    registers     their types, by name (without the number at its end)
    shared        where arrays in shared memory begin; shared_bytes are there without a launch's
    most_threads  in a block
    labels        where to jump to
    """

    name: str
    parameters: list[tuple[str, int]] = field(default_factory=list)
    registers: dict[str, np.dtype] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    shared_bytes: int = 0
    most_threads: int = 1024
    labels: dict[str, int] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)

    def type_of(self, register: str) -> np.dtype:
        """The type of "%r12": that of all "%r"s."""
        if register in self.registers:
            return self.registers[register]
        return self.registers[re.sub(r"\d+$", "", register)]

    def add_shared(self, name: str, alignment: int, size: int) -> None:
        """Find a place in shared memory for one more array."""
        start = math.ceil(self.shared_bytes / alignment) * alignment
        self.shared[name] = start
        self.shared_bytes = start + size


class Program:
    """The kernels in a PTX text, by name."""

    def __init__(self, ptx: str):
        self.kernels: dict[str, Kernel] = {}
        files = re.findall(r'(?m)^\s*\.file\s+(\d+) "([^"]*)"', ptx)
        self._files = {number: name.rsplit("/", 1)[-1] for number, name in files}
        self._where = "?"
        sized_by_launch: list[str] = []
        used_by_several: list[str] = []
        kernel = None
        for line in statements(ptx):
            if line.startswith(".extern .shared"):
                sized_by_launch.append(_matched(r".*?([\w$]+)\[", line)[0])
            elif ".entry" in line:
                name = _matched(r".*\.entry ([\w$]+)", line)[0]
                kernel = self.kernels[name] = Kernel(name)
                for shared in used_by_several:
                    self._read(kernel, shared)
            elif kernel is None and line.startswith(".shared"):
                used_by_several.append(line)  # an array in a helper of several kernels
            elif kernel is not None:
                self._read(kernel, line)
        for kernel in self.kernels.values():
            kernel.add_shared("", SHARED_ALIGNMENT, 0)
            kernel.shared.update(dict.fromkeys(sized_by_launch, kernel.shared_bytes))

    def __getitem__(self, name: str) -> Kernel:
        if name not in self.kernels:
            there = ", ".join(self.kernels)
            raise KeyError(f'no kernel {name}, only {there}; is it extern "C" and __global__?')
        return self.kernels[name]

    def _read(self, kernel, line):
        """Add to a kernel what one statement says of it."""
        if re.match(r"\.loc\s", line):
            self._where = self._place(line)
        elif line.startswith(".param"):
            kernel.parameters.append(_parameter(line))
        elif line.startswith(".reg"):
            kind, names = _matched(r"\.reg\s+\.(\w+)\s+(.*)", line)
            for name in names.split(","):
                kernel.registers[re.sub(r"<\d+>", "", name.strip())] = TYPES[kind]
        elif line.startswith(".shared"):
            pattern = r"\.shared\s+\.align (\d+)\s+\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?"
            alignment, kind, name, count = _matched(pattern, line)
            kernel.add_shared(name, int(alignment), int(count or 1) * TYPES[kind].itemsize)
        elif line.startswith(".maxntid"):
            kernel.most_threads = math.prod(int(n) for n in re.findall(r"\d+", line))
        elif line.startswith(".local"):
            raise Fault(
                f"{kernel.name}: an array in local memory, which is slow; index arrays by numbers "
                "that the compiler knows, under #pragma unroll"
            )
        elif match := re.match(r"([\w$]+):$", line):
            kernel.labels[match[1]] = len(kernel.instructions)
        elif line and line[0] not in ".{}()":
            kernel.instructions.append(_instruction(line, self._where))

    def _place(self, line):
        """The line of the .cu file; for one inside a helper, also that where it is called."""
        file, number = re.findall(r"\d+", line.split(",")[0])[:2]
        place = f"{self._files.get(file, '?')}:{number}"
        if match := re.search(r"inlined_at (\d+) (\d+)", line):
            place += f" (called from {self._files.get(match[1], '?')}:{match[2]})"
        return place


def statements(ptx: str) -> Iterator[str]:
    """One at a time, without comments and without the braces of scopes."""
    for line in re.sub(r"//.*", "", ptx).splitlines():
        is_note = line.lstrip().startswith((".loc", ".file"))
        for part in [line] if is_note else line.split(";"):
            if part := part.strip().lstrip("{} \t").rstrip(","):
                yield part


def _parameter(line):
    pattern = (
        r"\.param\s+(?:\.align \d+\s+)?\.(\w+)\s+(?:\.ptr\s+[.\w\s]*?)?([\w$]+)(?:\[(\d+)\])?$"
    )
    kind, name, count = _matched(pattern, line)
    return name, TYPES[kind].itemsize * int(count or 1)


def _instruction(text, where):
    guard, rest = _matched(r"(?:@(!?%\w+)\s+)?(.*)", text)
    name, *operands = re.split(r"\s+", rest, maxsplit=1)
    parts = re.split(r",(?![^{\[]*[}\]])", operands[0]) if operands else []
    return Instruction(name.split("."), [part.strip() for part in parts], guard, where, text)


def _matched(pattern, line):
    match = re.match(pattern, line)
    assert match, f"cannot read this line of PTX: {line}"
    return match.groups()
