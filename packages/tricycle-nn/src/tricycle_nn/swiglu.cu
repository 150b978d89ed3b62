// silu and SwiGLU on the GPU.  The maths is told in swiglu.py; with s = sigmoid(gate)
//
//     y = gate * s                                                     silu
//     d_gate = dy * s * (1 + gate * (1 - s))                           silu_backward
//
//     y = x * gate * s                                                 swiglu
//     dx = dy * gate * s                                               swiglu_backward
//     d_gate = dy * x * s * (1 + gate * (1 - s))
#include "flat.cuh"

// Below this the sigmoid is as good as 0; -inf times it would be NaN.
constexpr float LOWEST = -87;

HELPER float limited(float x) { return x < LOWEST ? LOWEST : x; }
HELPER float slope(float g, float s) { return s * (1 + g * (1 - s)); }

ELEMENTWISE silu(number* y, const number* x, long long size) {
    each(size, y, [](float x) { return limited(x) * sigmoid(limited(x)); }, x);
}

ELEMENTWISE silu_backward(number* dx, const number* dy, const number* x, long long size) {
    each(size, dx, [](float dy, float x) { return dy * slope(limited(x), sigmoid(limited(x))); }, dy, x);
}

ELEMENTWISE swiglu(number* y, const number* x, const number* gate, long long size) {
    each(size, y, [](float x, float gate) {
        float g = limited(gate);
        return x * g * sigmoid(g);
    }, x, gate);
}

ELEMENTWISE swiglu_backward(
    number* dx, number* d_gate, const number* dy, const number* x, const number* gate, long long size
) {
    each(size, Results<2>{{dx, d_gate}}, [](float (&out)[2], float dy, float x, float gate) {
        float g = limited(gate), s = sigmoid(g);
        out[0] = dy * g * s;
        out[1] = dy * x * slope(g, s);
    }, dy, x, gate);
}

// y = swiglu(x, gate) again, and d, the gradient of it, becomes that of x.
ELEMENTWISE swiglu_again(
    number* y, number* d_gate, number* d, const number* x, const number* gate, long long size
) {
    each(size, Results<3>{{y, d_gate, d}}, [](float (&out)[3], float d, float x, float gate) {
        float g = limited(gate), s = sigmoid(g);
        out[0] = x * g * s;
        out[1] = d * x * slope(g, s);
        out[2] = d * g * s;
    }, d, x, gate);
}
