"""Attention: each position looks back and takes what it needs.

Every position has a query q (what it looks for), a key k (what it can be found by) and a
value v (what it has to say).  It compares its query with the keys of the positions it may
see, turns the comparisons into weights that sum to 1, and takes the weighted average of
their values:

    out = softmax(scale · q·kᵀ) · v                scale = 1/√D unless given

This is done in H heads at once, each with D numbers of its own (Vaswani et al. 2017).  Keys
and values may have fewer heads than queries, G < H, each shared by H/G neighbours
("grouped-query attention", Ainslie et al. 2023): the cache of a text being written shrinks
by that factor.

A mask says what else may not be seen: the padding after a short text, say.  A position that may
see nothing gets zeros, and so do its gradients.

*Causal* attention lets no position see a later one.  Where there are more keys than queries,
S > T, the queries are the last T of S positions: the last query sees every key.

The kernels (attention_cpu.py, attention_cuda.py) never hold the (T, S) table of weights.  Kept for
the backward pass: q, k, v, the result, and log Σ exp(scores) for each query and head.

    attention                q, k, v apart
    packed_attention         q, k, v side by side, as one projection makes them
    CausalSelfAttention      the layer
"""

import operator
from typing import Any

import numpy as np

from tricycle_autograd import repeat, split, where
from tricycle_autograd.arrays import kernel_inputs, rows_contiguous
from tricycle_autograd.devices import array_module
from tricycle_autograd.fused import fused
from tricycle_autograd.modes import count_flops, current
from tricycle_autograd.tensor import Tensor, as_tensor, record, wrap
from tricycle_nn import attention_cpu, attention_cuda, attention_one_query
from tricycle_nn.dropout import Dropout
from tricycle_nn.linear import Linear
from tricycle_nn.module import Module
from tricycle_nn.rms_norm import RMSNorm
from tricycle_nn.rotary import RotaryScaling, rotary
from tricycle_nn.softmax import softmax


@fused
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool = True,
    scale: float | None = None,
    mask: Any = None,
    window: int | None = None,
) -> Tensor:
    """Let each query take a weighted average of the values whose keys fit it.

    q        (B, H, T, D)
    k        (B, G, S, D), where G divides H; query head h reads key head h // (H/G)
    v        (B, G, S, E)
    causal   query t sees keys 0 … S - T + t, otherwise all
    scale    what scores are multiplied by; 1/√D if None
    mask     of a shape that stretches to (B, H, T, S): booleans, true where a query may look, or
             numbers that are added to the scores; a tensor or an array, or None
    window   causal and without a mask: a query sees its own key and the window - 1 before it, no
             more ("sliding window"; Beltagy et al., Longformer, 2020); None for all
    returns  (B, H, T, E); zeros where a query may look nowhere

    Raises ValueError for shapes that do not fit, and for causal attention with S < T; TypeError
    where kernels run and the mask wants a gradient, which only the definition has.
    """
    scale = _check(q, k, v, causal, scale, mask, window)
    group = q.shape[1] // k.shape[1]
    k, v = repeat(k, group, axis=1), repeat(v, group, axis=1)  # (B, H, S, D)
    scores = (q * scale) @ k.swapaxes(-1, -2)  # (B, H, T, S)
    if causal:
        scores = where(_may_see(q, k, window), scores, -np.inf)
    if mask is not None:
        mask = as_tensor(mask)
        scores = where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    return softmax(scores) @ v


def _may_see(q, k, window=None):
    """(T, S) of booleans: query t is at position S - T + t, and sees up to itself."""
    T, S, tri = q.shape[2], k.shape[2], array_module(q.array).tri
    seen = tri(T, S, S - T, dtype=bool)
    return seen if window is None else seen & ~tri(T, S, S - T - window, dtype=bool)


@attention.operation
def attention_fast(run, q, k, v, causal=True, scale=None, mask=None, window=None):
    """`attention` by the kernels of a device: a window of all keys hides nothing."""
    scale = _check(q, k, v, causal, scale, mask, window)
    if window is not None and operator.index(window) >= k.shape[2]:
        window = None  # it hides nothing
    _check_that_it_knows(run, k, v, mask is not None or window is not None)
    inputs = kernel_inputs("attention", q, k, v, layout=rows_contiguous)
    more: dict[str, Any] = {} if window is None else {"window": window}
    if mask is not None:
        more["mask"] = _added_to_scores(mask, (*q.shape[:3], k.shape[2]))
    out, log_sums = run.forward(*inputs, causal, scale, **more)
    _count_products(2, q, k, causal, window)

    def backward(dy):
        _count_products(5, inputs[0], inputs[1], causal, window)
        dy = rows_contiguous(dy)
        return run.backward(dy, *inputs, out, log_sums, causal, scale, **more)

    return record(out, (q, k, v), backward)


