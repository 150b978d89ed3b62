"""Stochastic gradient descent: a step against the gradient, perhaps with momentum.

    g  ←  g + decay · w
    u  ←  momentum · u + g
    w  ←  w − lr · u                    or, Nesterov's:   w  ←  w − lr · (g + momentum · u)

With momentum the steps of the past fade instead of stopping: a ball that rolls.  Nesterov's
version looks one step ahead.  Source: Sutskever et al., "On the importance of initialization
and momentum" (2013), in the form that PyTorch uses.
"""

from typing import Any

import numpy as np

from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cuda import CudaFile
from tricycle_autograd.fused import fused_update
from tricycle_nn.optimiser import Optimiser, Parameters, check_share, flattened
from tricycle_nn.pieces import launch_on_flat_arrays

CHUNK = 65536  # numbers a thread takes at a time


class SGD(Optimiser):
    """Stochastic gradient descent, with momentum if asked for.

    parameters     Parameters, or groups {"parameters": …, "weight_decay": …}
    learning_rate  how far to go along the gradient
    momentum       how much of the last step's velocity is kept, below 1
    nesterov       look ahead along the velocity (needs momentum)
    weight_decay   how much of the weight is added to its gradient

    Errors as for Optimiser; ValueError for nesterov without momentum.
    """

    moment_names = ("velocity",)
    bytes_per_parameter = 4

    def __init__(
        self,
        parameters: Parameters,
        learning_rate: float = 1e-2,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ):
        check_share("momentum", momentum)
        if nesterov and momentum == 0:
            raise ValueError("nesterov looks ahead along the momentum: give a momentum above 0")
        super().__init__(parameters, learning_rate, weight_decay=weight_decay)
        self.momentum = momentum
        self.nesterov = nesterov

    def update(self, values, gradients, *moments, scalars, **settings):
        sgd_update(
            *(values, gradients, *moments, scalars),
            momentum=self.momentum,
            nesterov=self.nesterov,
            **settings,
        )


@fused_update
def sgd_update(w, g, u, scalars, momentum=0.0, nesterov=False, weight_decay=0.0):
    """One step; w and u are changed in place.

    w, g, u   arrays of one shape: weights, gradients, velocities
    scalars   see Scalars
    """
    learning_rate, grad_scale, _ = scalars
    g = g * grad_scale + weight_decay * w
    u *= momentum
    u += g
    w -= learning_rate * (g + momentum * u if nesterov else u)


@sgd_update.operation
def sgd_update_fast(run, w, g, u, scalars, momentum=0.0, nesterov=False, weight_decay=0.0):
    learning_rate, grad_scale, _ = scalars
    run.step(
        *flattened("sgd_update", w, g, u),
        np.float32(grad_scale),
        np.float32(learning_rate),
        np.float32(momentum),
        np.float32(weight_decay),
        nesterov,
    )


@sgd_update.kernels("cpu")
class CPU:
    """Flat arrays, in chunks."""

    @cpu_kernel
    def step(w: Any, g, u, grad_scale, learning_rate, momentum, decay, nesterov):
        for chunk in prange((w.size + CHUNK - 1) // CHUNK):
            i, j = chunk * CHUNK, min(w.size, (chunk + 1) * CHUNK)
            sgd_chunk(w[i:j], g[i:j], u[i:j], grad_scale, learning_rate, momentum, decay, nesterov)


@sgd_update.kernels("cuda")
class GPU:
    """The same, in sgd.cu."""

    FILE = CudaFile(__file__)

    def step(w: Any, g, u, *numbers):
        *floats, nesterov = numbers
        launch_on_flat_arrays(GPU.FILE, "step", w, g, u, *floats, np.int32(nesterov))


@cpu_function
def sgd_chunk(w, g, u, grad_scale, learning_rate, momentum, decay, nesterov):
    for i in range(w.size):
        gradient = g[i] * grad_scale + decay * w[i]
        u[i] = momentum * u[i] + gradient
        move = gradient + momentum * u[i] if nesterov else u[i]
        w[i] -= learning_rate * move
