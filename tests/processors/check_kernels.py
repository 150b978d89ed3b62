"""Is what kernels compute right on this processor?  A line for each check: `name digest`.

    python tests/processors/check_kernels.py [NAME ...]        all checks, or these

Each result is compared with a definition in float64, the tokeniser's with the lesson in plain
Python (merges.py).  A digest is that of all the bits of a check's results: two processes that ran
the same machine code print the same lines.  Exit status 1, and a line for each fault, when a
result is wrong.

Everything is small, for most of the time goes into compiling: about 60 kernels.

CHECK_KERNELS_PYTHON   the program that compiles, where it is not the interpreter that runs this:
                       one that starts an emulator
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator

import numpy as np

from tricycle_autograd import Tensor
from tricycle_autograd.fused import definitions_only
from tricycle_autograd.gemm import product
from tricycle_autograd.testing import value_and_gradients
from tricycle_bpe import Tokeniser, merges
from tricycle_bpe.splitting import PATTERNS, compile_pattern
from tricycle_nn import (
    SGD,
    AdamW,
    Muon,
    attention,
    cross_entropy,
    dropout,
    embedding,
    gelu,
    gradient_norm,
    layer_norm,
    linear,
    linear_cross_entropy,
    log_softmax,
    packed_attention,
    relu,
    relu_squared,
    rms_norm,
    rotary,
    silu,
    softmax,
    swiglu,
    token_scores,
)
from tricycle_nn.activated_linear import gelu_linear, swiglu_linear
from tricycle_nn.quantised import QuantisedMatrix

NEAR = 2e-5  # of the largest number of an array
rng = np.random.default_rng(0)  # for each check anew: its digest depends on no other


def draw(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def near(actual: np.ndarray, wanted: np.ndarray, what: str, within: float = NEAR) -> np.ndarray:
    """The actual array; raises AssertionError unless it is near what is wanted."""
    scale = float(np.abs(wanted).max(initial=0.0)) or 1.0
    np.testing.assert_allclose(actual, wanted, within, within * scale, err_msg=what)
    return actual


# ---- the matrix product ----

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16, 21, 33, 57)  # each height of a tile, edges
COLUMNS = (1, 2, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 50, 70)
SHAPES = [
    *((M, 13, 33) for M in ROWS),
    *((9, 20, N) for N in COLUMNS),
    *((14, K, 32) for K in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 70)),
    (64, 64, 64),
    (100, 1030, 130),  # more than one depth
    (30, 40, 1100),  # more than one block of columns
    (260, 70, 200),  # in pieces
    (768, 128, 384),
    (1, 600, 2100),  # one row, in pieces
]
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "by rows": np.ascontiguousarray,
    "by columns": np.asfortranarray,
    "apart": lambda x: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
}


def products(of_a: str, of_b: str) -> Iterator[np.ndarray]:
    """Products of every shape, with a and b in memory in these ways; into rows and columns."""
    for M, K, N in SHAPES:
        a, b, before = draw(M, K), draw(K, N), draw(M, N)
        wanted = a.astype(np.float64) @ b
        for order in "CF":
            for add in (False, True):
                out = np.array(before, order=order)
                product(out, LAYOUTS[of_a](a), LAYOUTS[of_b](b), add)
                what = f"({M}, {K}) times ({K}, {N}) into {order}, add {add}"
                yield near(out, wanted + before * add, what)


# ---- operations ----


def operation(function: Callable[..., Tensor], *arrays: np.ndarray) -> Iterator[np.ndarray]:
    """The value and all gradients of a function of tensors, beside those of its definition."""
    precise = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in arrays]
    with definitions_only():
        shape = function(*[Tensor(x) for x in precise]).shape
        dy = rng.standard_normal(shape)
        wanted, d_wanted = value_and_gradients(function, precise, dy)
    value, gradients = value_and_gradients(function, list(arrays), dy.astype(np.float32))
    yield near(value, wanted, "value")
    for i, (gradient, d) in enumerate(zip(gradients, d_wanted, strict=True)):
        if d is not None:
            yield near(gradient, d, f"gradient of argument {i}")


IDS = rng.integers(0, 40, (3, 11))
TARGETS = np.where(IDS % 7 == 3, -100, IDS)
SHAPE_OF_HEADS = {"one query": (1, 70), "many queries": (70, 90), "few": (5, 5)}

OPERATIONS: dict[str, tuple] = {
    "softmax": (softmax, 3 * draw(5, 37)),
    "softmax along rows": (lambda x: softmax(x, axis=0), 3 * draw(5, 37)),
    "log_softmax": (log_softmax, 3 * draw(5, 37)),
    "layer_norm": (layer_norm, draw(5, 3, 77), draw(77), draw(77)),
    "rms_norm": (rms_norm, draw(5, 3, 77), draw(77)),
    "gelu": (gelu, 3 * draw(3, 77)),
    "gelu exact": (lambda x: gelu(x, "none"), 3 * draw(3, 77)),
    "relu": (relu, draw(3, 77)),
    "relu_squared": (relu_squared, draw(3, 77)),
    "silu": (silu, 3 * draw(3, 77)),
    "swiglu": (swiglu, 3 * draw(3, 77), draw(3, 77)),
    "linear": (linear, draw(5, 9, 37), draw(37, 50), draw(50)),
    "linear of one row": (linear, draw(1, 37), draw(37, 50), draw(50)),
    "gelu_linear": (gelu_linear, draw(5, 9, 37), draw(37, 50), draw(50)),
    "swiglu_linear": (swiglu_linear, draw(5, 9, 37), draw(5, 9, 37), draw(37, 50)),
    "token_scores": (token_scores, draw(5, 9, 37), draw(60, 37)),
    "embedding": (lambda table: embedding(IDS, table), draw(40, 77)),
    "rotary": (lambda x: rotary(x, np.arange(9)), draw(2, 3, 9, 16)),
    "rotary interleaved": (lambda x: rotary(x, np.arange(9), interleaved=True), draw(2, 9, 16)),
    "cross_entropy": (
        lambda x: cross_entropy(x, TARGETS, label_smoothing=0.1),
        3 * draw(3, 11, 40),
    ),
    "linear_cross_entropy": (
        lambda x, weight: linear_cross_entropy(x, weight, TARGETS),
        draw(3, 11, 37),
        draw(40, 37),
    ),
    "dropout": (lambda x: dropout(x, 0.3, seed=2**40 + 1, step=2, stream=3), draw(3, 333)),
    "packed_attention": (lambda x: packed_attention(x, 4, 2), draw(2, 70, 8 * 16)),
    **{
        f"attention, {name}, causal {causal}": (
            lambda q, k, v, causal=causal: attention(q, k, v, causal),
            draw(2, 4, T, 16),
            draw(2, 2, S, 16),
            draw(2, 2, S, 16),
        )
        for name, (T, S) in SHAPE_OF_HEADS.items()
        for causal in (True, False)
    },
}


def quantised() -> Iterator[np.ndarray]:
    for bits in (8, 4):
        matrix = QuantisedMatrix(draw(50, 77), bits)
        for rows in (1, 20):
            x = draw(rows, 77)
            wanted = x.astype(np.float64) @ matrix.rows().T
            yield near(matrix.outputs(x), wanted, f"{bits} bits, {rows} rows")


# ---- optimisers ----


def with_gradients(*shapes: tuple[int, ...]) -> list[Tensor]:
    tensors = [Tensor(draw(*shape), requires_grad=True) for shape in shapes]
    for tensor in tensors:
        (tensor * draw(*tensor.shape)).sum().backward()
    return tensors


def adamw() -> Iterator[np.ndarray]:
    (tensor,) = with_gradients((70_001,))
    optimiser = AdamW([tensor], 1e-2, (0.9, 0.99), weight_decay=0.1)
    w, g, m, v = (x.astype(np.float64) for x in (tensor.array, tensor.grad, *np.zeros((2, 70_001))))
    g *= 0.5
    for t in (1, 2, 3):
        optimiser.step(0.5)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        move = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
        w -= 1e-2 * (0.1 * w + move)
        yield near(tensor.array, w, f"after step {t}")


def sgd() -> Iterator[np.ndarray]:
    (tensor,) = with_gradients((70_001,))
    optimiser = SGD([tensor], 1e-2, momentum=0.9, nesterov=True, weight_decay=0.1)
    w, g, u = tensor.array.astype(np.float64), tensor.grad.astype(np.float64), 0.0
    for t in (1, 2, 3):
        optimiser.step(0.5)
        ahead = 0.5 * g + 0.1 * w
        u = 0.9 * u + ahead
        w -= 1e-2 * (ahead + 0.9 * u)
        yield near(tensor.array, w, f"after step {t}")


def muon() -> Iterator[np.ndarray]:
    """Each direction of the gradient, and all of them by nearly the same amount."""
    for shape in ((20, 50), (130, 70)):
        (tensor,) = with_gradients(shape)
        before = tensor.array.astype(np.float64)
        Muon([tensor], 1.0, weight_decay=0.0).step()
        left, _, right = np.linalg.svd(tensor.grad.astype(np.float64), full_matrices=False)
        amounts = left.T @ (before - tensor.array) @ right.T / (0.2 * max(shape) ** 0.5)
        each = np.diag(amounts)
        assert 0.7 < each.min() <= each.max() < 1.3, f"{shape}: from {each.min()} to {each.max()}"
        near(amounts, np.diag(each), f"{shape}: other directions", 1e-3)
        yield tensor.array


def norm() -> Iterator[np.ndarray]:
    tensors = with_gradients((70_001,), (33, 7))
    squares = sum((tensor.grad.astype(np.float64) ** 2).sum() for tensor in tensors)
    yield near(np.array(gradient_norm(tensors)), np.sqrt(squares), "norm", 1e-6)


# ---- the tokeniser ----

TEXT = (
    "It's 12345 o'clock; WE'LL see: \"naïve\" Straße, Ångström's élan.  Well,\tno-one\r\n\r\n"
    "    def f(x):\n        return x**2 + 3.14159 # ok!?  日本語のテキスト、中文文本。 Привет, "
    "мир! ١٢٣ ǅ 👩‍🚀🎉\nHTTPServer getHTTPResponseCode iPhone15 don't DON'T they've 'tis a_b__c "
    "...   \u00a0\u2003 end   "
)
PIECES_OF_TEXT = [TEXT[i : i + 17] for i in range(0, len(TEXT), 3)]


def tokeniser(pattern: str) -> Iterator[np.ndarray]:
    """Training, pieces and ids of one way to split texts, beside the lesson's; and back."""
    split = compile_pattern(pattern)
    pieces = [part.encode() for text in PIECES_OF_TEXT for part in split.findall(text)]
    learned = merges.train(pieces, 60)
    spelling = merges.vocabulary(learned)
    trained = Tokeniser.train(PIECES_OF_TEXT, 256 + 60, pattern, ties="bytes")
    wanted = [(spelling[left], spelling[right]) for left, right in learned]
    assert trained.merges == wanted, "training found other merges"
    for text in (TEXT, *PIECES_OF_TEXT, "hu" * 400, TEXT * 20):
        ids = [i for part in split.findall(text) for i in merges.encode(part.encode(), learned)]
        found = trained.encode(text)
        assert found == ids, f"{text[:40]!r} became {found[:20]}, not {ids[:20]}"
        assert trained.decode(found) == text
        yield np.array(found)