MASKS, OTHER_WIDTHS = "a mask or a window", "values of another width than keys"


def _check_that_it_knows(run, k, v, hides):
    """Raise ValueError for what a device's kernels have not been taught: see CPU.knows."""
    wanted = [MASKS] * hides + [OTHER_WIDTHS] * (k.shape[3] != v.shape[3])
    for what in wanted:
        if what not in getattr(run, "knows", ()):
            raise ValueError(
                f"attention's kernels on {k.device} do not know {what}; move the tensors with "
                '.to("cpu"), or run the readable definition: with definitions_only(): ...'
            )


def _added_to_scores(mask, shape):
    """A mask as float32 numbers to add, seen in the shape of the scores."""
    if isinstance(mask, Tensor) and mask.requires_grad:
        raise TypeError(
            "attention's kernels have no gradient for a mask; give it mask.detach(), or run the "
            "readable definition: with definitions_only(): ..."
        )
    array = as_tensor(mask).array
    xp = array_module(array)
    if array.dtype == bool:
        array = xp.where(array, np.float32(0), np.float32(-np.inf))
    else:
        array = array.astype(np.float32)  # a copy: the caller may fill the mask anew
    # As broadcast_to, but writeable: numba has another type for what is not.
    array = array.reshape((1,) * (4 - array.ndim) + array.shape)
    strides = [step if n > 1 else 0 for n, step in zip(array.shape, array.strides, strict=True)]
    return xp.lib.stride_tricks.as_strided(array, shape, strides)


@attention.kernels("cpu")
class CPU:
    knows = (MASKS, OTHER_WIDTHS)

    def forward(q: Any, k, v, causal, scale, mask=None, window=None):
        if q.shape[2] != 1 or mask is not None:
            return attention_cpu.forward(q, k, v, causal, scale, mask, window)
        if window is not None:  # the last keys are all that the last query sees
            k, v = k[:, :, -window:], v[:, :, -window:]
        return attention_one_query.forward(q, k, v, scale)

    backward = attention_cpu.backward


attention.kernels("cuda")(attention_cuda)


