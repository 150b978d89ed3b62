"""What each PTX instruction does, for many threads at once: a numpy operation.

A function here is given the machine (ptx_machine.py), the instruction, and the numbers of the
threads that take it; it reads registers with `machine.get` and writes them with `machine.put`.
An instruction that is not here is a Fault: those that our kernels use are, and no others.
"""

from collections.abc import Callable

import numpy as np

from tricycle_autograd.ptx import TYPES
from tricycle_autograd.ptx_memory import SHARED_WINDOW, WARP

U16, U32, U64, F32 = TYPES["u16"], TYPES["u32"], TYPES["u64"], TYPES["f32"]

# Those that a warp takes together; they are refused where lanes are missing.
WHOLE_WARP = {"shfl", "mma", "ldmatrix", "vote", "bar"}


class Operations(dict):
    """By name; one that is missing is a Fault."""

    def __missing__(self, name):
        return lambda machine, now, threads: machine.fault(
            f"the emulated GPU does not know {'.'.join(now.op)}; teach it in ptx_instructions.py",
            threads[0],
        )


OPERATIONS = Operations()


def operation(*names: str) -> Callable[[Callable], Callable]:
    """Mark a function as what instructions of these names do."""

    def keep(function):
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return keep


def _type(now):
    return TYPES[now.op[-1]]


def _parts(operand):
    """The registers in "{%r1, %r2}"."""
    return [part.strip() for part in operand.strip("{}").split(",")]


# ---- One number at a time ----


def _divide(x, y):
    if x.dtype.kind == "f":
        return x / y
    return np.where(y == 0, -1, np.trunc(x / np.where(y == 0, 1, y))).astype(x.dtype)


def _fused_multiply_add(a, b, c):
    # float32 factors have 24 digits, so that their product is exact in float64.
    return a.astype(np.float64) * b + c


ELEMENTWISE: dict[str, Callable] = {
    "abs": np.abs,
    "add": np.add,
    "and": np.bitwise_and,
    "copysign": lambda x, y: np.copysign(y, x),
    "cos": np.cos,
    "div": _divide,
    "ex2": np.exp2,
    "fma": _fused_multiply_add,
    "lg2": np.log2,
    "max": np.fmax,
    "min": np.fmin,
    "neg": np.negative,
    "not": np.invert,
    "or": np.bitwise_or,
    "rcp": lambda x: 1 / x,
    "rem": np.fmod,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sin": np.sin,
    "sqrt": np.sqrt,
    "sub": np.subtract,
    "tanh": np.tanh,
    "xor": np.bitwise_xor,
}


@operation(*ELEMENTWISE)
def elementwise(machine, now, threads):
    dtype = _type(now)
    values = [machine.get(operand, dtype, threads) for operand in now.operands[1:]]
    result = ELEMENTWISE[now.op[0]](*values)
    if "sat" in now.op:
        result = np.clip(result, 0, 1)
    machine.put(now.operands[0], np.asarray(result).astype(dtype, copy=False), threads)


@operation("mul", "mad")
def multiply(machine, now, threads):
    dtype = _type(now)
    a, b = [machine.get(operand, dtype, threads) for operand in now.operands[1:3]]
    if "wide" in now.op or "hi" in now.op:
        double = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
        value = a.astype(double) * b.astype(double)
        if "hi" in now.op:
            value = (value >> np.array(8 * dtype.itemsize, double)).astype(dtype)
    else:
        value = a * b
    if now.op[0] == "mad":
        value = value + machine.get(now.operands[3], value.dtype, threads)
    machine.put(now.operands[0], value, threads)


