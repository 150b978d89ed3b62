"""AdamW: each number of the model gets a step size of its own.

Two running means are kept for every number: of its gradient, and of its gradient's square.
The step is their ratio, mean / √(mean of squares): about one learning rate where gradients
agree from batch to batch, and little where they are noise.

    m  ←  β₁ m + (1 − β₁) g
    v  ←  β₂ v + (1 − β₂) g²
    w  ←  w − lr · decay · w − lr · m̂ / (√v̂ + ε)

m̂ and v̂ are m and v divided by 1 − βᵗ: both start at zero and would lean towards it at first.
t counts the optimiser's steps.
A parameter whose first gradient comes late, when t is large, is not corrected any more: its first
step is (1 − β₁) / √(1 − β₂) learning rates long, 3.2 for 0.9 and 0.999, and where its gradients
agree some of the next are twice that.  Counting for each parameter would take a loop for each in
place of one over all.  Where that matters, give such parameters an optimiser of their own
(`Combined`), which counts from their first step.

The decay is taken from the weight itself, not through the gradient: that is the W.

Sources: Kingma & Ba, Adam (2014); Loshchilov & Hutter, Decoupled Weight Decay (2017).
"""

from typing import Any

import numpy as np

from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cuda import CudaFile
from tricycle_autograd.fused import fused_update
from tricycle_nn.optimiser import Optimiser, Parameters, check_share, flattened
from tricycle_nn.pieces import launch_on_flat_arrays

# The largest gradient whose square float32 can hold.  A larger one counts as this, so that m / √v
# is still about 1; an infinite one, or NaN, is an error, and stays visible in the weights.
LARGEST = np.float32(1.8e19)
INFINITE = np.float32(np.inf)
CHUNK = 65536  # numbers a thread takes at a time: 256 kB of each of four arrays


class AdamW(Optimiser):
    """Adam with decoupled weight decay.

    parameters     Parameters, or groups {"parameters": …, "weight_decay": …}
    learning_rate  the size of a step, about, for every number
    betas          how much of the old means each step keeps: of gradients, of their squares
    eps            keeps the division finite, so it is above 0
    weight_decay   how much of itself, times the learning rate, a weight loses each step

    Errors as for Optimiser.
    """

    moment_names = ("first_moment", "second_moment")
    bytes_per_parameter = 8

    def __init__(
        self,
        parameters: Parameters,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        check_share("beta1", betas[0])
        check_share("beta2", betas[1])
        if not eps > 0:
            raise ValueError(f"eps must be above 0, got {eps}")
        if not np.float32(eps) > 0:
            raise ValueError(
                f"eps must be above 0 in float32 too, where {eps} is 0; take a larger one, such as "
                "1e-8"
            )
        super().__init__(parameters, learning_rate, weight_decay=weight_decay)
        self.betas = betas
        self.eps = eps

    def update(self, values, gradients, *moments, scalars, **settings):
        beta1, beta2 = self.betas
        adamw_update(
            *(values, gradients, *moments, scalars),
            *(beta1, beta2, self.eps),
            **settings,
        )


@fused_update
def adamw_update(w, g, m, v, scalars, beta1, beta2, eps, weight_decay):
    """One step; w, m and v are changed in place.

    w, g, m, v   arrays of one shape: weights, gradients, running means
    scalars      see Scalars
    """
    learning_rate, grad_scale, step = scalars
    g = g * grad_scale
    g = np.where(np.isinf(g), g, np.clip(g, -LARGEST, LARGEST))
    m += (1 - beta1) * (g - m)
    v += (1 - beta2) * (g * g - v)
    m_hat = m / (1 - beta1**step)
    v_hat = v / (1 - beta2**step)
    w -= learning_rate * weight_decay * w + learning_rate * m_hat / (np.sqrt(v_hat) + eps)


@adamw_update.operation
def adamw_update_fast(run, w, g, m, v, scalars, beta1, beta2, eps, weight_decay):
    """The operation: one pass over flat arrays; arguments as for adamw_update."""
    learning_rate, grad_scale, step = scalars
    run.step(
        *flattened("adamw_update", w, g, m, v),
        np.float32(grad_scale),
        # 1 − β in float64 first: float32's nearest number to 0.999 is off by 1e-5 of 0.001.
        np.float32(1 - beta1),
        np.float32(1 - beta2),
        np.float32(learning_rate * weight_decay),
        # lr / (1 − β₁ᵗ) and 1 / √(1 − β₂ᵗ): the corrections for the start at zero.
        np.float32(learning_rate / (1 - beta1**step)),
        np.float32(1 / np.sqrt(1 - beta2**step)),
        np.float32(eps),
    )


@adamw_update.kernels("cpu")
class CPU:
    """Flat arrays, in chunks, in one pass over memory."""

    @cpu_kernel
    def step(w: Any, g, m, v, grad_scale, new1, new2, shrink, rate, correction, eps):
        """new1, new2 = 1 − β₁, 1 − β₂;  shrink = lr · decay"""
        for chunk in prange((w.size + CHUNK - 1) // CHUNK):
            i, j = chunk * CHUNK, min(w.size, (chunk + 1) * CHUNK)
            here = slice(i, j)
            adamw_chunk(
                w[here],
                g[here],
                m[here],
                v[here],
                grad_scale,
                new1,
                new2,
                shrink,
                rate,
                correction,
                eps,
            )


@adamw_update.kernels("cuda")
class GPU:
    """The same, in adamw.cu."""

    FILE = CudaFile(__file__)

    def step(w: Any, g, m, v, *numbers):
        launch_on_flat_arrays(GPU.FILE, "step", w, g, m, v, *numbers)


@cpu_function
def adamw_chunk(w, g, m, v, grad_scale, new1, new2, shrink, rate, correction, eps):
    for i in range(w.size):
        gradient = within_bounds(g[i] * grad_scale)
        m[i] += new1 * (gradient - m[i])
        v[i] += new2 * (gradient * gradient - v[i])
        # One subtraction, not w · (1 − shrink) first: a small decay would be rounded away there.
        w[i] -= shrink * w[i] + rate * m[i] / (np.sqrt(v[i]) * correction + eps)


@cpu_function
def within_bounds(gradient):
    """A finite gradient whose square is finite too; NaN and infinities as they are."""
    if LARGEST < gradient < INFINITE:
        return LARGEST
    if -INFINITE < gradient < -LARGEST:
        return -LARGEST
    return gradient