CHECKS: dict[str, Callable[[], Iterator[np.ndarray]]] = {
    **{
        f"product of {a} and {b}": (lambda a=a, b=b: products(a, b))
        for a in LAYOUTS
        for b in LAYOUTS
    },
    **{name: (lambda call=call: operation(*call)) for name, call in OPERATIONS.items()},
    "quantised": quantised,
    "AdamW": adamw,
    "SGD": sgd,
    "Muon": muon,
    "gradient_norm": norm,
    **{f"tokeniser {name}": (lambda name=name: tokeniser(name)) for name in PATTERNS},
}


# What an ordinary test run leaves to TRICYCLE_TEST_LONG=1: a kernel takes seconds to compile, and
# these are of the same kind as one that is checked, or as the tokeniser's other patterns.
LATER = {"gelu exact", "relu", "relu_squared", "silu"} | {
    f"tokeniser {name}" for name in PATTERNS if name not in ("characters", "gpt2", "o200k")
}


def run(name: str) -> bool:
    """Run one check and print its line; whether everything was right."""
    global rng
    rng = np.random.default_rng(0)
    digest = hashlib.sha256()
    try:
        for result in CHECKS[name]():
            digest.update(np.ascontiguousarray(result).tobytes())
    except AssertionError as error:
        print(f"WRONG: {name}: {' '.join(str(error).split())[:500]}", flush=True)
        return False
    print(f"{name} {digest.hexdigest()[:16]}", flush=True)
    return True


if __name__ == "__main__":
    sys.executable = os.environ.get("CHECK_KERNELS_PYTHON", sys.executable)
    right = [run(name) for name in sys.argv[1:] or CHECKS]  # also after one that is wrong
    sys.exit(not all(right))
