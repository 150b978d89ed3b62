"""The innermost step of the matrix product: one tile of the result, kept in registers.

A processor's registers hold LANES float32 side by side, and one instruction multiplies and adds
all of them: z = x · y + z.  Two can be started in every clock cycle, and each takes about four
to finish, so at least eight sums that do not wait for each other have to be under way.  A tile
of the result is TILE_ROWS rows of TILE_VECTORS registers: it stays in registers while the summed
dimension goes by, and each step of it takes

    TILE_VECTORS loads of b, TILE_ROWS numbers of a copied to every lane,
    TILE_ROWS · TILE_VECTORS multiply-and-add instructions

As many rows as the registers can hold: the more, the more work for each number loaded.  The last
rows and columns of the result get a tile too, but only what is theirs of it is stored.

numba compiles loops well, but leaves the choice of registers to LLVM, the compiler underneath
it.  Here the choice matters too much, so this file writes LLVM's own language: each function
below that takes a `builder` writes instructions, and the `@intrinsic`s make them callable from
kernels.  Memory is given as addresses and strides in bytes, both int64.

Importing this module imports numba: kernels mention what they need of it through `needs_numba`.

The tile of registers between packed operands: Goto & van de Geijn, "Anatomy of high-performance
matrix multiplication" (2008); Van Zee & van de Geijn, "BLIS" (2015), who call it microkernel.
"""

import os

from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

# Rows and vectors in a tile, by lanes.  Of the 32 registers of AVX-512, 28 hold sums; the rest
# holds two vectors of b and the number of a.  AVX2 and SSE have 16 registers: 12 sums; NEON has
# 32 of four lanes: 24 sums.
TILES = {16: (14, 2), 8: (6, 2), 4: (6, 2)}
NEON_TILE = (12, 2)


def vector_lanes() -> int:
    """float32 numbers in one register: 16, 8 or 4; TRICYCLE_VECTOR_LANES overrides it."""
    chosen = os.environ.get("TRICYCLE_VECTOR_LANES")
    if chosen is not None:
        if chosen not in ("4", "8", "16"):
            raise ValueError(f"TRICYCLE_VECTOR_LANES is 4, 8 or 16, got {chosen!r}")
        return int(chosen)
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 16
    return 8 if features.get("avx2") and features.get("fma") else 4


LANES = vector_lanes()
_neon = LANES == 4 and binding.get_process_triple().startswith(("aarch64", "arm64"))
TILE_ROWS, TILE_VECTORS = NEON_TILE if _neon else TILES[LANES]
TILE_COLUMNS = TILE_VECTORS * LANES
# Lower tiles, for the last rows: 64 rows are four tiles of 14 and one of 8.
HEIGHTS = [height for height in (4, 8) if height < TILE_ROWS]
UNROLL = 4  # steps of the summed dimension written out in one turn of the loop
# Panels wait in the L2 cache, or further away; each step calls what lies so many bytes ahead, 16
# to 40 steps, into L1.  Without this a product whose strips are seldom used twice takes 1.3 times
# as long.
PREFETCH = 2048

FLOAT, INT, INT32 = ir.FloatType(), ir.IntType(64), ir.IntType(32)
POINTER, VOID = ir.IntType(8).as_pointer(), ir.VoidType()
VECTOR = ir.VectorType(FLOAT, LANES)
FLOAT_BYTES = 4
VECTOR_BYTES = LANES * FLOAT_BYTES
ZEROS = ir.Constant(VECTOR, [0.0] * LANES)


