// A row of scores z (V,) shared out in a block, for cross entropy.  The maths is told in
// cross_entropy.py; with m = max(z), or 0 where that is -inf, in Python
//
//     total = exp(z - m).sum();  loss = log(total) - (1 - s) * (z[t] - m) - s * mean(z - m)
//     gradient = exp(z - m) / total - (1 - s) * one_hot(t) - s / V                s: smoothing
//
// A row of 50,257 bf16 is 100 kB: a block of 1,024 threads holds it whole in registers, 16 bytes in
// each of 7 quartets of each thread, and memory is read once.  Longer rows are read again.
#pragma once
#include "numbers.cuh"

constexpr int AT_ONCE = THREADS * WIDTH;
constexpr int PARTS = (V + AT_ONCE - 1) / AT_ONCE;
constexpr bool IS_HELD = PARTS <= 16;
constexpr float LOG2_E = 1.4426950408889634f;

// What one thread has of a row.
struct Row {
    const number* z;
    uint4 held[IS_HELD ? PARTS : 1];  // as it lies in memory: half the registers of floats

    HELPER explicit Row(const number* z) : z(z) {
        #pragma unroll
        for (int k = 0; k < (IS_HELD ? PARTS : 0); k++) held[k] = load_raw(z + at(k), V - at(k));
    }
    // Where a thread's numbers of a part begin.
    static HELPER int at(int part) { return part * AT_ONCE + threadIdx.x * WIDTH; }

    HELPER Numbers part(int k) const {
        return unpack(IS_HELD ? held[k] : load_raw(z + at(k), V - at(k)));
    }
    // The largest number of the whole row, or 0 where all are -inf.
    HELPER float largest() const {
        float m = NEGATIVE_INFINITY;
        #pragma unroll
        for (int k = 0; k < PARTS; k++) {
            Numbers x = part(k);
            #pragma unroll
            for (int i = 0; i < WIDTH; i++)
                if (at(k) + i < V) m = fmaxf(m, x.at[i]);
        }
        m = block_max(m);
        return m == NEGATIVE_INFINITY ? 0 : m;
    }
    // Σ exp(z - m); with the largest as m it is at least 1, unless all are -inf.
    HELPER float sum_of_exps(float m) const {
        float total = 0;
        #pragma unroll
        for (int k = 0; k < PARTS; k++) {
            Numbers x = part(k);
            #pragma unroll
            for (int i = 0; i < WIDTH; i++)
                if (at(k) + i < V) total += power_of_two((x.at[i] - m) * LOG2_E);
        }
        total = block_sum(total);
        return total < 1 ? 1 : total;
    }
    // Σ (z - m)
    HELPER float sum_below(float m) const {
        float total = 0;
        #pragma unroll
        for (int k = 0; k < PARTS; k++) {
            Numbers x = part(k);
            #pragma unroll
            for (int i = 0; i < WIDTH; i++)
                if (at(k) + i < V) total += x.at[i] - m;
        }
        return block_sum(total);
    }
    HELPER float surprise(int target, float smoothing, float m, float total) const {
        float below = smoothing > 0 ? sum_below(m) : 0;
        return logf(total) - (1 - smoothing) * (to_float(z[target]) - m) - smoothing * below / V;
    }
    // dz (step,) = factor times the gradient, and zeros from V on.  dz may be z itself.
    HELPER void gradient(
        number* dz, int target, float smoothing, float m, float total, float factor, int step
    ) const {
        float share = factor / total, everywhere = factor * smoothing / V;
        float hit = factor * (1 - smoothing);
        #pragma unroll
        for (int k = 0; k < PARTS; k++) {
            Numbers x = part(k);
            #pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                int c = at(k) + i;
                float belief = share * power_of_two((x.at[i] - m) * LOG2_E);
                x.at[i] = c < V ? belief - everywhere - (c == target ? hit : 0.0f) : 0.0f;
            }
            if (at(k) < step) store(dz + at(k), x, step - at(k));
        }
        zeros(dz, PARTS * AT_ONCE, step);
    }
    static HELPER void zeros(number* dz, int start, int step) {
        for (int c = start + threadIdx.x * WIDTH; c < step; c += AT_ONCE)
            store(dz + c, Numbers{}, step - c);
    }
};

// average (1,) = factor · Σ losses (N,).  One block; every thread adds its own in order.
extern "C" __global__ void __launch_bounds__(1024) average(
    float* average, const float* losses, float factor, int N
) {
    float sum = 0;
    for (int n = threadIdx.x; n < N; n += blockDim.x) sum += losses[n];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *average = factor * sum;
}
