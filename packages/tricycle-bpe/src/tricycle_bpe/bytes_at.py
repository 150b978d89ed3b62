"""Bytes at an address: reading and writing inside kernels, several at a time, without checks.

Within a kernel, text and tables are *addresses*: plain integers. Handing numpy arrays from
function to function makes numba count references at every step, which was measured to make
splitting three times slower; and `array[i]` looks whether i is negative. A kernel takes arrays,
asks for their addresses once (`array.ctypes.data`), and its helpers read with the functions
below.

The price is care. Every text must be followed by PADDING zero bytes, because the last
load reaches past the end. And an array must outlive its address: arguments of a kernel do, but an
array made inside one is freed after the last line that mentions it by name.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.cpython.unsafe.numbers import leading_zeros, trailing_zeros
from numba.extending import intrinsic

from .kernels import helper

PADDING = 64


def _loader(bits, result, extend):
    """Make a function (address, index) -> element `index` of an array of `bits`-bit integers."""

    @intrinsic
    def load(typing_context, address, index):
        def generate(context, builder, signature, arguments):
            integer = ir.IntType(bits)
            offset = builder.mul(arguments[1], ir.Constant(ir.IntType(64), bits // 8))
            place = builder.inttoptr(builder.add(arguments[0], offset), integer.as_pointer())
            return extend(builder, builder.load(place, align=bits // 8))

        return result(types.int64, types.int64), generate

    return load


def _unsigned(builder, value):
    return builder.zext(value, ir.IntType(64))


def _signed(builder, value):
    return builder.sext(value, ir.IntType(64))


byte_at = _loader(8, types.int64, _unsigned)
int32_at = _loader(32, types.int64, _signed)
int64_at = _loader(64, types.int64, lambda builder, value: value)


@intrinsic
def eight_bytes_at(typing_context, address, index):
    """Load the eight bytes from `index` on as one uint64, the first byte lowest."""

    def generate(context, builder, signature, arguments):
        word = ir.IntType(64)
        place = builder.inttoptr(builder.add(*arguments), word.as_pointer())
        return builder.load(place, align=1)

    return types.uint64(types.int64, types.int64), generate


@intrinsic
def multiply_and_fold(typing_context, a, b):
    """Multiply two numbers to one of 128 bits, and XOR its two halves: every bit of the result
    depends on all of both.
    """

    def generate(context, builder, signature, arguments):
        word, double = ir.IntType(64), ir.IntType(128)
        product = builder.mul(*(builder.zext(value, double) for value in arguments))
        high = builder.lshr(product, ir.Constant(double, 64))
        return builder.xor(builder.trunc(product, word), builder.trunc(high, word))

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def put_int64(typing_context, address, index, value):
    """Store a number as element `index` of an int64 array."""

    def generate(context, builder, signature, arguments):
        address, index, value = arguments
        number = ir.IntType(64)
        offset = builder.mul(index, ir.Constant(number, 8))
        builder.store(value, builder.inttoptr(builder.add(address, offset), number.as_pointer()))
        return index

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def put_eight_bytes(typing_context, address, index, word):
    """Store a uint64 at byte `index`, the lowest byte first."""

    def generate(context, builder, signature, arguments):
        address, index, word = arguments
        place = builder.inttoptr(builder.add(address, index), ir.IntType(64).as_pointer())
        builder.store(word, place, align=1)
        return index

    return types.int64(types.int64, types.int64, types.uint64), generate


@intrinsic
def bytes_between(typing_context, address, index, low, high):
    """Look at 64 bytes from `index` on at once; set bit j where byte j is from low to high."""

    def generate(context, builder, signature, arguments):
        address, index, low, high = arguments
        byte, many = ir.IntType(8), ir.VectorType(ir.IntType(8), 64)
        place = builder.inttoptr(builder.add(address, index), many.as_pointer())
        least = _repeat(builder, builder.trunc(low, byte), many)
        width = _repeat(builder, builder.trunc(builder.sub(high, low), byte), many)
        # A byte below `low` wraps around to a large one, so one comparison is enough.
        above = builder.sub(builder.load(place, align=1), least)
        return builder.bitcast(builder.icmp_unsigned("<=", above, width), ir.IntType(64))

    arguments = (types.int64, types.int64, types.int64, types.int64)
    return types.uint64(*arguments), generate


def _repeat(builder, value, many):
    """Make a vector of one value."""
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), many.count), None)
    first = ir.Constant(ir.IntType(32), 0)
    nothing = ir.Constant(many, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(nothing, value, first), nothing, zeros)


@intrinsic
def prefetch(typing_context, address):
    """Ask for what lies at an address to be brought into the cache: it will be wanted soon."""

    def generate(context, builder, signature, arguments):
        number = ir.IntType(32)
        place = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        instruction = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, keep, data_cache = (ir.Constant(number, value) for value in (0, 3, 1))
        builder.call(instruction, [place, read, keep, data_cache])
        return arguments[0]

    return types.int64(types.int64), generate


@helper
def first_set_bit(mask):
    """Tell which bit of a mask is its lowest that is set: 0 … 63, or 64 if none is."""
    return np.int64(trailing_zeros(mask))


@helper
def last_set_bit(mask):
    """Tell which bit of a mask is its highest that is set: 0 … 63, or -1 if none is."""
    return 63 - np.int64(leading_zeros(mask))


@helper
def first_set_byte(mask):
    """Tell which byte of a mask holds its lowest set bit: 0 … 7."""
    return first_set_bit(mask) >> 3
