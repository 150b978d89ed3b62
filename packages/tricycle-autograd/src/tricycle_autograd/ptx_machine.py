"""A GPU made of numpy: runs a CUDA kernel on any machine, and watches every step of it.

NVRTC makes PTX of a .cu file, and needs no GPU for it (nvrtc.py).  Here that text is executed: one
numpy array is one register of all threads of all blocks, and one instruction is a numpy operation
on those threads that are at it.  No C compiler is involved, and what is tested is what users run,
inline assembly included.

    launch(program["forward"], (blocks,), (threads,), [y, x, np.int32(N)])

Arrays are the GPU's memory, and are written in place.  What a GPU would do silently stops here as a
`Fault` that names the line of the .cu file: everything about memory (ptx_memory.py); a barrier that
not all threads of a block reach; a step of a whole warp (mma, shfl, ldmatrix) that not all its
lanes reach; an argument of another size than the kernel's parameter.

Threads that part (an `if`, loops of different lengths) run smallest place first, so they meet again
where their paths do.

What it cannot see: speed; how tensor cores round inside a product (numpy's order is used); the
last digits of ex2, rsqrt and tanh, which are computed exactly here; the order in which blocks see
each other's writes without a new launch, which no kernel of ours depends on.
"""

import math
from typing import Any

import numpy as np

from tricycle_autograd.ptx import Fault, Instruction, Kernel
from tricycle_autograd.ptx_instructions import OPERATIONS, WHOLE_WARP
from tricycle_autograd.ptx_memory import BLOCK_TIME, WARP, Global, Report, Shared, Team

NEVER = np.iinfo(np.int64).max
UNSIGNED = {n: np.dtype(f"uint{8 * n}") for n in (1, 2, 4, 8)}
SIGNED = {n: np.dtype(f"int{8 * n}") for n in (1, 2, 4, 8)}


def launch(
    kernel: Kernel, grid: tuple, block: tuple, arguments: list, shared: int = 0, count: bool = False
) -> Report:
    """Run a kernel to its end.

    grid, block  how many blocks, and threads in each: up to three numbers
    arguments    arrays, which are written in place, and numpy's numbers
    shared       bytes of shared memory, besides what the kernel declares
    count        whether to count instructions and bytes, which takes time

    Returns what was counted.  Raises Fault for what a kernel must not do.
    """
    return Machine(kernel, grid, block, arguments, shared, count).run()


