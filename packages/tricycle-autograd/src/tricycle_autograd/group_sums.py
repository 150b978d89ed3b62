"""Weights of 8 or 4 bits in registers: a group of 32 outputs, one input after the other.

A group's whole numbers lie in the order of their use, for each input those of the 32 outputs side
by side (tricycle_nn's quantised.py).  So nothing has to be added across a register at the end, and
the scales of 32 outputs are vectors like the numbers:

    sums[o]   = Σ x[k] · numbers[k, o]              over the 32 inputs k of a block
    totals[o] = Σ scale[o] · sums[o] + …            over the blocks

The inputs of a block go by in fours, into two sums for each output in turn, for an addition that
waits for the one before takes four cycles.  What is left over goes to the first.  This is one
order on every processor, and gives one set of bits.

This file writes LLVM's own language, as gemm_tile.py and row_sums.py do, and importing it imports
numba: kernels of tricycle_nn have these through quantised.py.  Places are addresses, int64.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

OUTPUTS, BLOCK, STEPS = 32, 32, 4  # outputs in a group, inputs in a block and at once
LANES = 16  # half a group: a register of AVX-512, two of AVX2
FLOAT, INT, INT32, BYTE = ir.FloatType(), ir.IntType(64), ir.IntType(32), ir.IntType(8)
VECTOR, WHOLE = ir.VectorType(FLOAT, LANES), ir.VectorType(INT32, LANES)
ADDRESSES = types.none(*[types.int64] * 7)


def _sum_group(bits):
    """An intrinsic: 32 outputs of one row of inputs, from numbers of so many bits."""

    @intrinsic
    def sum_group(typing, out, x, x_sums, numbers, scales, least, n_inputs):
        def generate(context, builder, signature, arguments):
            out, x, x_sums, numbers, scales, least, n_inputs = arguments
            totals = [cgutils.alloca_once_value(builder, _every_lane(0.0)) for _ in range(2)]
            n_blocks = builder.udiv(builder.add(n_inputs, INT(BLOCK - 1)), INT(BLOCK))
            with cgutils.for_range(builder, n_blocks) as loop:
                first = builder.mul(loop.index, INT(BLOCK))
                left = builder.sub(n_inputs, first)
                count = builder.select(builder.icmp_signed("<", left, INT(BLOCK)), left, INT(BLOCK))
                sums = _sum_block(builder, bits, x, numbers, first, count)
                for half, (total, found) in enumerate(zip(totals, sums, strict=True)):
                    scale = _half_floats(builder, scales, loop.index, half)
                    so_far = _multiply_add(builder, found, scale, builder.load(total))
                    if bits == 4:
                        low = _half_floats(builder, least, loop.index, half)
                        x_sum = _number(builder, x_sums, loop.index)
                        so_far = _multiply_add(builder, x_sum, low, so_far)
                    builder.store(so_far, total)
            for half, total in enumerate(totals):
                _store(builder, builder.load(total), out, INT(half * LANES))
            return context.get_dummy_value()

        return ADDRESSES, generate

    return sum_group


def _unpack_group(bits):
    """An intrinsic: a group's numbers as float32, a row of 32 for each input, `row` bytes apart."""

    @intrinsic
    def unpack_group(typing, out, row, numbers, scales, least, first, end):
        def generate(context, builder, signature, arguments):
            out, row, numbers, scales, least, first, end = arguments
            block = builder.udiv(first, INT(BLOCK))
            factors = [_half_floats(builder, scales, block, half) for half in range(2)]
            added = [_every_lane(0.0)] * 2
            if bits == 4:
                added = [_half_floats(builder, least, block, half) for half in range(2)]
            with cgutils.for_range_slice(builder, first, end, INT(1), inc=True) as (k, _):
                place = builder.add(out, builder.mul(k, row))
                whole = _numbers(builder, bits, numbers, k)
                for half, (number, factor, low) in enumerate(
                    zip(whole, factors, added, strict=True)
                ):
                    weight = _multiply_add(builder, number, factor, low)
                    _store(builder, weight, place, INT(half * LANES))
            return context.get_dummy_value()

        return ADDRESSES, generate

    return unpack_group


sum_group_8, sum_group_4 = _sum_group(8), _sum_group(4)
unpack_group_8, unpack_group_4 = _unpack_group(8), _unpack_group(4)