@operation("shl", "shr")
def shift(machine, now, threads):
    dtype = _type(now)
    x = machine.get(now.operands[1], dtype, threads)
    by = machine.get(now.operands[2], U32, threads)
    move = np.left_shift if now.op[0] == "shl" else np.right_shift
    width = 8 * dtype.itemsize
    # numpy knows no shift by the whole width: twice by half of it.
    out = move(move(x, width // 2), width // 2)
    moved = np.where(by >= width, out, move(x, np.where(by >= width, 0, by).astype(dtype)))
    machine.put(now.operands[0], moved.astype(dtype, copy=False), threads)


@operation("mov")
def move(machine, now, threads):
    """mov: a value to a register; to several in braces, which share its bits, or from them."""
    target, source = now.operands
    dtype = _type(now)
    if target[0] == "{":
        names = _parts(target)
        value = np.array(np.broadcast_to(machine.get(source, dtype, threads), len(threads)))
        parts = value.view(f"u{dtype.itemsize // len(names)}").reshape(len(threads), -1)
        for i, name in enumerate(names):
            machine.put(name, parts[:, i], threads)
    elif source[0] == "{":
        names = _parts(source)
        small = np.dtype(f"u{dtype.itemsize // len(names)}")
        value = np.empty((len(threads), len(names)), small)
        for i, name in enumerate(names):
            value[:, i] = machine.get(name, small, threads)
        machine.put(target, value.view(f"u{dtype.itemsize}")[:, 0], threads)
    else:
        machine.put(target, machine.get(source, dtype, threads), threads)


COMPARISONS = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}


def _compare(how, a, b):
    """Comparisons with NaN are false; of those that end in u, true."""
    if a.dtype.kind != "f":
        return COMPARISONS[how](a, b)
    no_number = np.isnan(a) | np.isnan(b)
    if how in ("num", "nan"):
        return no_number if how == "nan" else ~no_number
    if len(how) == 3:
        return COMPARISONS[how[:2]](a, b) | no_number
    return COMPARISONS[how](a, b) & ~no_number


@operation("setp")
def set_predicate(machine, now, threads):
    a, b = [machine.get(operand, _type(now), threads) for operand in now.operands[1:3]]
    result = _compare(now.op[1], a, b)
    if len(now.operands) > 3:
        join = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[now.op[2]]
        result = join(result, machine.predicate(now.operands[3], threads))
    machine.put(now.operands[0].split("|")[0], np.broadcast_to(result, len(threads)), threads)


@operation("selp")
def select(machine, now, threads):
    a, b = [machine.get(operand, _type(now), threads) for operand in now.operands[1:3]]
    chosen = np.where(machine.predicate(now.operands[3], threads), a, b)
    machine.put(now.operands[0], chosen, threads)


ROUNDINGS = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@operation("cvt")
def convert(machine, now, threads):
    """cvt: a number of one type as one of another, rounded as the instruction says."""
    to, source = now.op[-2:]
    target = now.operands[0]
    if to in ("bf16", "bf16x2"):
        halves = [_bits_of_bf16(machine.get(o, F32, threads)) for o in now.operands[1:]]
        value = halves[0]
        if to == "bf16x2":
            value = (halves[0].astype(np.uint32) << np.uint32(16)) | halves[1]
        machine.put(target, value, threads)
        return
    if source == "bf16":
        bits = machine.get(now.operands[1], U16, threads).astype(np.uint32)
        value = (bits << np.uint32(16)).view(np.float32)
    else:
        value = machine.get(now.operands[1], TYPES[source], threads)
    dtype = TYPES[to]
    if value.dtype.kind == "f" and now.op[1] in ROUNDINGS:
        value = ROUNDINGS[now.op[1]](value.astype(np.float64))
    if value.dtype.kind == "f" and dtype.kind != "f":
        limits = np.iinfo(dtype)
        value = np.clip(np.nan_to_num(value, nan=0), limits.min, limits.max)
    if "sat" in now.op and dtype.kind == "f":  # expf asks for it
        value = np.clip(np.where(np.isnan(value), 0, value), 0, 1)
    machine.put(target, value.astype(dtype), threads)


def _bits_of_bf16(x):
    """float32 -> the bits of the nearest bf16, ties to even."""
    bits = np.asarray(x).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FFF), rounded).astype(np.uint16)


@operation("cvta")
def convert_address(machine, now, threads):
    """Between addresses of one kind of memory, and those that can be of any."""
    value = machine.get(now.operands[1], U64, threads)
    window = np.uint64(SHARED_WINDOW if "shared" in now.op else 0)
    machine.put(now.operands[0], value - window if "to" in now.op else value + window, threads)


# ---- Bits ----


@operation("bfe")
def extract_bits(machine, now, threads):
    x, start, length = [machine.get(operand, U32, threads) for operand in now.operands[1:]]
    mask = (np.uint32(1) << length) - np.uint32(1)
    machine.put(now.operands[0], (x >> start) & mask, threads)


@operation("bfi")
def insert_bits(machine, now, threads):
    dtype = _type(now)
    a, b = [machine.get(operand, dtype, threads) for operand in now.operands[1:3]]
    start, length = [machine.get(o, U32, threads).astype(dtype) for o in now.operands[3:]]
    one = np.array(1, dtype)
    mask = ((one << length) - one) << start
    machine.put(now.operands[0], (b & ~mask) | ((a << start) & mask), threads)


@operation("shf")
def funnel_shift(machine, now, threads):
    low, high, by = [machine.get(o, U32, threads).astype(np.uint64) for o in now.operands[1:]]
    by = by & np.uint64(31) if "wrap" in now.op else np.minimum(by, np.uint64(32))
    both = (high << np.uint64(32)) | low
    value = (both << by) >> np.uint64(32) if "l" in now.op else both >> by
    machine.put(now.operands[0], value.astype(np.uint32), threads)


