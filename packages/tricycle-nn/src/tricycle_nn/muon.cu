// Muon on the GPU: all but the products, which are cuBLASLt's.  The maths is told in muon.py; for
// one matrix, in Python
//
//     gradient = g * grad_scale;  u = momentum * u + gradient
//     x = gradient + momentum * u;  sums[block] = (x ** 2).sum()      look_ahead
//     x /= sqrt(sums.sum()) + TINY                                    normalise
//     p = a * identity + b * gram + c * square                        polynomial, four times
//     w -= shrink * w + rate * step                                   move
//
// A matrix may be some columns of a wider one: what u, g and w have between the beginnings of two
// rows is `width`, while x and what is made from it is without gaps.  A thread takes numbers that
// lie 256 apart, so that neighbours are read together wherever a row begins.
#include "numbers.cuh"

constexpr int THREADS = 256, EACH = 16, CHUNK = THREADS * EACH;  // of a block, a thread, a block
constexpr double TINY = 1e-7;

#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)

// f(i) for every number that is this thread's, of `size`.
template <class F> HELPER void each(long long size, F f) {
    for (int k = 0; k < EACH; k++) {
        long long i = (long long)blockIdx.x * CHUNK + k * THREADS + threadIdx.x;
        if (i < size) f(i);
    }
}

// Where the i-th number of a matrix lies in one whose rows are wider.
HELPER long long place(long long i, int columns, long long width) {
    return i / columns * width + i % columns;
}

KERNEL look_ahead(
    float* x,        // (rows, columns)  out
    double* sums,    // (blocks,)  out: of x², in float64, for a square may be larger than float32 goes
    float* u,        // (rows, columns) of a wider one: the velocity, moved
    const float* g,  // likewise: the gradient
    float grad_scale, float momentum, int columns, long long width, long long size
) {
    double sum = 0;
    each(size, [&](long long i) {
        long long there = place(i, columns, width);
        float gradient = g[there] * grad_scale, velocity = momentum * u[there] + gradient;
        u[there] = velocity;
        float ahead = gradient + momentum * velocity;
        x[i] = ahead;
        sum += (double)ahead * ahead;
    });
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

KERNEL normalise(float* x, const double* sums, int n, long long size) {
    double sum = 0;
    for (int k = threadIdx.x; k < n; k += THREADS) sum += sums[k];
    float scale = (float)(1 / (sqrt(block_sum<THREADS>(sum)) + TINY));
    each(size, [&](long long i) { x[i] *= scale; });
}

// square (M, M) = the polynomial of gram (M, M), whose square it is.
KERNEL polynomial(float* square, const float* gram, float a, float b, float c, int M) {
    each((long long)M * M, [&](long long i) {
        float p = b * gram[i] + c * square[i];
        square[i] = i / M == i % M ? p + a : p;
    });
}

KERNEL move(
    float* w, const float* step, float shrink, float rate, int columns, long long width,
    long long size
) {
    each(size, [&](long long i) {
        long long there = place(i, columns, width);
        w[there] -= shrink * w[there] + rate * step[i];
    });
}
