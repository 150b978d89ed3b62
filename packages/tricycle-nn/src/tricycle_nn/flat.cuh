// Elementwise kernels: arrays of one shape, as flat as they lie in memory.
//
// A thread takes WIDTH numbers side by side of every array, 16 bytes of each, and works on one after
// the other.  `f` says what is done to one:
//
//     each(size, y, [](float a, float b) { return a * b; }, a, b);
#pragma once
#include "numbers.cuh"

#define ELEMENTWISE extern "C" __global__ void __launch_bounds__(256)

// Where n results go.
template <int n> struct Results { number* at[n]; };

template <int n, class F, class... Inputs>
HELPER void write(const Results<n>& results, long long i, int left, F f, const Inputs&... inputs) {
    Numbers out[n];
    #pragma unroll
    for (int k = 0; k < WIDTH; k++) {
        float one[n];
        f(one, inputs.at[k]...);
        #pragma unroll
        for (int j = 0; j < n; j++) out[j].at[k] = one[j];
    }
    #pragma unroll
    for (int j = 0; j < n; j++) store(results.at[j] + i, out[j], left);
}

// Several results: f(out, inputs...) writes what becomes of one number of each input to out[0] …
template <int n, class F, class... Inputs>
HELPER void each(long long size, const Results<n>& results, F f, const Inputs*... inputs) {
    long long i = WIDTH * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= size) return;
    int left = size - i < WIDTH ? (int)(size - i) : WIDTH;
    write(results, i, left, f, load(inputs + i, left)...);
}

// One result: f(inputs...) returns it.
template <class F, class... Inputs>
HELPER void each(long long size, number* y, F f, const Inputs*... inputs) {
    auto only = [=](float (&out)[1], auto... x) { out[0] = f(x...); };
    each(size, Results<1>{{y}}, only, inputs...);
}

// 1 / x to 2 units in the last place, in one instruction; 0 where x is beyond 2¹²⁶.
HELPER float reciprocal(float x) { return __fdividef(1.0f, x); }

// 1 / (1 + e⁻ˣ)
HELPER float sigmoid(float x) {
    constexpr float LOG2_E = 1.4426950408889634f;
    return reciprocal(1 + power_of_two(-LOG2_E * x));
}