@operation("prmt")
def permute_bytes(machine, now, threads):
    values = [machine.get(operand, U32, threads) for operand in now.operands[1:]]
    a, b, how = [np.broadcast_to(value, len(threads)) for value in values]
    pool = np.stack([a, b], axis=1).view(np.uint8)
    picked = (how[:, None] >> np.arange(0, 16, 4, dtype=np.uint32)) & np.uint32(7)
    result = np.take_along_axis(pool, picked.astype(int), 1)
    machine.put(now.operands[0], np.ascontiguousarray(result).view(np.uint32)[:, 0], threads)


@operation("lop3")
def logic_of_three(machine, now, threads):
    """Any function of three bits, as a table of its eight results."""
    a, b, c = [machine.get(operand, U32, threads) for operand in now.operands[1:4]]
    table = int(now.operands[4], 0)
    result = np.zeros(len(threads), np.uint32)
    for i in range(8):
        if table >> i & 1:
            result |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    machine.put(now.operands[0], result, threads)


@operation("popc")
def count_bits(machine, now, threads):
    bits = np.bitwise_count(machine.get(now.operands[1], _type(now), threads))
    machine.put(now.operands[0], bits.astype(np.uint32), threads)


# ---- Memory ----


def _is_shared(now, address):
    if "shared" in now.op or "global" in now.op:
        return "shared" in now.op
    return bool((address >= SHARED_WINDOW).all())


@operation("ld")
def load(machine, now, threads):
    dtype, targets = _type(now), _parts(now.operands[0])
    if "param" in now.op:
        name, _, offset = now.operands[1].strip("[]").partition("+")
        values = np.frombuffer(machine.parameters[name], dtype, len(targets), int(offset or 0))
        for target, value in zip(targets, values, strict=True):
            machine.put(target, value, threads)
        return
    address = machine.address(now.operands[1], threads)
    memory = machine.shared if _is_shared(now, address) else machine.memory
    data = memory.load(address, dtype.itemsize * len(targets), threads)
    for i, target in enumerate(targets):
        machine.put(target, data.view(dtype)[:, i], threads)


@operation("st")
def store(machine, now, threads):
    dtype, sources = _type(now), _parts(now.operands[1])
    data = np.empty((len(threads), len(sources)), dtype)
    for i, source in enumerate(sources):
        data[:, i] = machine.get(source, dtype, threads)
    address = machine.address(now.operands[0], threads)
    memory = machine.shared if _is_shared(now, address) else machine.memory
    memory.store(address, data.view(np.uint8), threads)


@operation("cp")
def copy_later(machine, now, threads):
    """cp.async: to shared memory, while the program goes on."""
    kind = now.op[2]
    if kind == "commit_group":
        machine.groups[threads] += 1
    elif kind == "wait_group":
        _wait(machine, threads, int(now.operands[0], 0))
    elif kind == "wait_all":
        machine.groups[threads] += 1
        _wait(machine, threads, 0)
    else:
        _send(machine, now, threads)


def _send(machine, now, threads):
    size = int(now.operands[2], 0)
    target, source = [machine.address(operand, threads) for operand in now.operands[:2]]
    # The fourth says how many bytes there are; the others are zeros.
    count = machine.get(now.operands[3] if len(now.operands) > 3 else str(size), U32, threads)
    count = np.broadcast_to(count, len(threads))
    if (count % size).any():
        machine.fault("an asynchronous copy of a part", threads[int(np.argmax(count % size))])
    data = np.zeros((len(threads), size), np.uint8)
    full = np.flatnonzero(count)
    if len(full):
        data[full] = machine.memory.load(source[full], size, threads[full], "copies")
    place = machine.shared.expect(target, size, threads)
    machine.copies.append((threads, machine.groups[threads], place, data))


def _wait(machine, waiting, still_going):
    """Threads wait for their copies, but for the last groups of them."""
    ready = np.zeros(machine.n, bool)
    ready[waiting] = True
    going = []
    for threads, group, place, data in machine.copies:
        arrives = ready[threads] & (group < machine.groups[threads] - still_going)
        if arrives.any():
            machine.shared.arrive(place[arrives], data[arrives], threads[arrives])
        if not arrives.all():
            going.append((threads[~arrives], group[~arrives], place[~arrives], data[~arrives]))
    machine.copies = going


# ---- Warps ----


@operation("bar", "barrier")
def meet_in_warp(machine, now, threads):
    """bar.warp.sync; barriers of blocks are the machine's."""
    machine.team.time[threads] += 1


