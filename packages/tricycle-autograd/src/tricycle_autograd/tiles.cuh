// Small tiles of numbers in shared memory, and products of them.
//
// A warp multiplies 16 rows, a strip, by 8 columns at a time.  Its 32 lanes hold a tile of results
// together.  Of 16 x 8 results there are four floats in each lane:
//
//     c[0], c[1]   row lane/4,      columns 2·(lane%4), + 1
//     c[2], c[3]   row lane/4 + 8,  the same columns
//
// bf16 is multiplied by tensor cores, 16 x 8 x 16 numbers at a time (compute capability 8.0 and
// later).  Their left operand, 16 x 16, lies like two such tiles side by side: results of one
// product become the left operand of the next without leaving their lanes.  float32, which is for
// checks, is multiplied one number at a time (float_tiles.cuh), under the same names.
//
// In shared memory a row has PITCH numbers, 16 bytes more than HEAD: eight rows below each other
// then lie in different banks.
#pragma once
#include "numbers.cuh"

#ifndef HEAD
#define HEAD 64  // numbers in a head, a multiple of 16
#endif
constexpr int PITCH = HEAD + WIDTH;
constexpr int STRIP = 16;  // rows that a warp multiplies

typedef float Result[4];
typedef unsigned Left[4];

// The left operand of products: a warp's strip of a tile, (16, HEAD).
template <class T> struct Strip {
    const T* rows;
};
template <> struct Strip<bf16> {
    static constexpr bool KEPT = HEAD <= 64;  // longer ones are read again for each product
    const bf16* rows;
    Left kept[KEPT ? HEAD / 16 : 1];  // in registers
};

// Which row and column of a strip's results c[n][i] is, in this lane.
HELPER int row_of(int i) { return threadIdx.x % WARP / 4 + i / 2 * 8; }
HELPER int column_of(int n, int i) { return n * 8 + threadIdx.x % 4 * 2 + i % 2; }

// ---- From global memory to shared memory ----

// Copy BYTES (4 or 16) to shared memory while the program goes on; zeros where nothing `is_there`.
template <int BYTES>
HELPER void copy_later(void* to, const void* from, bool is_there) {
    unsigned place = (unsigned)__cvta_generic_to_shared(to);
    int bytes = is_there ? BYTES : 0;
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                     :: "r"(place), "l"(from), "r"(bytes) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                     :: "r"(place), "l"(from), "r"(bytes) : "memory");
}
HELPER void end_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Wait for this thread's copies, but for the last `still_going` groups of them.
template <int still_going>
HELPER void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" :: "n"(still_going) : "memory");
}

// Rows are copied in parts of 16 bytes.  Eight lanes that are served together take one row's 128
// bytes, or, where rows are shorter, the same part of eight rows: different banks either way.
constexpr int PARTS = HEAD / WIDTH;
HELPER int row_of_part(int i) { return PARTS % 8 == 0 ? i / PARTS : i / 8 / PARTS * 8 + i % 8; }
HELPER int column_of_part(int i) { return (PARTS % 8 == 0 ? i : i / 8) % PARTS * WIDTH; }

// Rows first … first + N - 1 of a matrix in global memory, `step` numbers apart, to a tile; rows
// from `end` on are zeros.
template <int N>
HELPER void load_tile(number* tile, const number* matrix, long step, int first, int end) {
    for (int i = threadIdx.x; i < N * PARTS; i += blockDim.x) {
        int row = row_of_part(i), part = column_of_part(i);
        const number* from = matrix + (first + row) * step + part;
        copy_later<16>(tile + row * PITCH + part, from, first + row < end);
    }
}
template <int N>
HELPER void load_row(float* to, const float* from, int first, int end) {
    for (int i = threadIdx.x; i < N; i += blockDim.x)
        copy_later<4>(to + i, from + first + i, first + i < end);
}

// ---- Products of bf16 ----

