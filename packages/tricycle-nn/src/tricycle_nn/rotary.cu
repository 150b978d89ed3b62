// Rotary positions on the GPU.  The maths is told in rotary.py; of one row, in Python it is
//
//     h = D // 2;  a, b = x[:h], x[h:]                                    turn_halves
//     y[:h] = a * cos - b * sin;  y[h:] = a * sin + b * cos
//
//     a, b = x[::2], x[1::2]                                              turn_neighbours
//     y[::2] = a * cos - b * sin;  y[1::2] = a * sin + b * cos
//
// Rows (N, D) go through the T rows of cos and sin repeatedly, once for each head.  A thread takes
// four numbers of a row, or two fours: it reads how they are turned once, for HEADS heads.  cos
// and sin are floats, whatever x is.
#include "numbers.cuh"

// Compiled in: D, the numbers in a row.
constexpr int THREADS = 128, HEADS = 8;
constexpr int HALF = D / 2;

template <class T, int N> struct __align__(N * sizeof(T)) Neighbours { T at[N]; };

// The first of N neighbours that are there: `left`.  The others read as zero, and are not written.
template <int N, class T> HELPER void load_some(float (&x)[N], const T* p, int left) {
    if (left >= N && (size_t)p % (N * sizeof(T)) == 0) {
        Neighbours<T, N> all = *(const Neighbours<T, N>*)p;
        #pragma unroll
        for (int i = 0; i < N; i++) x[i] = to_float(all.at[i]);
    } else {
        #pragma unroll
        for (int i = 0; i < N; i++) x[i] = i < left ? to_float(p[i]) : 0.0f;
    }
}
template <int N, class T> HELPER void store_some(T* p, const float (&x)[N], int left) {
    if (left >= N && (size_t)p % (N * sizeof(T)) == 0) {
        Neighbours<T, N> all;
        #pragma unroll
        for (int i = 0; i < N; i++) to_number(all.at + i, x[i]);
        *(Neighbours<T, N>*)p = all;
    } else {
        #pragma unroll
        for (int i = 0; i < N; i++)
            if (i < left) to_number(p + i, x[i]);
    }
}

HELPER void turn(float& a, float& b, float cos, float sin) {
    float before = a;
    a = a * cos - b * sin;
    b = before * sin + b * cos;
}

extern "C" __global__ void __launch_bounds__(THREADS) turn_halves(
    number* y,                           // (N, D)  out
    const number* x,                     // (N, D)
    const float* cos, const float* sin,  // (T, D/2)
    int T, int heads                     // N = heads · T
) {
    constexpr int PARTS = (HALF + 3) / 4;
    int i = blockIdx.x * THREADS + threadIdx.x, t = i / PARTS, c = i % PARTS * 4, left = HALF - c;
    if (t >= T) return;
    float cosines[4], sines[4];
    load_some(cosines, cos + (long)t * HALF + c, left);
    load_some(sines, sin + (long)t * HALF + c, left);
    int h = blockIdx.y * HEADS, end = min(heads, h + HEADS);
    for (; h < end; h++) {
        long place = ((long)h * T + t) * D + c;
        float a[4], b[4];
        load_some(a, x + place, left);
        load_some(b, x + place + HALF, left);
        #pragma unroll
        for (int j = 0; j < 4; j++) turn(a[j], b[j], cosines[j], sines[j]);
        store_some(y + place, a, left);
        store_some(y + place + HALF, b, left);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) turn_neighbours(
    number* y, const number* x, const float* cos, const float* sin, int T, int heads
) {
    constexpr int PARTS = (D + 3) / 4;
    int i = blockIdx.x * THREADS + threadIdx.x, t = i / PARTS, c = i % PARTS * 4, left = D - c;
    if (t >= T) return;
    float cosines[2], sines[2];
    load_some(cosines, cos + (long)t * HALF + c / 2, left / 2);
    load_some(sines, sin + (long)t * HALF + c / 2, left / 2);
    int h = blockIdx.y * HEADS, end = min(heads, h + HEADS);
    for (; h < end; h++) {
        long place = ((long)h * T + t) * D + c;
        float pairs[4];
        load_some(pairs, x + place, left);
        turn(pairs[0], pairs[1], cosines[0], sines[0]);
        turn(pairs[2], pairs[3], cosines[1], sines[1]);
        store_some(y + place, pairs, left);
    }
}