def _sum_block(builder, bits, x, numbers, first, count):
    """Two vectors: Σ x · numbers of each output over `count` inputs from `first` on."""
    zero = _every_lane(0.0)
    even, odd = ([cgutils.alloca_once_value(builder, zero) for _ in range(2)] for _ in range(2))

    def add(k, sums):
        factor = _number(builder, x, k)
        for number, place in zip(_numbers(builder, bits, numbers, k), sums, strict=True):
            builder.store(_multiply_add(builder, factor, number, builder.load(place)), place)

    fours = builder.add(first, builder.and_(count, INT(-STEPS)))
    with cgutils.for_range_slice(builder, first, fours, INT(STEPS), inc=True) as (k, _):
        for step in range(STEPS):
            add(builder.add(k, INT(step)), odd if step % 2 else even)
    end = builder.add(first, count)
    with cgutils.for_range_slice(builder, fours, end, INT(1), inc=True) as (k, _):
        add(k, even)
    pairs = zip(even, odd, strict=True)
    return [builder.fadd(builder.load(one), builder.load(other)) for one, other in pairs]


def _numbers(builder, bits, numbers, k):
    """The whole numbers of 32 outputs for input k, as two vectors of float32."""
    row = builder.add(numbers, builder.mul(k, INT(OUTPUTS * bits // 8)))
    kind = ir.VectorType(BYTE, LANES)
    if bits == 8:
        halves = (_load(builder, row, INT(half * LANES), kind) for half in range(2))
        whole = [builder.sext(half, WHOLE) for half in halves]
    else:  # a byte has output o in its lower half, and o + 16 in its upper
        pairs = builder.zext(_load(builder, row, INT(0), kind), WHOLE)
        fours = ir.Constant(WHOLE, [4] * LANES)
        whole = [builder.and_(pairs, ir.Constant(WHOLE, [15] * LANES)), builder.lshr(pairs, fours)]
    return [builder.sitofp(vector, VECTOR) for vector in whole]


def _half_floats(builder, places, block, half):
    """Half of a group's float16 numbers for a block, as float32.

    By whole numbers, for not every processor has an instruction: float16 has 5 bits of exponent,
    15 meaning 2⁰, and 10 behind the point; float32 has 8, 127 meaning 2⁰, and 23.  Those with
    exponent 0 count in steps of 2⁻²⁴.
    """
    start = builder.add(builder.mul(block, INT(OUTPUTS)), INT(half * LANES))
    raw = builder.zext(_load(builder, places, start, ir.VectorType(ir.IntType(16), LANES)), WHOLE)

    def bits(mask):
        return builder.and_(raw, ir.Constant(WHOLE, [mask] * LANES))

    def moved(vector, by):
        return builder.shl(vector, ir.Constant(WHOLE, [by] * LANES))

    bias = ir.Constant(WHOLE, [(127 - 15) << 23] * LANES)
    usual = builder.bitcast(builder.add(moved(bits(0x7FFF), 13), bias), VECTOR)
    small = builder.fmul(builder.sitofp(bits(0x03FF), VECTOR), _every_lane(2.0**-24))
    is_small = builder.icmp_signed("==", bits(0x7C00), ir.Constant(WHOLE, [0] * LANES))
    size = builder.bitcast(builder.select(is_small, small, usual), WHOLE)
    return builder.bitcast(builder.or_(size, moved(bits(0x8000), 16)), VECTOR)


def _number(builder, row, i):
    """Number i of a row of float32, in every lane."""
    place = builder.inttoptr(builder.add(row, builder.mul(i, INT(4))), FLOAT.as_pointer())
    kind = ir.Constant(VECTOR, ir.Undefined)
    lone = builder.insert_element(kind, builder.load(place, align=4, typ=FLOAT), INT32(0))
    return builder.shuffle_vector(lone, kind, ir.Constant(WHOLE, [0] * LANES))


def _load(builder, address, i, kind):
    """A vector from element i on."""
    size = 1 if kind.element == BYTE else 2
    place = builder.add(address, builder.mul(i, INT(size)))
    return builder.load(builder.inttoptr(place, kind.as_pointer()), align=size, typ=kind)


def _store(builder, vector, address, i):
    place = builder.add(address, builder.mul(i, INT(4)))
    builder.store(vector, builder.inttoptr(place, VECTOR.as_pointer()), align=4)


def _every_lane(number):
    return ir.Constant(VECTOR, [number] * LANES)


def _multiply_add(builder, x, y, z):
    """x · y + z: one instruction, rounded once, where the processor has it."""
    name = f"llvm.fmuladd.v{LANES}f32"
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(VECTOR, [VECTOR] * 3), name)
    return builder.call(function, [x, y, z])
