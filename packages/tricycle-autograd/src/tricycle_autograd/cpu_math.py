"""exp, log and sigmoid for CPU kernels, sums and maxima of rows, in forms that vectorise.

The compiler turns a loop of additions and multiplications into instructions that work on 8 or
16 numbers at once, but a call of the C library's exp in it stops that (4.6 ns a number where
the polynomial below takes 0.5).  So these are made of plain arithmetic, without branches.

They give the same bits on every processor that has fused multiply-add.  The C library's exp and
log do not, nor does a sum whose order the compiler chooses.  So each is one sequence of
operations, `multiply_add` says where two of them are one, and sums along a row have an order of
their own (row_sums.py).

All are float32 and let NaN through; exp is right to 2 units in the last place, sigmoid to 4, log
to 1.
"""

import math

import numpy as np

from tricycle_autograd.cpu import cpu_function, made_by_numba, needs_numba

LOG2_E = np.float32(1.4426950408889634)
# ln 2 in two parts: the first has few bits, so that n · LN2_HIGH is exact.
LN2_HIGH = np.float32(0.693359375)
LN2_LOW = np.float32(-2.12194440e-4)
# Between these, e^x is a normal float32.
EXP_MIN = np.float32(-87.0)
EXP_MAX = np.float32(88.0)
# Coefficients of exp(r) - 1 - r over r², for |r| <= ln(2)/2 (Cephes, expf).
P0 = np.float32(1.9875691500e-4)
P1 = np.float32(1.3981999507e-3)
P2 = np.float32(8.3334519073e-3)
P3 = np.float32(4.1665795894e-2)
P4 = np.float32(1.6666665459e-1)
P5 = np.float32(5.0000001201e-1)
ONE = np.float32(1.0)
LN2, ROOT_HALF = math.log(2), math.sqrt(0.5)
EXPONENT_BIAS = np.int32(127)
MANTISSA_BITS = np.int32(23)


@made_by_numba
def float_from_bits():
    """(int32) -> the float32 with those bits."""
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    @intrinsic
    def float_from_bits(typing, bits):
        def generate(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], ir.FloatType())

        return types.float32(types.int32), generate

    return float_from_bits


@float_from_bits.without_numba
def plain_float_from_bits(bits):
    return np.int32(bits).view(np.float32)


@made_by_numba
def larger():
    """(float32, float32) -> the larger; the second one where either is NaN.

    Python's max in a loop stays one number at a time (1.2 ns each instead of 0.1): the
    compiler may only reorder a maximum that is marked as not caring about NaN and -0.
    """
    from numba import types
    from numba.extending import intrinsic

    @intrinsic
    def larger(typing, a, b):
        def generate(context, builder, signature, arguments):
            is_larger = builder.fcmp_ordered(">", *arguments, flags=("fast",))
            chosen = builder.select(is_larger, *arguments)
            chosen.flags += ["nnan", "nsz"]
            return chosen

        return types.float32(types.float32, types.float32), generate

    return larger


@larger.without_numba
def plain_larger(a, b):
    return a if a > b else b


@made_by_numba
def multiply_add():
    """(float32, float32, float32) -> a · b + c, rounded once where the processor can do that.

    Kernels may not make one operation of a multiplication and an addition by themselves, for the
    compiler would do so in other places on other processors.
    """
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    @intrinsic
    def multiply_add(typing, a, b, c):
        def generate(context, builder, signature, arguments):
            number = ir.FloatType()
            kind = ir.FunctionType(number, [number] * 3)
            function = builder.module.declare_intrinsic("llvm.fmuladd", [number], kind)
            return builder.call(function, arguments)

        return types.float32(types.float32, types.float32, types.float32), generate

    return multiply_add


@multiply_add.without_numba
def plain_multiply_add(a, b, c):
    return a * b + c


