"""Steps made for trial, with random tokens: what they take in time and in memory.

On a GPU the time ends when it has finished, and the memory is what cupy's pool had to take.
"""

import statistics
import time
import tracemalloc

import numpy as np

from tricycle_autograd import gpu
from tricycle_gpt.model import GPT
from tricycle_nn import gradient_norm, scale_for_norm
from tricycle_nn.optimiser import AnyOptimiser

TIMED = 5  # batches


def run_batch(network: GPT, windows: int) -> None:
    """Forward and backward over random tokens."""
    shape = (windows, network.config.context_window + 1)
    ids = np.random.default_rng(0).integers(0, network.config.vocab_size, shape)
    network.loss(ids[:, :-1], ids[:, 1:]).backward()


def peak_of_batch(network: GPT, windows: int) -> int:
    """Bytes of arrays that a batch holds at its fullest moment, on the model's device."""
    run_batch(network, windows)  # kernels are loaded, and the gradients are there
    if is_on_gpu(network):
        gpu.give_back_gpu_memory()
        before = gpu.held_bytes()
        run_batch(network, windows)
        return gpu.held_bytes() - before
    tracemalloc.start()
    try:
        run_batch(network, windows)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def time_of_step(
    network: GPT, optimiser: AnyOptimiser, windows: int, micro_batches: int, ranks: int
) -> float:
    """Seconds: some batches, and one rank's share of the optimiser's move."""
    batch = statistics.median(time_of_batch(network, windows) for _ in range(TIMED))
    time_of_move(network, optimiser)  # which loads its kernels
    move = time_of_move(network, optimiser)
    optimiser.zero_grad()
    return move / ranks + batch * micro_batches


def time_of_batch(network: GPT, windows: int) -> float:
    """Seconds."""
    began = time.perf_counter()
    run_batch(network, windows)
    finish(network)
    return time.perf_counter() - began


def time_of_move(network: GPT, optimiser: AnyOptimiser) -> float:
    """Seconds."""
    began = time.perf_counter()
    optimiser.step(grad_scale=scale_for_norm(gradient_norm(network.parameters()), 1.0))
    finish(network)
    return time.perf_counter() - began


def is_on_gpu(network: GPT) -> bool:
    """Whether a model's parameters are."""
    return network.parameters()[0].device == "cuda"


def finish(network: GPT) -> None:
    """Wait for a model's GPU, if it is on one: it runs behind the program."""
    if is_on_gpu(network):
        gpu.finish()
