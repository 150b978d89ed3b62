// GELU on the GPU, by GPT-2's approximation and exactly.  The maths is told in gelu.py:
//
//     u = √(2/π) * (x + 0.044715 * x³);  s = sigmoid(2 * u)
//     y = x * s                                                        forward
//     dx = dy * (s + x * s * (1 - s) * 2 * u')                         backward
//
//     y = x * Φ(x)                                                     forward_exact
//     dx = dy * (Φ(x) + x * exp(-x² / 2) / √(2π))                      backward_exact
#include "flat.cuh"

constexpr float CUBE = 0.044715f, SLOPE = 1.5957691216057308f;  // 2 √(2/π)
constexpr float LIMIT = 10;  // beyond ± this the gate is 0 or 1, and x³ does not overflow

HELPER float limited(float x) { return x < -LIMIT ? -LIMIT : x > LIMIT ? LIMIT : x; }
HELPER float gate(float t) { return sigmoid(t * (SLOPE * CUBE * t * t + SLOPE)); }
HELPER float larger(float x, float t) { return x > t ? x : t; }
HELPER float slope(float t, float s) {
    return s + t * s * (1 - s) * (3 * SLOPE * CUBE * t * t + SLOPE);
}

ELEMENTWISE forward(number* y, const number* x, long long size) {
    each(size, y, [](float x) { return larger(x, limited(x)) * gate(limited(x)); }, x);
}

ELEMENTWISE backward(number* dx, const number* dy, const number* x, long long size) {
    each(size, dx, [](float dy, float x) {
        float t = limited(x);
        return dy * slope(t, gate(t));
    }, dy, x);
}

// y = gelu(x) again, and d, the gradient of it, becomes that of x.
ELEMENTWISE again(number* y, number* d, const number* x, long long size) {
    each(size, Results<2>{{y, d}}, [](float (&out)[2], float d, float x) {
        float t = limited(x), s = gate(t);
        out[0] = larger(x, t) * s;
        out[1] = d * slope(t, s);
    }, d, x);
}

ELEMENTWISE forward_exact(number* y, const number* x, long long size) {
    each(size, y, [](float x) { return larger(x, limited(x)) * normcdff(limited(x)); }, x);
}

ELEMENTWISE backward_exact(number* dx, const number* dy, const number* x, long long size) {
    constexpr float HALF_LOG2_E = 0.7213475204444817f, DENSITY_AT_0 = 0.3989422804014327f;
    each(size, dx, [=](float dy, float x) {
        float t = limited(x), density = DENSITY_AT_0 * power_of_two(-HALF_LOG2_E * t * t);
        return dy * (normcdff(t) + t * density);
    }, dy, x);
}
