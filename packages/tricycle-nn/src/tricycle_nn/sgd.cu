// Stochastic gradient descent on the GPU, flat.  The maths is told in sgd.py; in Python
//
//     g = g * grad_scale + decay * w
//     u = momentum * u + g
//     w -= learning_rate * (g + momentum * u if nesterov else u)
#include "flat.cuh"

ELEMENTWISE step(
    number* w, const number* g, number* u, float grad_scale, float learning_rate, float momentum,
    float decay, int nesterov, long long size
) {
    each(size, Results<2>{{w, u}}, [=](float (&out)[2], float w, float g, float u) {
        g = g * grad_scale + decay * w;
        u = momentum * u + g;
        out[0] = w - learning_rate * (nesterov ? g + momentum * u : u);
        out[1] = u;
    }, w, g, u);
}