@operation("shfl")
def shuffle(machine, now, threads):
    """A value from another lane."""
    value = machine.get(now.operands[1], U32, threads).reshape(-1, WARP)
    by = machine.get(now.operands[2], U32, threads).astype(np.int64)
    by = np.broadcast_to(by, len(threads)).reshape(-1, WARP)
    clamp = int(np.ravel(machine.get(now.operands[3], U32, threads))[0])
    width = WARP - (clamp >> 8)
    lane = np.arange(WARP)
    sources = {
        "bfly": lane ^ by,
        "down": lane + by,
        "up": lane - by,
        "idx": (lane & ~(width - 1)) | (by & (width - 1)),
    }
    source = sources[now.op[2]]
    inside = (source & ~(width - 1)) == (lane & ~(width - 1))
    source = np.where(inside, source, lane)
    target, *valid = now.operands[0].split("|")
    machine.put(target, np.take_along_axis(value, source, 1).ravel(), threads)
    if valid:
        machine.put(valid[0], inside.ravel(), threads)


@operation("vote")
def vote(machine, now, threads):
    value = np.broadcast_to(machine.predicate(now.operands[1], threads), len(threads))
    value = value.reshape(-1, WARP)
    if "ballot" in now.op:
        bits = value.astype(np.uint32) << np.arange(WARP, dtype=np.uint32)
        result = bits.sum(axis=1, dtype=np.uint32)
    else:
        result = value.all(axis=1) if "all" in now.op else value.any(axis=1)
    machine.put(now.operands[0], np.repeat(result, WARP), threads)


# Where the numbers of each lane lie in the tiles of mma.m16n8k16, flat: lanes, then registers, then
# the two halves of a register.  A lane is in group lane / 4, and has place lane % 4 in it.
_lane = np.arange(WARP)[:, None, None]
_group, _place = _lane // 4, _lane % 4
_half = np.arange(2)
_r = np.arange(4)[:, None]
LEFT = ((_group + 8 * (_r % 2)) * 16 + 2 * _place + 8 * (_r // 2) + _half).ravel()  # (16, 16)
RIGHT = ((2 * _place + 8 * _r[:2] + _half) * 8 + _group).ravel()  # (16, 8)
RESULT = ((_group + 8 * _r[:2]) * 8 + 2 * _place + _half).ravel()  # (16, 8), a float a register


@operation("mma")
def multiply_tiles(machine, now, threads):
    """Tensor cores: (16, 16) times (16, 8), the three tiles spread over a warp's lanes."""
    if "m16n8k16" not in now.op or now.op.count("bf16") != 2:
        machine.fault("of mma, only m16n8k16 of bf16 is known here", threads[0])

    def read(names, dtype):
        values = [
            np.broadcast_to(machine.get(name, dtype, threads), len(threads)) for name in names
        ]
        return np.stack(values, axis=1)

    d, a, b, c = [_parts(operand) for operand in now.operands]
    warps = len(threads) // WARP
    left, right, sums = [np.empty((warps, size), np.float32) for size in (256, 128, 128)]
    left[:, LEFT] = _two_bf16(read(a, U32))
    right[:, RIGHT] = _two_bf16(read(b, U32))
    sums[:, RESULT] = read(c, F32).reshape(warps, -1)
    sums += (left.reshape(-1, 16, 16) @ right.reshape(-1, 16, 8)).reshape(warps, -1)
    result = sums[:, RESULT].reshape(-1, 4)
    for i, name in enumerate(d):
        machine.put(name, result[:, i].copy(), threads)


def _two_bf16(registers):
    """The numbers in uint32 (threads, registers): float32 (warps, 32 · registers · 2)."""
    low, high = registers << np.uint32(16), registers & np.uint32(0xFFFF0000)
    numbers = np.stack([low, high], axis=-1).view(np.float32)
    return numbers.reshape(-1, WARP * registers.shape[1] * 2)


@operation("ldmatrix")
def load_matrices(machine, now, threads):
    """Matrices of 8 x 8 from shared memory; lane l says where row l % 8 of matrix l / 8 begins."""
    targets = _parts(now.operands[0])
    n = len(targets)
    address = machine.address(now.operands[1], threads)
    asked = threads % WARP < 8 * n  # where other lanes point does not matter
    rows = machine.shared.load(address[asked], 16, threads[asked], lanes=8)
    matrices = rows.view(np.uint16).reshape(-1, n, 8, 8)
    if "trans" in now.op:
        matrices = matrices.swapaxes(2, 3)
    lanes = np.ascontiguousarray(matrices).view(np.uint32).reshape(-1, n, WARP)
    for i, target in enumerate(targets):
        machine.put(target, lanes[:, i].ravel(), threads)


@operation("pragma", "prefetch", "discard")
def do_nothing(machine, now, threads):
    """Advice to the hardware."""


@operation("trap")
def give_up(machine, now, threads):
    machine.fault("the kernel gives up (trap)", threads[0])