// c += a · b: (16, 16) times (16, 8).
HELPER void multiply_add(Result& c, const Left& a, const unsigned* b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices from shared memory; lane l says where row l % 8 of matrix l / 8 begins.
// Each lane gets two neighbours of a row; `transposed`, two neighbours of a column.
template <bool transposed>
HELPER void load_matrices(unsigned (&m)[4], const bf16* row) {
    unsigned place = (unsigned)__cvta_generic_to_shared(row);
    if (transposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                     : "r"(place) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                     : "r"(place) : "memory");
}

// Columns 16·k … 16·k + 15 of a strip, as a left operand.
HELPER void load_left(Left& a, const bf16* rows, int k) {
    int lane = threadIdx.x % WARP;
    load_matrices<false>(a, rows + lane % 16 * PITCH + k * 16 + lane / 16 * 8);
}
HELPER void load_strip(Strip<bf16>& strip, const bf16* rows) {
    strip.rows = rows;
    if (Strip<bf16>::KEPT)
        #pragma unroll
        for (int k = 0; k < HEAD / 16; k++) load_left(strip.kept[k], rows, k);
}

// c (16, N) += strip (16, HEAD) · tile (N, HEAD)ᵀ
template <int N>
HELPER void multiply_by_rows(Result (&c)[N / 8], const Strip<bf16>& strip, const bf16* tile) {
    int lane = threadIdx.x % WARP;
    const bf16* row = tile + (lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 8;
    #pragma unroll
    for (int k = 0; k < HEAD / 16; k++) {
        Left reread;
        if (!Strip<bf16>::KEPT) load_left(reread, strip.rows, k);
        const Left& a = *(Strip<bf16>::KEPT ? &strip.kept[k] : &reread);
        #pragma unroll
        for (int n = 0; n < N / 8; n += 2) {
            unsigned b[4];
            load_matrices<false>(b, row + n * 8 * PITCH + k * 16);
            multiply_add(c[n], a, b);
            multiply_add(c[n + 1], a, b + 2);
        }
    }
}

// c (16, HEAD) += w (16, N) · tile (N, HEAD); w is rounded to bf16
template <int N>
HELPER void multiply_by_columns(
    Result (&c)[HEAD / 8], const Result (&w)[N / 8], const bf16* tile
) {
    int lane = threadIdx.x % WARP;
    const bf16* row = tile + lane % 16 * PITCH + lane / 16 * 8;
    #pragma unroll
    for (int k = 0; k < N / 16; k++) {
        const Result &one = w[2 * k], &two = w[2 * k + 1];
        Left a = {two_bf16(one[0], one[1]), two_bf16(one[2], one[3]),
                  two_bf16(two[0], two[1]), two_bf16(two[2], two[3])};
        #pragma unroll
        for (int n = 0; n < HEAD / 8; n += 2) {
            unsigned b[4];
            load_matrices<true>(b, row + k * 16 * PITCH + n * 8);
            multiply_add(c[n], a, b);
            multiply_add(c[n + 1], a, b + 2);
        }
    }
}

// Write a strip (16, HEAD), times `factor`, to rows first … of a matrix, `step` numbers apart, up
// to `end`.  It is laid out in shared memory first, `scratch` (16, PITCH) of the warp's own, so
// that whole rows go out, 16 bytes a lane.
HELPER void store_strip(
    bf16* matrix, long step, int first, int end,
    const Result (&c)[HEAD / 8], const float (&factor)[2], bf16* scratch
) {
    __syncwarp();  // the other lanes are done with what was there
    #pragma unroll
    for (int half = 0; half < 2; half++)
        #pragma unroll
        for (int n = 0; n < HEAD / 8; n++)
            *(unsigned*)(scratch + row_of(2 * half) * PITCH + column_of(n, 0)) =
                two_bf16(c[n][2 * half] * factor[half], c[n][2 * half + 1] * factor[half]);
    __syncwarp();
    for (int i = threadIdx.x % WARP; i < STRIP * PARTS; i += WARP) {
        int row = row_of_part(i), part = column_of_part(i);
        bf16* to = matrix + (first + row) * step + part;
        if (first + row < end) *(uint4*)to = *(const uint4*)(scratch + row * PITCH + part);
    }
}
