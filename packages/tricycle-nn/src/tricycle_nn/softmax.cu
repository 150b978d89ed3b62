// Softmax and its logarithm on the GPU.  The maths is told in softmax.py; of a row, in Python it is
//
//     e = exp(x - max(x));  y = e / sum(e)                       forward
//     dx = y * (dy - sum(dy * y))                                backward
//     y = x - max(x) - log(sum(e))                               log_forward
//     dx = dy - exp(y) * sum(dy)                                 log_backward
//
// A row (C,) is taken by LANES threads: a warp, or, where it is long, a whole block.  It is read
// twice, first for the sums and then for the results; the second time it still lies in a cache.
#include "numbers.cuh"

// Compiled in: LANES, 32 or THREADS.
constexpr int THREADS = LANES > 128 ? LANES : 128;
constexpr int STEP = LANES * WIDTH;
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)

HELPER float row_sum(float x) { return LANES == WARP ? warp_sum(x) : block_sum(x); }
HELPER float row_max(float x) { return LANES == WARP ? warp_max(x) : block_max(x); }
HELPER long row_number() {
    return (long)blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
}
HELPER int first_column() { return threadIdx.x % LANES * WIDTH; }

// The largest number of a row, or 0 where all are -inf; and the sum of exp(x - largest).
HELPER void measure(const number* x, int C, float& largest, float& total) {
    float m = NEGATIVE_INFINITY, sum = 0;
    for (int c = first_column(); c < C; c += STEP) {
        Numbers now = load(x + c, C - c);
        float before = m;
        #pragma unroll
        for (int i = 0; i < WIDTH; i++)
            if (i < C - c) m = fmaxf(m, now.at[i]);
        if (m == NEGATIVE_INFINITY) continue;
        sum *= expf(before - m);
        #pragma unroll
        for (int i = 0; i < WIDTH; i++)
            if (i < C - c) sum += expf(now.at[i] - m);
    }
    largest = row_max(m);
    if (largest == NEGATIVE_INFINITY) largest = 0;
    total = row_sum(sum * expf(m - largest));
}

KERNEL forward(number* y, const number* x, int N, int C) {
    long n = row_number();
    if (n >= N) return;
    x += n * C, y += n * C;
    float largest, total;
    measure(x, C, largest, total);
    float share = total == 0 ? 1 : 1 / total;
    for (int c = first_column(); c < C; c += STEP) {
        Numbers now = load(x + c, C - c);
        #pragma unroll
        for (int i = 0; i < WIDTH; i++) now.at[i] = expf(now.at[i] - largest) * share;
        store(y + c, now, C - c);
    }
}

KERNEL log_forward(number* y, const number* x, int N, int C) {
    long n = row_number();
    if (n >= N) return;
    x += n * C, y += n * C;
    float largest, total;
    measure(x, C, largest, total);
    float shift = total == 0 ? 0 : logf(total);
    for (int c = first_column(); c < C; c += STEP) {
        Numbers now = load(x + c, C - c);
        #pragma unroll
        for (int i = 0; i < WIDTH; i++) now.at[i] = now.at[i] - largest - shift;
        store(y + c, now, C - c);
    }
}

KERNEL backward(number* dx, const number* dy, const number* y, int N, int C) {
    long n = row_number();
    if (n >= N) return;
    y += n * C, dy += n * C, dx += n * C;
    float sum = 0;
    for (int c = first_column(); c < C; c += STEP) {
        Numbers p = load(y + c, C - c), d = load(dy + c, C - c);
        #pragma unroll
        for (int i = 0; i < WIDTH; i++) sum += d.at[i] * p.at[i];
    }
    sum = row_sum(sum);
    for (int c = first_column(); c < C; c += STEP) {
        Numbers p = load(y + c, C - c), d = load(dy + c, C - c);
        #pragma unroll
        for (int i = 0; i < WIDTH; i++) d.at[i] = p.at[i] * (d.at[i] - sum);
        store(dx + c, d, C - c);
    }
}

KERNEL log_backward(number* dx, const number* dy, const number* y, int N, int C) {
    long n = row_number();
    if (n >= N) return;
    y += n * C, dy += n * C, dx += n * C;
    float sum = 0;
    for (int c = first_column(); c < C; c += STEP) {
        Numbers d = load(dy + c, C - c);
        #pragma unroll
        for (int i = 0; i < WIDTH; i++) sum += d.at[i];
    }
    sum = row_sum(sum);
    for (int c = first_column(); c < C; c += STEP) {
        Numbers p = load(y + c, C - c), d = load(dy + c, C - c);
        #pragma unroll
        for (int i = 0; i < WIDTH; i++) d.at[i] -= expf(p.at[i]) * sum;
        store(dx + c, d, C - c);
    }
}