@intrinsic
def multiply_panels(typing, steps, a, b, b_step, out, out_row, rows, columns, add):
    """out[:rows, :columns] = a @ b, or += if `add`, for a tile of at most TILE_ROWS x TILE_COLUMNS.

    steps    of the summed dimension, a multiple of UNROLL
    a        packed panel: TILE_ROWS numbers for each step
    b        TILE_COLUMNS numbers for each step, a packed panel or rows of a matrix
    b_step   bytes from one step's to the next
    out_row  bytes from a row of the tile to the next
    """

    def generate(context, builder, signature, arguments):
        rows = arguments[6]
        done = builder.append_basic_block("done")
        for height in HEIGHTS:
            fits = builder.append_basic_block("fits")
            too_high = builder.append_basic_block("too_high")
            builder.cbranch(builder.icmp_signed("<=", rows, INT(height)), fits, too_high)
            builder.position_at_end(fits)
            builder.call(_tile_function(builder.module, height), arguments)
            builder.branch(done)
            builder.position_at_end(too_high)
        builder.call(_tile_function(builder.module, TILE_ROWS), arguments)
        builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.none(*[types.int64] * 8, types.boolean), generate


@intrinsic
def copy_vector(typing, source, target, valid):
    """Copy LANES numbers; after the first `valid` of them, zeros, and nothing is read there."""

    def generate(context, builder, signature, arguments):
        source, target, valid = arguments
        # Nearly always the whole vector is there, and a mask takes longer to make than to use.
        whole = builder.icmp_signed(">=", valid, INT(LANES))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                _store(builder, _load(builder, source, 0, VECTOR), target)
            with otherwise:
                vector = _load_masked(builder, source, _lanes_below(builder, valid))
                _store(builder, vector, target)
        return context.get_dummy_value()

    return types.none(*[types.int64] * 3), generate


@intrinsic
def transpose_block(typing, source, stride, rows, columns, target, target_stride):
    """Write a block of LANES x LANES numbers transposed; zeros outside its `rows` and `columns`.

    source, stride                address of the block, and distance between its rows
    rows, columns                 how many of them there are
    target, target_stride         the same for the transposed block
    """

    def generate(context, builder, signature, arguments):
        source, stride, rows, columns, target, target_stride = arguments
        places = [builder.add(source, builder.mul(INT(i), stride)) for i in range(LANES)]
        whole = builder.and_(
            builder.icmp_signed(">=", rows, INT(LANES)),
            builder.icmp_signed(">=", columns, INT(LANES)),
        )
        with builder.if_else(whole) as (then, otherwise):
            with then:
                vectors = [_load(builder, place, 0, VECTOR) for place in places]
                _store_transposed(builder, vectors, target, target_stride)
            with otherwise:
                vectors = []
                for i, place in enumerate(places):
                    # Of a row that is not there no lane is switched on: nothing is read.
                    valid = builder.select(builder.icmp_signed(">", rows, INT(i)), columns, INT(0))
                    vectors.append(_load_masked(builder, place, _lanes_below(builder, valid)))
                _store_transposed(builder, vectors, target, target_stride)
        return context.get_dummy_value()

    return types.none(*[types.int64] * 6), generate


@intrinsic
def load_number(typing, address):
    """The float32 at an address."""

    def generate(context, builder, signature, arguments):
        return _load(builder, arguments[0], 0, FLOAT)

    return types.float32(types.int64), generate


@intrinsic
def store_number(typing, address, number):
    """Write a float32 at an address."""

    def generate(context, builder, signature, arguments):
        _store(builder, arguments[1], arguments[0])
        return context.get_dummy_value()

    return types.none(types.int64, types.float32), generate


@intrinsic
def prefetch(typing, address):
    """Call a cache line in, before it is needed."""

    def generate(context, builder, signature, arguments):
        _prefetch(builder, _pointer(builder, arguments[0]), for_writing=False, nearness=2)
        return context.get_dummy_value()

    return types.none(types.int64), generate


