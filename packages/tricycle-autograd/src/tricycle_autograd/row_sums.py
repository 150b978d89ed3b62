"""Sums along a row, in one order on every processor.

Floating point addition rounds, so the order of a sum decides its last bits.  A compiler that may
choose the order takes the one that suits the processor: 4, 8 or 16 sums side by side, once or
twice or four times.  Then every kind of processor has bits of its own.

So kernels may not reorder sums (machine_code.FLAGS), and the order is fixed here: SUMS = 32 sums
side by side, of which number i takes the elements i, i + 32, i + 64, …, and at the end a tree,

    s[i] + s[i + 16]      then      s[i] + s[i + 8]      …      and at last      s[0] + s[1]

32 float32 are two registers of AVX-512, four of AVX2 and eight of SSE or NEON: enough additions
under way that do not wait for each other.  Where a row ends within 32 elements, zeros are added.

This file writes LLVM's own language, as gemm_tile.py does, and importing it imports numba: kernels
have `row_sum`, `dot` and `sum_of_squares` from cpu_math.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

SUMS = 32
FLOAT, DOUBLE = ir.FloatType(), ir.DoubleType()
INT, INT32, BYTE = ir.IntType(64), ir.IntType(32), ir.IntType(8)


@intrinsic
def row_sum(typing, row):
    """The sum of a row of float32, contiguous."""
    _check(row)
    return types.float32(row), _sum_over(FLOAT, lambda builder, sums, x: builder.fadd(sums, x))


@intrinsic
def dot(typing, a, b):
    """Σ a · b of two contiguous rows of float32 that are equally long."""
    _check(a, b)
    return types.float32(a, b), _sum_over(
        FLOAT, lambda builder, sums, x, y: _multiply_add(builder, x, y, sums)
    )


@intrinsic
def sum_of_squares(typing, row):
    """Σ x² in float64 of a contiguous row of float32: each square is exact there."""
    _check(row)

    def add(builder, sums, x):
        wide = builder.fpext(x, sums.type)
        return _multiply_add(builder, wide, wide, sums)

    return types.float64(row), _sum_over(DOUBLE, add)


@intrinsic
def dot_int8(typing, numbers, x):
    """Σ numbers · x in float32, of a contiguous row of int8 and one of float32."""
    _check(numbers, dtype=types.int8)
    _check(x)

    def add(builder, sums, whole, y):
        return _multiply_add(builder, builder.sitofp(whole, sums.type), y, sums)

    return types.float32(numbers, x), _sum_over(FLOAT, add)


def _check(*rows, dtype=types.float32):
    for row in rows:
        if not isinstance(row, types.Array) or (row.ndim, row.layout, row.dtype) != (1, "C", dtype):
            raise TypingError(f"expected a contiguous row of {dtype}, got {row}")


def _sum_over(kind, add):
    """What writes a loop over rows: sums = add(builder, sums, numbers of each row), SUMS at once.

    kind   of number the sums are
    """

    def generate(context, builder, signature, arguments):
        rows = [
            context.make_array(row)(context, builder, argument)
            for row, argument in zip(signature.args, arguments, strict=True)
        ]
        length = cgutils.unpack_tuple(builder, rows[0].shape, 1)[0]
        sums = cgutils.alloca_once_value(builder, _zeros(kind))
        whole = builder.and_(length, INT(-SUMS))
        with cgutils.for_range_slice(builder, INT(0), whole, INT(SUMS), inc=True) as (i, _):
            numbers = [_load(builder, row.data, i) for row in rows]
            builder.store(add(builder, builder.load(sums), *numbers), sums)
        rest = builder.sub(length, whole)
        with builder.if_then(builder.icmp_signed(">", rest, INT(0))):
            numbers = [_load_some(builder, row.data, whole, rest) for row in rows]
            builder.store(add(builder, builder.load(sums), *numbers), sums)
        return _tree(builder, builder.load(sums))

    return generate


def _tree(builder, sums):
    """Upper half plus lower half, until one number is left."""
    half = SUMS // 2
    nothing = ir.Constant(sums.type, ir.Undefined)
    while half:
        upper = _shuffle(builder, sums, nothing, range(half, 2 * half))
        lower = _shuffle(builder, sums, nothing, range(half))
        sums, nothing = builder.fadd(lower, upper), ir.Constant(lower.type, ir.Undefined)
        half //= 2
    return builder.extract_element(sums, INT32(0))


def _load(builder, data, i):
    place, kind = _place(builder, data, i)
    return builder.load(place, align=_bytes(kind), typ=kind)


def _load_some(builder, data, i, count):
    """The first `count` numbers from place i on, and zeros; no other memory is touched."""
    place, kind = _place(builder, data, i)
    lanes = ir.Constant(ir.VectorType(INT, SUMS), list(range(SUMS)))
    mask = builder.icmp_signed("<", lanes, _in_every_lane(builder, count))
    name = f"llvm.masked.load.v{SUMS}{'f32' if kind.element == FLOAT else 'i8'}.p0"
    arguments = [place, INT32(_bytes(kind)), mask, ir.Constant(kind, None)]
    return _call(builder, name, kind, arguments)


def _place(builder, data, i):
    kind = ir.VectorType(data.type.pointee, SUMS)
    return builder.bitcast(builder.gep(data, [i]), kind.as_pointer()), kind


def _bytes(kind):
    return 4 if kind.element == FLOAT else 1


def _zeros(kind):
    return ir.Constant(ir.VectorType(kind, SUMS), [0.0] * SUMS)


def _in_every_lane(builder, number):
    nothing = ir.Constant(ir.VectorType(number.type, SUMS), ir.Undefined)
    first = builder.insert_element(nothing, number, INT32(0))
    return _shuffle(builder, first, nothing, [0] * SUMS)


def _shuffle(builder, first, second, lanes):
    lanes = list(lanes)
    return builder.shuffle_vector(
        first, second, ir.Constant(ir.VectorType(INT32, len(lanes)), lanes)
    )


def _multiply_add(builder, x, y, z):
    """x · y + z: one instruction, rounded once, where the processor has it."""
    bits = 32 if z.type.element == FLOAT else 64
    return _call(builder, f"llvm.fmuladd.v{SUMS}f{bits}", z.type, [x, y, z])


def _call(builder, name, result, arguments):
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        function = ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)
