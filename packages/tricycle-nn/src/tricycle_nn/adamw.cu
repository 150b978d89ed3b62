// AdamW on the GPU, flat.  The maths is told in adamw.py; in Python
//
//     g = g * grad_scale
//     m += new1 * (g - m);  v += new2 * (g * g - v)
//     w -= shrink * w + rate * m / (sqrt(v) * correction + eps)
#include "flat.cuh"

ELEMENTWISE step(
    number* w, const number* g, number* m, number* v, float grad_scale, float new1, float new2,
    float shrink, float rate, float correction, float eps, long long size
) {
    each(size, Results<3>{{w, m, v}}, [=](float (&out)[3], float w, float g, float m, float v) {
        g *= grad_scale;
        // within_bounds in adamw.py: a finite gradient whose square is finite too
        if (g > 1.8e19f && g <= 3.4028234e38f) g = 1.8e19f;
        if (g < -1.8e19f && g >= -3.4028234e38f) g = -1.8e19f;
        m += new1 * (g - m);
        v += new2 * (g * g - v);
        out[0] = w - (shrink * w + rate * m / (sqrtf(v) * correction + eps));
        out[1] = m, out[2] = v;
    }, w, g, m, v);
}