@intrinsic
def address_of(typing, array):
    """The address of an array's first number."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, INT)

    return types.int64(array), generate


def _tile_function(module, height):
    """multiply_panels for tiles of some height, written into a module when it is first needed."""
    name = f"tricycle_tile_{height}"
    if name in module.globals:
        return module.globals[name]
    arguments = [INT] * 8 + [ir.IntType(1)]
    function = ir.Function(module, ir.FunctionType(VOID, arguments), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    steps, a, b, b_step, out, out_row, rows, columns, add = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))

    out_rows = [_pointer(builder, out)]
    for _ in range(1, height):
        out_rows.append(_moved(builder, out_rows[-1], out_row))
    for row in out_rows:
        for v in range(TILE_VECTORS):
            _prefetch(builder, _moved(builder, row, v * VECTOR_BYTES), for_writing=True, nearness=3)
    sums = _sum_steps(builder, height, steps, _pointer(builder, a), _pointer(builder, b), b_step)

    whole = builder.and_(
        builder.icmp_signed(">=", rows, INT(height)),
        builder.icmp_signed(">=", columns, INT(TILE_COLUMNS)),
    )
    with builder.if_else(whole) as (then, otherwise):
        with then:
            _store_tile(builder, sums, out_rows, add)
        with otherwise:
            _store_part_of_tile(builder, sums, out_rows, rows, columns, add)
    builder.ret_void()
    return function


def _sum_steps(builder, height, steps, a, b, b_step):
    """Write the loop over the summed dimension; returns the tile's vectors, row by row."""
    before = builder.block
    loop, end = builder.append_basic_block("steps"), builder.append_basic_block("end")
    turns = builder.udiv(steps, INT(UNROLL))
    builder.branch(loop)
    builder.position_at_end(loop)
    # A phi is a variable of the loop: its value on entering, and from the turn before.
    turn, a_now, b_now = builder.phi(INT), builder.phi(POINTER), builder.phi(POINTER)
    sums_now = [builder.phi(VECTOR) for _ in range(height * TILE_VECTORS)]
    sums, b_row = list(sums_now), b_now
    for step in range(UNROLL):
        b_vectors = [_load(builder, b_row, v * VECTOR_BYTES, VECTOR) for v in range(TILE_VECTORS)]
        for v in range(TILE_VECTORS):
            ahead = _moved(builder, b_row, v * VECTOR_BYTES + PREFETCH)
            _prefetch(builder, ahead, for_writing=False, nearness=3)
        ahead = _moved(builder, a_now, step * TILE_ROWS * FLOAT_BYTES + PREFETCH)
        _prefetch(builder, ahead, for_writing=False, nearness=3)
        for i in range(height):
            number = _load(builder, a_now, (step * TILE_ROWS + i) * FLOAT_BYTES, FLOAT)
            factor = _in_every_lane(builder, number)
            for v in range(TILE_VECTORS):
                tile = i * TILE_VECTORS + v
                sums[tile] = _multiply_add(builder, factor, b_vectors[v], sums[tile])
        b_row = _moved(builder, b_row, b_step)
    turn_next = builder.sub(turn, INT(1))
    a_next = _moved(builder, a_now, UNROLL * TILE_ROWS * FLOAT_BYTES)
    starts = [turns, a, b] + [ZEROS] * len(sums)
    for phi, first, following in zip(
        [turn, a_now, b_now, *sums_now], starts, [turn_next, a_next, b_row, *sums], strict=True
    ):
        phi.add_incoming(first, before)
        phi.add_incoming(following, loop)
    builder.cbranch(builder.icmp_unsigned("==", turn_next, INT(0)), end, loop)
    builder.position_at_end(end)
    return sums


def _store_tile(builder, sums, out_rows, add):
    places = [(row, v * VECTOR_BYTES) for row in out_rows for v in range(TILE_VECTORS)]
    with builder.if_else(add) as (then, otherwise):
        with then:
            for vector, (row, offset) in zip(sums, places, strict=True):
                total = builder.fadd(vector, _load(builder, row, offset, VECTOR))
                _store(builder, total, row, offset)
        with otherwise:
            for vector, (row, offset) in zip(sums, places, strict=True):
                _store(builder, vector, row, offset)


def _store_part_of_tile(builder, sums, out_rows, rows, columns, add):
    """At the edge of the result: nothing beyond `rows` and `columns` is read or written."""
    masks = [
        _lanes_below(builder, builder.sub(columns, INT(v * LANES))) for v in range(TILE_VECTORS)
    ]
    for i, row in enumerate(out_rows):
        with builder.if_then(builder.icmp_signed(">", rows, INT(i))):
            for v, mask in enumerate(masks):
                place = _moved(builder, row, v * VECTOR_BYTES)
                vector = sums[i * TILE_VECTORS + v]
                total = builder.fadd(vector, _load_masked(builder, place, mask))
                _store_masked(builder, builder.select(add, total, vector), place, mask)