def _count_products(products, q, k, causal, window=None):
    """Count the FLOPs of this many query-key products, over the visible pairs only."""
    if current().observer is not None:
        B, H, T, D = q.shape
        S = k.shape[2]
        pairs = T * S - (T * (T - 1) // 2 if causal else 0)
        if window is not None:  # query t sees S - T + t + 1 keys without it
            hidden = max(0, S - window)
            pairs -= hidden * (hidden + 1) // 2 - max(0, hidden - T) * (hidden - T + 1) // 2
        count_flops(products * 2 * B * H * D * pairs)


@fused
def packed_attention(
    qkv: Tensor,
    n_heads: int,
    n_key_value_heads: int | None = None,
    causal: bool = True,
    scale: float | None = None,
) -> Tensor:
    """Attention among T positions whose queries, keys and values lie side by side.

    qkv      (B, T, (H + 2G)·D): for each position H queries, then G keys, then G values
    n_heads, n_key_value_heads   H, and G (H if None)
    returns  (B, T, H·D)

    The kernels read and write the heads where they lie: no transposing, no copies.
    Raises ValueError for widths that do not divide.
    """
    q, k, v = split_heads(qkv, n_heads, n_key_value_heads)
    return heads_together(attention(q, k, v, causal, scale))


@packed_attention.operation
def packed_attention_fast(run, qkv, n_heads, n_key_value_heads=None, causal=True, scale=None):
    packed = kernel_inputs("packed_attention", qkv, layout=rows_contiguous)
    q, k, v = split_heads(packed, n_heads, n_key_value_heads)
    scale = _check(q, k, v, causal, scale)
    out, log_sums = run.forward(q, k, v, causal, scale)
    _count_products(2, q, k, causal)

    def backward(dy):
        _count_products(5, q, k, causal)
        dy = heads_apart(rows_contiguous(dy), n_heads)
        return (run.backward(dy, q, k, v, out, log_sums, causal, scale),)

    return record(heads_together(out), (qkv,), backward)


@packed_attention.kernels("cpu")
class PackedCPU:
    forward = attention_cpu.forward
    backward = attention_cpu.packed_backward


@packed_attention.kernels("cuda")
class PackedGPU:
    forward = attention_cuda.forward
    backward = attention_cuda.packed_backward


# ---- Heads: the same for tensors and for arrays, which they look at without copying ----


def heads_apart(x, n_heads):
    """(B, T, H·D) seen as (B, H, T, D)."""
    B, T, C = x.shape
    return x.reshape(B, T, n_heads, C // n_heads).transpose(0, 2, 1, 3)


def heads_together(x):
    """(B, H, T, D) joined to (B, T, H·D)."""
    B, H, T, D = x.shape
    return x.transpose(0, 2, 1, 3).reshape(B, T, H * D)


def split_heads(qkv, n_heads, n_key_value_heads=None):
    """(B, T, (H + 2G)·D) seen as q (B, H, T, D), k (B, G, T, D) and v (B, G, T, D)."""
    H = n_heads
    G = H if n_key_value_heads is None else n_key_value_heads
    if min(H, G) < 1:
        raise ValueError(f"packed_attention needs at least one head, got {H} and {G}")
    if qkv.ndim != 3 or qkv.shape[2] % (H + 2 * G):
        raise ValueError(
            f"packed_attention with {H} heads and {G} key-value heads expected shape "
            f"(batch, time, a multiple of {H + 2 * G}), got {qkv.shape}"
        )
    heads = heads_apart(qkv, H + 2 * G)
    if isinstance(heads, Tensor):
        return split(heads, [H, H + G], axis=1)
    return heads[:, :H], heads[:, H : H + G], heads[:, H + G :]


def _check(q, k, v, causal, scale, mask=None, window=None):
    """Raise ValueError unless the shapes fit together; the scale to use."""
    shapes = f"q {q.shape}, k {k.shape} and v {v.shape}"
    if not q.ndim == k.ndim == v.ndim == 4:
        raise ValueError(f"attention expected (batch, heads, time, head size), got {shapes}")
    if k.shape[:3] != v.shape[:3] or (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3]):
        raise ValueError(
            "attention expected keys with the queries' batch and head size, and a value of any "
            f"width for each, got {shapes}"
        )
    H, T, G, S = q.shape[1], q.shape[2], k.shape[1], k.shape[2]
    if q.shape[3] == 0:
        raise ValueError(f"attention expected heads with at least one number, got {shapes}")
    if G == 0 or H % G:
        raise ValueError(f"{H} query heads cannot share {G} key-value heads evenly, got {shapes}")
    if (T if causal else 1) > S:
        raise ValueError(f"attention expected a key for each query to see, got {shapes}")
    scores = (*q.shape[:3], S)
    if mask is not None and not _stretches(np.shape(mask), scores):
        raise ValueError(
            f"attention expected a mask that stretches to (batch, heads, queries, keys), {scores}, "
            f"got {np.shape(mask)}"
        )
    if mask is not None and np.dtype(getattr(mask, "dtype", bool)).kind in "iu":
        raise TypeError(
            "attention expected a mask of booleans, true where a query may look, or of floating "
            f"point numbers to add to the scores, got {mask.dtype}; give mask.astype(bool)"
        )
    if window is not None and (window < 1 or not causal or mask is not None):
        raise ValueError(
            f"attention expected a window of 1 or more, causal and without a mask, got {window}, "
            f"causal {causal} and {'no' if mask is None else 'a'} mask"
        )
    return float(q.shape[3]) ** -0.5 if scale is None else float(scale)


def _stretches(shape, to):
    pairs = zip(shape[::-1], to[::-1], strict=False)
    return len(shape) <= len(to) and all(n in (1, m) for n, m in pairs)


# ---- The layer ----


class CausalSelfAttention(Module):
    """Positions of one sequence reading from themselves and the ones before.

    width               C, divisible by n_heads unless head_dim is given
    n_key_value_heads   heads of keys and values, a divisor of n_heads (n_heads if None)
    dropout             share of the result's numbers dropped while training.  The attention
                        weights themselves are never dropped: they are never stored
    bias                whether the packed projection adds a bias
    qk_norm             normalise each query and key (RMSNorm) before they meet
    rotary_theta        give positions by rotary turns of this base; None for no positions
    eps                 for the norms of qk_norm
    head_dim            D, the numbers in a head; width / n_heads if None
    rotary_scaling      slower rotary turns, for longer texts
    window              how many positions, itself among them, each sees at most; None for all
    projection_bias     whether the last projection adds a bias; as `bias` says if None

    One packed projection makes all queries, keys and values: `query_key_value`, whose outputs
    are (H + 2G) heads side by side.  `projection` mixes what the heads have found.
    """

    def __init__(
        self,
        width: int,
        n_heads: int,
        n_key_value_heads: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        qk_norm: bool = False,
        rotary_theta: float | None = None,
        eps: float = 1e-5,
        head_dim: int | None = None,
        rotary_scaling: RotaryScaling | None = None,
        window: int | None = None,
        projection_bias: bool | None = None,
        *,
        rng: np.random.Generator,
    ):
        G = n_heads if n_key_value_heads is None else n_key_value_heads
        fits = min(width, n_heads, G) >= 1 and n_heads % G == 0
        if not fits or (head_dim is None and width % n_heads):
            raise ValueError(
                "width must be a multiple of n_heads, and n_heads of n_key_value_heads, got "
                f"width {width}, {n_heads} heads and {G} key-value heads"
            )
        D = width // n_heads if head_dim is None else head_dim
        self.n_heads, self.n_key_value_heads = n_heads, G
        self.qk_norm, self.rotary_theta, self.rotary_scaling = qk_norm, rotary_theta, rotary_scaling
        self.window = window
        self.query_key_value = Linear(width, (n_heads + 2 * G) * D, bias, rng=rng)
        if qk_norm:
            self.query_norm, self.key_norm = RMSNorm(D, eps), RMSNorm(D, eps)
        bias = bias if projection_bias is None else projection_bias
        self.projection = Linear(n_heads * D, width, bias, rng=rng)
        self.dropout = Dropout(dropout, rng=rng)

    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        """(B, T, C) -> (B, T, C).

        cache   None, or what is known of earlier positions, for writing a text one token at a
                time: `cache.length` positions, and `cache.append(k, v)`, which takes the arrays
                (B, G, T, D) of the new positions and returns those of all, (B, G, length + T, D).
                No gradients flow into a cache: use it under no_grad().
        """
        qkv = self.query_key_value(x)  # (B, T, (H + 2G)·D)
        if cache is not None:
            y = self._with_cache(qkv, cache)
        elif not self.qk_norm and self.rotary_theta is None and self.window is None:
            y = packed_attention(qkv, self.n_heads, self.n_key_value_heads)
        else:
            q, k, v = split_heads(qkv, self.n_heads, self.n_key_value_heads)
            q, k = self._prepare(q, k, start=0)
            y = heads_together(attention(q, k, v, window=self.window))
        return self.dropout(self.projection(y))

    def _with_cache(self, qkv, cache):
        """What the new positions read from all; nothing is recorded, so arrays are enough."""
        if qkv.requires_grad:
            raise RuntimeError(
                "a cache keeps arrays, through which no gradient flows; to write text with it, run "
                "the model under no_grad()"
            )
        q, k, v = map(wrap, split_heads(qkv.array, self.n_heads, self.n_key_value_heads))
        q, k = self._prepare(q, k, start=cache.length)
        keys, values = cache.append(k.array, v.array)
        window = self.window
        if window is not None and q.shape[2] == 1:  # the last keys are all that it sees
            keys, values, window = keys[:, :, -window:], values[:, :, -window:], None
        found = attention(q, wrap(keys), wrap(values), window=window)
        return wrap(heads_together(found.array))

    def _prepare(self, q, k, start):
        """Normalise and turn queries and keys, if this layer does; the first is at `start`."""
        if self.qk_norm:
            q, k = self.query_norm(q), self.key_norm(k)
        if self.rotary_theta is not None:
            positions = np.arange(start, start + q.shape[2])
            q = rotary(q, positions, self.rotary_theta, scaling=self.rotary_scaling)
            k = rotary(k, positions, self.rotary_theta, scaling=self.rotary_scaling)
        return q, k