class Machine:
    """One launch.

    registers    by name: a number for each thread
    at           the instruction at which each thread is
    done, at_barrier, at_warp   whether it has ended, or waits for its block or its warp
    groups       how many groups of asynchronous copies each thread has closed
    copies       those on their way: (threads, their groups, places, bytes)
    """

    def __init__(self, kernel, grid, block, arguments, shared, count):
        self.kernel: Kernel = kernel
        grid, block = [(*size, 1, 1)[:3] for size in (grid, block)]
        self.now: Instruction | None = None
        self.team = Team(math.prod(grid), math.prod(block), self.fault)
        self.n = self.team.n
        self._check_block()
        self.special = _special_registers(self.team, grid, block)
        self.parameters = _parameters(kernel, arguments)
        self.report = Report()
        counted = self.report if count else None
        self.memory = Global(arguments, self.team, counted)
        self.shared = Shared(kernel.shared_bytes + shared, self.team, counted)
        self.counts = count
        self.registers: dict[str, np.ndarray] = {}
        self.at = np.zeros(self.n, np.int64)
        self.done = np.zeros(self.n, bool)
        self.at_barrier = np.zeros(self.n, bool)
        self.at_warp = np.zeros(self.n, bool)
        self.groups = np.zeros(self.n, np.int64)
        self.copies: list[tuple] = []

    def _check_block(self):
        size, most = self.team.block_size, self.kernel.most_threads
        if size % WARP or not 0 < size <= most:
            raise Fault(
                f"{self.kernel.name}: {size} threads in a block; it takes whole warps of {WARP}, "
                f"and at most {most} threads"
            )

    def fault(self, what: str, thread: int) -> None:
        """Stop at what a thread must not do."""
        assert self.now is not None
        place = self.team.name(int(thread))
        raise Fault(f"{self.kernel.name}, {self.now.where}: {what} ({place}; {self.now.text})")

    # ---- Which threads run ----

    def run(self) -> Report:
        with np.errstate(all="ignore"):
            while not self.done.all():
                self._some()
        if self.copies:
            raise Fault(f"{self.kernel.name} ends with asynchronous copies that nobody waited for")
        return self.report

    def _some(self):
        """Run the threads that are at the smallest place, until they part or meet others."""
        ready = ~(self.done | self.at_barrier | self.at_warp)
        if not ready.any():
            if not self._gather_warps():
                self._stuck()
            return
        at = np.where(ready, self.at, NEVER)
        here = int(at.min())
        others = at[at > here]
        self._run(here, np.flatnonzero(at == here), int(others.min()) if len(others) else NEVER)

    def _stuck(self):
        thread = int(np.argmax(~self.done))
        self.now = self.kernel.instructions[self.at[thread] - bool(self.at_barrier[thread])]
        self.fault("threads wait for others that never come", thread)

    def _run(self, at, active, limit):
        """Run threads that are all at `at`, as far as `limit`, where others are."""
        while at < limit:
            now = self.now = self.kernel.instructions[at]
            name, threads = now.op[0], self._guarded(now, active)
            self._count(name, threads)
            if name == "bra":
                target = self.kernel.labels[now.operands[0]]
                if 0 < len(threads) < len(active):
                    self.at[active] = at + 1
                    self.at[threads] = target
                    return
                at = target if len(threads) else at + 1
                continue
            if name in ("ret", "exit"):
                self.at[active] = at + 1
                self._leave(threads)
                return
            if name in ("bar", "barrier") and now.op[1] != "warp":
                self.at[active] = at + 1
                self._wait_for_block(threads)
                return
            if name in WHOLE_WARP and not self._whole_warps(threads):
                # Those whose warp is all here wait with the others, and go on at once.
                self.at[active] = at
                self.at_warp[threads] = True
                self._gather_warps()
                return
            if len(threads):
                OPERATIONS[name](self, now, threads)
            at += 1
        self.at[active] = at

    def _guarded(self, now, active):
        if now.guard is None:
            return active
        holds = self.registers[now.guard.lstrip("!")][active]
        return active[~holds if now.guard[0] == "!" else holds]

    def _count(self, name, threads):
        if self.counts and len(threads):
            self.report.instructions[name] += len(np.unique(threads // WARP))

    def _leave(self, threads):
        self.done[threads] = True
        for block in np.unique(self.team.block[threads]):
            if self._of_blocks(self.at_barrier)[block].any():
                self.fault("a thread ends while others of its block wait at a barrier", threads[0])

    def _wait_for_block(self, threads):
        """Threads reach a barrier; blocks go on of which all have."""
        self.at_barrier[threads] = True
        waiting = self._of_blocks(self.at_barrier)
        for block in np.unique(self.team.block[threads]):
            if self._of_blocks(self.done)[block].any():
                self.fault("a barrier after other threads of the block have ended", threads[0])
        full = waiting.all(axis=1)
        waiting[full] = False
        time = self._of_blocks(self.team.time)
        time[full] = (time[full] // BLOCK_TIME + 1) * BLOCK_TIME

    def _of_blocks(self, array):
        return array.reshape(self.team.blocks, -1)

    def _whole_warps(self, threads):
        if len(threads) in (0, self.n):
            return True
        count = np.bincount(threads // WARP, minlength=self.n // WARP)
        return bool((count[threads // WARP] == WARP).all())

    def _gather_warps(self):
        """Let go of the warps whose lanes have all arrived at one instruction."""
        waiting = self.at_warp.reshape(-1, WARP)
        at = self.at.reshape(-1, WARP)
        full = waiting.all(axis=1) & (at == at[:, :1]).all(axis=1)
        waiting[full] = False
        return bool(full.any())

    # ---- Registers ----

    def register(self, name: str) -> np.ndarray:
        if name not in self.registers:
            dtype = self.kernel.type_of(name)
            kind = dtype if dtype.kind == "b" else UNSIGNED[dtype.itemsize]
            self.registers[name] = np.zeros(self.n, kind)
        return self.registers[name]

    def get(self, operand: str, dtype: np.dtype, threads: np.ndarray) -> np.ndarray:
        """An operand's value for these threads, or one value for all."""
        if operand[0] != "%":
            return self.constant(operand, dtype)
        if operand in self.special:
            value = self.special[operand]
            return (value if value.ndim == 0 else value[threads]).astype(dtype)
        value = self.register(operand)
        value = value if len(threads) == self.n else value[threads]
        if value.dtype.itemsize != dtype.itemsize:
            value = value.astype(UNSIGNED[dtype.itemsize])
        return value.view(dtype)

    def predicate(self, operand: str, threads: np.ndarray) -> np.ndarray:
        """Whether "%p1" holds for these threads; or, for "!%p1", whether it does not."""
        return self.get(operand.lstrip("!"), np.dtype(bool), threads) ^ (operand[0] == "!")

    def constant(self, operand: str, dtype: np.dtype) -> np.ndarray:
        if operand[:2] in ("0f", "0F"):  # the bits of a float
            return np.array(int(operand[2:], 16), np.uint32).view(np.float32).astype(dtype)
        if operand[:2] in ("0d", "0D"):
            return np.array(int(operand[2:], 16), np.uint64).view(np.float64).astype(dtype)
        if operand in self.kernel.shared:
            return np.array(self.kernel.shared[operand], dtype)
        number = int(operand, 0)
        if dtype.kind in "fb":
            return np.array(number, dtype)
        bits = number & (2 ** (8 * dtype.itemsize) - 1)
        return np.array(bits, UNSIGNED[dtype.itemsize]).view(dtype)

    def put(self, operand: str, value: Any, threads: np.ndarray) -> None:
        """Write a value for these threads to a register."""
        if operand == "_":
            return
        register, value = self.register(operand), np.asarray(value)
        if register.dtype.kind != "b" and value.dtype.itemsize != register.dtype.itemsize:
            size = register.dtype.itemsize
            value = value.astype((SIGNED if value.dtype.kind == "i" else UNSIGNED)[size])
        place = register if register.dtype == value.dtype else register.view(value.dtype)
        place[slice(None) if len(threads) == self.n else threads] = value

    def address(self, operand: str, threads: np.ndarray) -> np.ndarray:
        """The addresses "[%rd1+8]" of these threads."""
        base, offset = _base_and_offset(operand)
        if base in self.kernel.shared:
            start: Any = np.full(len(threads), self.kernel.shared[base])
        elif base[0] == "%":
            width = self.register(base).dtype.itemsize
            start = self.get(base, UNSIGNED[width], threads).astype(np.uint64).view(np.int64)
        else:
            start = np.full(len(threads), int(base))
        return (start + np.int64(offset)).view(np.uint64)


def _base_and_offset(operand):
    """ "[%rd1+8]" -> ("%rd1", 8)"""
    base, _, offset = operand.strip("[]").replace("+-", "-").replace("-", "+-").partition("+")
    return base.strip(), int(offset or 0)


def _special_registers(team, grid, block):
    """What a thread knows of itself: its lane, its place in the block, its block in the grid."""
    threads = np.arange(team.n)
    found = {"%laneid": threads % WARP}
    index = {"tid": (threads % team.block_size, block), "ctaid": (team.block, grid)}
    for name, (number, size) in index.items():
        for axis, letter in enumerate("xyz"):
            found[f"%{name}.{letter}"] = number // math.prod(size[:axis]) % size[axis]
    for name, size in (("ntid", block), ("nctaid", grid)):
        for axis, letter in enumerate("xyz"):
            found[f"%{name}.{letter}"] = np.array(size[axis])
    return {name: value.astype(np.uint32) for name, value in found.items()}


def _parameters(kernel, arguments):
    """The bytes of each argument, by the name of its parameter."""
    if len(arguments) != len(kernel.parameters):
        wanted = len(kernel.parameters)
        raise Fault(f"{kernel.name} takes {wanted} arguments, got {len(arguments)}")
    found = {}
    for i, ((name, size), value) in enumerate(zip(kernel.parameters, arguments, strict=True)):
        number = np.uint64(value.ctypes.data) if isinstance(value, np.ndarray) else value
        if not isinstance(number, np.generic) or number.nbytes != size:
            kind = "an array" if isinstance(value, np.ndarray) else f"{value!r}"
            raise Fault(
                f"{kernel.name}: argument {i} should be a numpy number of {size} bytes, got {kind}"
            )
        found[name] = number.tobytes()
    return found
