"""Dropout: while training, set random numbers to zero, so that nothing relies on one of them.

    y = x · 1/(1 − p) with probability 1 − p, else 0

The factor keeps the mean the same, so that in use, where nothing is dropped, nothing has to be
corrected.  The gradient passes where the number passed:  dx = dy · 1/(1 − p), else 0.

Which numbers are dropped is a pure function of four integers: seed, step, stream and the
number's own index, scrambled by Philox (philox.py).  So nothing is stored for the backward pass,
which works the same mask out again; any number of threads gives the same bits; and a run that
is resumed at step N drops what it would have dropped.

One Philox block serves four numbers.  Numbers are taken in groups of 64, which share 16 blocks:

    number of the group     0 … 15    16 … 31   32 … 47   48 … 63
    word of the block          0         1         2         3

so that a kernel makes the words for 16 neighbours at once, in one vector.

Sources: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting
(2014); Salmon et al. (2011) for the random numbers.

This file: the definition, the operation, its CPU kernel, the layer.  The GPU's kernel is in
dropout.cu.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from tricycle_autograd import where
from tricycle_autograd.arrays import contiguous, empty_like, kernel_inputs
from tricycle_autograd.cpu import cpu_function, cpu_kernel, prange
from tricycle_autograd.cuda import CudaFile, blocks_for
from tricycle_autograd.devices import move
from tricycle_autograd.fused import fused
from tricycle_autograd.recompute import same_again
from tricycle_autograd.tensor import Tensor, record, wrap
from tricycle_nn.module import Module
from tricycle_nn.philox import high_word, low_word, philox, philox_block
from tricycle_nn.pieces import FLAT_THREADS, PIECE, n_pieces, numbers_at_once

GROUP = 64  # numbers that share LANES blocks
LANES = 16


@fused
def dropout(x: Tensor, p: float, *, seed: int, step: int, stream: int) -> Tensor:
    """Set numbers of x to zero with probability p, and multiply the others by 1/(1 − p).

    p       from 0 (nothing is dropped) to 1 (everything is)
    seed    from 0 to 2⁶⁴ − 1: fixed for a run
    step    from 0 to 2³² − 1: which mask of the run; use one mask twice and it teaches less
    stream  from 0 to 2³² − 1: tells apart masks with the same seed and step

    Raises ValueError for numbers out of these ranges.
    """
    _check_settings(p, seed, step, stream)
    if p == 0:
        return x
    keep = wrap(move(kept(x.shape, p, seed, step, stream), x.device))
    return where(keep, x * _scale(p), 0.0)


def kept(shape: tuple[int, ...], p: float, seed: int, step: int, stream: int) -> np.ndarray:
    """The mask, as booleans: True where a number is kept."""
    size = int(np.prod(shape))
    groups = -(-size // GROUP)
    blocks = np.arange(groups * LANES, dtype=np.uint64).reshape(groups, LANES)
    counter = (blocks & np.uint64(0xFFFFFFFF), blocks >> np.uint64(32), step, stream)
    words = np.stack(philox(counter, (seed & 0xFFFFFFFF, seed >> 32)), axis=1)  # (groups, 4, 16)
    return (words.reshape(-1)[:size] >= _threshold(p)).reshape(shape)


@dropout.operation
def dropout_fast(run, x, p, *, seed, step, stream):
    _check_settings(p, seed, step if isinstance(step, int | float | np.number) else 0, stream)
    if p == 0:
        return x

    def drop(array):
        return run.drop(array, p, seed, step, stream)

    def backward(dy):
        return (drop(contiguous(dy)),)

    return record(drop(kernel_inputs("dropout", x)), (x,), backward)


@dropout.kernels("cpu")
class CPU:
    def drop(x: Any, p, seed, step, stream):
        """x · 1/(1 − p) where the random word is at least the threshold for p, else 0."""
        words = np.uint64(seed), np.uint32(step), np.uint32(stream)
        y = np.empty(x.shape, np.float32)
        drop_pieces(y.reshape(-1), x.reshape(-1), *words, _threshold(p), np.float32(_scale(p)))
        return y


@dropout.kernels("cuda")
class GPU:
    """The same numbers are dropped: dropout.cu."""

    FILE = CudaFile(__file__)

    def drop(x: Any, p, seed, step, stream):
        """As on the CPU; the step may be one number in an array of the GPU's, of uint32."""
        y = empty_like(x)
        number, place = (step, None) if isinstance(step, int | np.integer) else (0, step)
        words = np.uint64(seed), np.uint32(number), place, np.uint32(stream), _threshold(p)
        in_a_block = FLAT_THREADS * numbers_at_once(x.dtype) * GROUP // LANES
        kernel = GPU.FILE.get("drop", x.dtype)
        grid = (blocks_for(x.size, in_a_block),)
        kernel(grid, (FLAT_THREADS,), y, x, *words, np.float32(_scale(p)), np.int64(x.size))
        return y