# Sums along contiguous rows: see row_sums.py for their order.
row_sum = needs_numba("tricycle_autograd.row_sums", "row_sum")
dot = needs_numba("tricycle_autograd.row_sums", "dot")
dot_int8 = needs_numba("tricycle_autograd.row_sums", "dot_int8")
sum_of_squares = needs_numba("tricycle_autograd.row_sums", "sum_of_squares")


@row_sum.without_numba
def plain_row_sum(row):
    return row.sum()


@dot.without_numba
def plain_dot(a, b):
    return a.dot(b)


@dot_int8.without_numba
def plain_dot_int8(numbers, x):
    return numbers.astype(np.float32).dot(x)


@sum_of_squares.without_numba
def plain_sum_of_squares(row):
    return (row.astype(np.float64) ** 2).sum()


@made_by_numba
def side_by_side():
    """(float32 row of a view) -> the same row, for loops over numbers that lie side by side.

    Of a view with any strides the compiler must assume that the numbers of a row lie apart, and
    takes one at a time.  The caller promises that they do not, and keeps the view alive.
    """
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic
    from numba.np.arrayobj import populate_array

    @intrinsic
    def side_by_side(typing, row):
        contiguous = types.Array(types.float32, 1, "C", readonly=not row.mutable)

        def generate(context, builder, signature, arguments):
            view = context.make_array(row)(context, builder, arguments[0])
            result = context.make_array(contiguous)(context, builder)
            size = context.get_constant(types.intp, 4)
            populate_array(
                result,
                data=view.data,
                shape=view.shape,
                strides=cgutils.pack_array(builder, [size]),
                itemsize=size,
                meminfo=ir.Constant(result.meminfo.type, None),  # not counted as a user of it
            )
            return result._getvalue()

        return contiguous(row), generate

    return side_by_side


@side_by_side.without_numba
def plain_side_by_side(row):
    return row


@cpu_function
def exp(x):
    """e^x, with x taken as -87 below that and 88 above (results 1e-38 and 1.7e38)."""
    x = EXP_MIN if x < EXP_MIN else x
    x = EXP_MAX if x > EXP_MAX else x
    # e^x = 2^n · e^r with n whole and r small; 2^n is made by writing n into a float's exponent.
    n = np.rint(x * LOG2_E)
    r = multiply_add(n, -LN2_HIGH, x)
    r = multiply_add(n, -LN2_LOW, r)
    p = multiply_add(P0, r, P1)
    p = multiply_add(p, r, P2)
    p = multiply_add(p, r, P3)
    p = multiply_add(p, r, P4)
    p = multiply_add(p, r, P5)
    p = multiply_add(p * r, r, r) + ONE
    return p * float_from_bits((np.int32(n) + EXPONENT_BIAS) << MANTISSA_BITS)


@cpu_function
def log(x):
    """ln x of one number, -inf of 0 and NaN below: from float64, for there are few to take.

    With x = 2^e · m and s = (m - 1) / (m + 1), ln x = e · ln 2 + 2 · (s + s³/3 + s⁵/5 + …), and for
    m between √½ and √2 the terms fall so fast that seven are enough.
    """
    if x == np.inf or x == 0:
        return np.float32(np.inf) if x > 0 else np.float32(-np.inf)
    mantissa, exponent = math.frexp(np.float64(x) if x > 0 else np.nan)
    if mantissa < ROOT_HALF:
        mantissa, exponent = 2 * mantissa, exponent - 1
    s = (mantissa - 1) / (mantissa + 1)
    t = s * s
    series = 1 + t * (1 / 3 + t * (1 / 5 + t * (1 / 7 + t * (1 / 9 + t * (1 / 11 + t / 13)))))
    return np.float32(exponent * LN2 + 2 * s * series)


@cpu_function
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return ONE / (ONE + exp(-x))


@cpu_function
def row_maximum(row):
    """The largest of a one-dimensional array of float32."""
    largest = row[0]
    for j in range(1, row.size):
        largest = larger(largest, row[j])
    return largest
