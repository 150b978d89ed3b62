// relu and its square on the GPU.  In Python
//
//     y = where(x <= 0, 0, x);  dx = where(x <= 0, 0, dy)
//     y = where(x <= 0, 0, x) ** 2;  dx = where(x <= 0, 0, 2 * x * dy)
//
// NaN is not below 0: it goes through.
#include "flat.cuh"

ELEMENTWISE relu(number* y, const number* x, long long size) {
    each(size, y, [](float x) { return x <= 0 ? 0 : x; }, x);
}

ELEMENTWISE relu_backward(number* dx, const number* dy, const number* x, long long size) {
    each(size, dx, [](float dy, float x) { return x <= 0 ? 0 : dy; }, dy, x);
}

ELEMENTWISE relu_squared(number* y, const number* x, long long size) {
    each(size, y, [](float x) { return x <= 0 ? 0 : x * x; }, x);
}

ELEMENTWISE relu_squared_backward(number* dx, const number* dy, const number* x, long long size) {
    each(size, dx, [](float dy, float x) { return x <= 0 ? 0 : 2 * x * dy; }, dy, x);
}