@cpu_kernel
def drop_pieces(y, x, seed, step, stream, threshold, scale):
    """y = x · scale where the random word is at least the threshold, else 0."""
    for k in prange(n_pieces(x.size)):
        words = np.empty(GROUP, np.uint32)
        for start in range(k * PIECE, min(x.size, (k + 1) * PIECE), GROUP):
            group = slice(start, min(x.size, start + GROUP))
            draw_words(words, start // (GROUP // LANES), seed, step, stream)
            drop_group(y[group], x[group], words, threshold, scale)


@cpu_function
def draw_words(words, first_block, seed, step, stream):
    """words (GROUP,): the random words for one group."""
    k0, k1 = low_word(seed), high_word(seed)
    for lane in range(LANES):
        block = np.uint64(first_block + lane)
        w0, w1, w2, w3 = philox_block(low_word(block), high_word(block), step, stream, k0, k1)
        words[lane] = w0
        words[lane + LANES] = w1
        words[lane + 2 * LANES] = w2
        words[lane + 3 * LANES] = w3


@cpu_function
def drop_group(y, x, words, threshold, scale):
    # Not in the loop of draw_words: with x and y in it too, that would not vectorise (10x slower).
    for i in range(x.size):
        y[i] = x[i] * scale if words[i] >= threshold else ZERO


ZERO = np.float32(0)


def _threshold(p):
    """Random words below it, a share p of all 2³² of them, mean "drop"."""
    return np.uint32(min(round(p * 2**32), 2**32 - 1))


def _scale(p):
    return 1 / (1 - p) if p < 1 else 0.0


def _check_settings(p, seed, step, stream):
    if not 0 <= p <= 1:
        raise ValueError(f"dropout drops a share of the numbers between 0 and 1, got p = {p}")
    for name, value, bits in (("seed", seed, 64), ("step", step, 32), ("stream", stream, 32)):
        if not 0 <= value < 2**bits:
            raise ValueError(f"dropout needs a {name} from 0 to 2**{bits} - 1, got {value}")


class Dropout(Module):
    """`dropout` while training; nothing at all after `eval()`.

    p       the share of numbers to drop
    rng     where the seed is drawn from, so that layers made one after another differ
    stream  tells apart copies of one model that train together, on different data

    `step` counts the forward passes made while training, so that no two use the same mask.  Within
    `dropout_off()` nothing is dropped or counted.
    """

    def __init__(self, p: float, *, rng: np.random.Generator, stream: int = 0):
        seed = int(rng.integers(2**63))
        _check_settings(p, seed, 0, stream)
        self.p = p
        self.seed = seed
        self.stream = stream
        self.step = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or _off.get():
            return x
        step = _placed.get()
        if step is None:
            step = same_again(self._next_step)
        return dropout(x, self.p, seed=self.seed, step=step, stream=self.stream)

    def _next_step(self):
        self.step += 1
        return self.step - 1


# Whether layers let everything through, in this thread, whatever their mode.
_off: ContextVar[bool] = ContextVar("dropout_off", default=False)


@contextmanager
def dropout_off() -> Iterator[None]:
    """Run a block in which dropout layers let everything through, as after `eval()`.

    For this thread only: a model that is trained in one can write in another meanwhile.
    """
    before = _off.set(True)
    try:
        yield
    finally:
        _off.reset(before)


# One number on the GPU, uint32, that is the step of every layer in this thread; or None.
_placed: ContextVar[Any] = ContextVar("placed_dropout_step", default=None)


@contextmanager
def dropout_step_on_gpu(step: Any) -> Iterator[None]:
    """Run a block in which layers read their step from the GPU's memory, and count nothing.

    step  one number there, uint32: it may change between the runs of a step that is captured
    """
    before = _placed.set(step)
    try:
        yield
    finally:
        _placed.reset(before)


def set_dropout_step(model: Module, step: int) -> None:
    """Let every dropout in a model go on as after `step` forward passes of training.

    With the same seeds, a run that is resumed like this drops the same numbers as one that was
    never interrupted.
    """
    for module in model.modules():
        if isinstance(module, Dropout):
            module.step = step
