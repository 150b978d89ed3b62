// tiles.cuh for float32: the same functions, one multiplication at a time.
//
// Tensor cores would round the numbers; here each lane makes its four results of 16 x 8 itself.
#pragma once
#include "tiles.cuh"

HELPER void load_strip(Strip<float>& strip, const float* rows) { strip.rows = rows; }

// c (16, N) += strip (16, HEAD) · tile (N, HEAD)ᵀ
template <int N>
HELPER void multiply_by_rows(Result (&c)[N / 8], const Strip<float>& strip, const float* tile) {
    #pragma unroll 1
    for (int k = 0; k < HEAD; k += 4) {
        const float* rows = strip.rows + k;
        float4 a[2] = {*(const float4*)(rows + row_of(0) * PITCH),
                       *(const float4*)(rows + row_of(2) * PITCH)};
        #pragma unroll
        for (int n = 0; n < N / 8; n++)
            #pragma unroll
            for (int i = 0; i < 2; i++) {
                float4 b = *(const float4*)(tile + column_of(n, i) * PITCH + k);
                #pragma unroll
                for (int half = 0; half < 2; half++)
                    c[n][2 * half + i] += a[half].x * b.x + a[half].y * b.y
                        + a[half].z * b.z + a[half].w * b.w;
            }
    }
}

// c (16, HEAD) += w (16, N) · tile (N, HEAD).  A row of w is spread over four lanes, which tell
// each other.
template <int N>
HELPER void multiply_by_columns(
    Result (&c)[HEAD / 8], const Result (&w)[N / 8], const float* tile
) {
    #pragma unroll 1
    for (int lane = 0; lane < 4; lane++)
        #pragma unroll
        for (int j = 0; j < N / 4; j++) {
            float a[2] = {__shfl_sync(~0u, w[j / 2][j % 2], lane, 4),
                          __shfl_sync(~0u, w[j / 2][2 + j % 2], lane, 4)};
            const float* row = tile + (j / 2 * 8 + lane * 2 + j % 2) * PITCH;
            #pragma unroll
            for (int n = 0; n < HEAD / 8; n++) {
                float2 b = *(const float2*)(row + column_of(n, 0));
                #pragma unroll
                for (int half = 0; half < 2; half++) {
                    c[n][2 * half] += a[half] * b.x;
                    c[n][2 * half + 1] += a[half] * b.y;
                }
            }
        }
}

// Write a strip (16, HEAD), times `factor`: four lanes have 32 bytes side by side, which is what
// memory moves at once.
HELPER void store_strip(
    float* matrix, long step, int first, int end,
    const Result (&c)[HEAD / 8], const float (&factor)[2], float*
) {
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = first + row_of(2 * half);
        if (row < end)
            #pragma unroll
            for (int n = 0; n < HEAD / 8; n++)
                *(float2*)(matrix + row * step + column_of(n, 0)) =
                    make_float2(c[n][2 * half] * factor[half], c[n][2 * half + 1] * factor[half]);
    }
}