def _store_transposed(builder, vectors, target, target_stride):
    for i, vector in enumerate(_transposed(builder, vectors)):
        _store(builder, vector, builder.add(target, builder.mul(INT(i), target_stride)))


def _transposed(builder, rows):
    """Transpose LANES vectors of LANES numbers.

    Seen as a square of four blocks, the two off the diagonal change places; then the same
    within each block, down to blocks of one number: log2(LANES) rounds of shuffles.
    """
    half = LANES // 2
    while half:
        # Lane numbers of a shuffle count through its two vectors: LANES + l is the second's l.
        low = [lane if not lane & half else LANES + lane - half for lane in range(LANES)]
        high = [lane + half if not lane & half else LANES + lane for lane in range(LANES)]
        swapped = list(rows)
        for i in range(LANES):
            if not i & half:
                pair = rows[i], rows[i + half]
                swapped[i] = _shuffle(builder, *pair, low)
                swapped[i + half] = _shuffle(builder, *pair, high)
        rows, half = swapped, half // 2
    return rows


def _pointer(builder, address):
    """An address (int64 or pointer) as LLVM's pointer."""
    return builder.inttoptr(address, POINTER) if address.type == INT else address


def _moved(builder, pointer, offset):
    """The pointer some bytes further on."""
    offset = INT(offset) if isinstance(offset, int) else offset
    return builder.gep(pointer, [offset], source_etype=ir.IntType(8))


def _load(builder, address, offset, kind):
    place = _moved(builder, _pointer(builder, address), offset)
    return builder.load(builder.bitcast(place, kind.as_pointer()), align=FLOAT_BYTES, typ=kind)


def _store(builder, value, address, offset=0):
    place = _moved(builder, _pointer(builder, address), offset)
    builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=FLOAT_BYTES)


def _load_masked(builder, address, mask):
    """A vector whose lanes outside the mask are zero; their memory is not touched."""
    place = builder.bitcast(_pointer(builder, address), VECTOR.as_pointer())
    arguments = [place, INT32(FLOAT_BYTES), mask, ZEROS]
    return _call(builder, f"llvm.masked.load.v{LANES}f32.p0", VECTOR, arguments)


def _store_masked(builder, vector, address, mask):
    place = builder.bitcast(_pointer(builder, address), VECTOR.as_pointer())
    arguments = [vector, place, INT32(FLOAT_BYTES), mask]
    _call(builder, f"llvm.masked.store.v{LANES}f32.p0", VOID, arguments)


def _lanes_below(builder, count):
    """The mask whose first `count` lanes are switched on."""
    lanes = ir.Constant(ir.VectorType(INT, LANES), list(range(LANES)))
    return builder.icmp_signed("<", lanes, _in_every_lane(builder, count))


def _in_every_lane(builder, number):
    kind = ir.VectorType(number.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), number, INT32(0))
    return _shuffle(builder, first, ir.Constant(kind, ir.Undefined), [0] * LANES)


def _shuffle(builder, first, second, lanes):
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(INT32, LANES), lanes))


def _multiply_add(builder, x, y, z):
    """x · y + z: one instruction, rounded once, where the processor has it."""
    return _call(builder, f"llvm.fmuladd.v{LANES}f32", VECTOR, [x, y, z])


def _prefetch(builder, pointer, for_writing, nearness):
    """nearness   3: into the nearest cache; 2: the one behind it"""
    arguments = [pointer, INT32(int(for_writing)), INT32(nearness), INT32(1)]
    _call(builder, "llvm.prefetch.p0", VOID, arguments)


def _call(builder, name, result, arguments):
    """Call one of LLVM's intrinsic functions."""
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        function = ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)
