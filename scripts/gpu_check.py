"""Everything to ask of a GPU, in one command of less than 7 minutes:  hatch run gpu-check

    python scripts/gpu_check.py                      all parts, one after the other
    python scripts/gpu_check.py operations products  some of them
    python scripts/gpu_check.py --emulated           at toy sizes, on the GPU that is made of numpy

Each part is a process of its own, for a kernel that fails takes its process's GPU with it.  What a
part found is written to gpu_check.json as soon as it ends, and a table of everything comes last.
A part that fails, or takes too long, does not end the others.  The exit status is 0 only where
nothing failed; what could not be run here, for want of PyTorch say, is a row that says so.

Rows of an emulated run say "emulated": they show that the lines of this file work, and that the
numbers are right.  The times in them are those of numpy, and are left out.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np

HERE = Path(__file__).resolve().parent
LIMIT = 400  # seconds for everything
LEAST = 15  # with less time left, a part is not begun
ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError),
    *(MemoryError, OSError, RuntimeError, TypeError, ValueError),
)
MEASURED, FAILED, NOT_RUN, EMULATED = "measured", "FAILED", "nobody has run it", "emulated"
B, T, C, H, V, WIDE = 64, 1024, 768, 12, 50257, 50304  # GPT-2 124M; its vocabulary to 64s
Row = dict[str, Any]
BEGINNING = '{"row": '  # of a row, among what a part prints


def row(name: str, found: Any, state: str = MEASURED) -> Row:
    """One line of the table."""
    return {"row": name, "found": found, "state": state}


class Place:
    """Where a part runs: a real GPU or the emulated one, at the sizes that it can do."""

    def __init__(self, is_emulated: bool, only: set[str], folder: Path):
        self.is_emulated, self.only, self.folder = is_emulated, only, folder
        self.state = EMULATED if is_emulated else MEASURED

    def size(self, real: int, toy: int) -> int:
        """A size."""
        return toy if self.is_emulated else real

    def milliseconds(self, function: Callable[[], Any], runs: int = 9) -> float:
        """The median of some runs, by the GPU's own clock."""
        import cupy

        function()
        times = []
        for _ in range(self.size(runs, 1)):
            began, ended = cupy.cuda.Event(), cupy.cuda.Event()
            began.record()
            function()
            ended.record()
            ended.synchronize()
            times.append(cupy.cuda.get_elapsed_time(began, ended))
        return statistics.median(times)

    def timed(self, name: str, milliseconds: float, work: str = "") -> Row:
        """A row with a time; on numpy it would mean nothing."""
        found = "ran; not timed" if self.is_emulated else f"{milliseconds:.3f} ms{work}"
        return row(name, found, self.state)

    def noise(self, *shape: int, scale: float = 1.0, dtype: Any = "bfloat16") -> Any:
        """Random numbers on the GPU."""
        from tricycle_autograd.arrays import as_dtype
        from tricycle_autograd.devices import move

        some = scale * np.random.default_rng(0).standard_normal(99_991)
        return move(np.resize(some.astype(as_dtype(dtype)), shape), "cuda")


# ---- Is it right? ----


def device(place: Place) -> list[Row]:
    """What there is, and how fast it is at most."""
    from tricycle_autograd import gpu

    if place.is_emulated:
        return [
            row("GPU", str(gpu.the_gpu()), EMULATED),
            row("product, copy", "no GPU", NOT_RUN),
        ]
    rows = [row(name, found) for name, found in gpu.gpu_facts().items()]
    flops, width = gpu.gpu_roof()
    rows.append(row("product of 8,192 x 8,192, bfloat16", f"{flops / 1e12:.0f} TFLOP/s"))
    rows.append(row("copy", f"{width / 1e9:.0f} GB/s"))
    return rows


def operations(place: Place) -> Iterator[Row]:
    """Every operation and update with GPU kernels, held to its definition."""
    for name, check in cases().items():
        if place.only and name not in place.only:
            continue
        began = time.perf_counter()
        try:
            check()
        except SkipTest as reason:
            yield row(name, str(reason), NOT_RUN)
        except other_errors() as error:
            yield row(name, f"{type(error).__name__}: {error}"[:300], FAILED)
        else:
            yield row(name, f"right, {time.perf_counter() - began:.1f} s", place.state)


def other_errors() -> tuple[type[BaseException], ...]:
    """What a check may end with: what Python, CUDA, NVRTC and the emulated GPU raise."""
    from tricycle_autograd.nvrtc import CompilerError
    from tricycle_autograd.ptx_memory import Fault

    return (*ERRORS, CompilerError, Fault)


def cases() -> dict[str, Callable[[], None]]:
    """A check for each operation and update of tricycle_nn that has GPU kernels, by its name."""
    import tricycle_nn as nn
    from tricycle_autograd.fused import registry
    from tricycle_autograd.testing import check_on_cuda, check_update, draw
    from tricycle_nn.muon import Place as MatrixPlace
    from tricycle_nn.optimiser import Scalars

    by_name = {op.__name__: op for key, op in registry.items() if key.startswith("tricycle_nn.")}
    ids = np.minimum(np.random.default_rng(0).geometric(0.3, (2, 30)), 9)
    targets = np.array([[0, 66, -100], [5, 5, 7]])
    x, weight, bias = draw(5, 19), draw(19, 7), draw(7)
    rows_, w, b = draw(9, 71), draw(71), draw(71, seed=1)
    flat = draw(999), draw(999, seed=1), draw(999, seed=2), draw(999, seed=3) ** 2
    gradients = draw(33 * 70), draw(33 * 70, seed=1), draw(33 * 70, seed=2)
    adamw = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
    losses = {"value_in_float32": True}
    given: dict[str, tuple[tuple, dict]] = {
        "add_layer_norm": ((rows_, draw(9, 71, seed=2), w, b), {}),
        "add_rms_norm": ((rows_, draw(9, 71, seed=2), w), {}),
        "attention": ((draw(2, 2, 17, 32), draw(2, 1, 33, 32), draw(2, 1, 33, 32, seed=1)), {}),
        "cross_entropy": ((3 * draw(2, 3, 67), targets), losses),
        "dropout": ((draw(3, 71),), {"p": 0.3, "seed": 1, "step": 2, "stream": 3}),
        "embedding": ((ids, draw(11, 264)), {}),
        "gelu": ((rows_,), {}),
        "layer_norm": ((rows_, w, b), {}),
        "linear": ((draw(5, 37), draw(37, 70), draw(70)), {}),
        "linear_cross_entropy": ((draw(2, 3, 19), draw(67, 19), targets), losses),
        "log_softmax": ((rows_,), {}),
        "packed_attention": ((draw(1, 70, 80),), {"n_heads": 3, "n_key_value_heads": 1}),
        "rms_norm": ((rows_, w), {}),
        "rotary": ((draw(2, 17, 32),), {"positions": np.arange(17)}),
        "swiglu": ((rows_, draw(9, 71, seed=2)), {}),
        "swiglu_linear": ((x, draw(5, 19, seed=2), weight, bias), {}),
        "token_scores": ((draw(3, 19), draw(11, 19)), {}),
    }
    for name in ("relu", "relu_squared", "silu", "softmax"):
        given[name] = (rows_,), {}
    for name in ("gelu_linear", "relu_linear", "relu_squared_linear", "silu_linear"):
        given[name] = (x, weight, bias), {}
    places = [MatrixPlace(0, 0, 0, 33, 70, 0, 70)]
    sgd = {"scalars": Scalars(0.1), "momentum": 0.9}
    muon = {"scalars": Scalars(0.1), "places": places, "momentum": 0.9, "weight_decay": 0.1}
    updates: dict[str, tuple[tuple, dict]] = {
        "adamw_update": (flat, {"scalars": Scalars(0.1, 0.5, step=3), **adamw}),
        "muon_update": (gradients, {**muon, "atol": 2e-3}),
        "sgd_update": (flat[:3], sgd),
        "sum_of_flat_squares": (flat[:1], {}),
    }
    checks: dict[str, Callable[[], None]] = {}
    for name, (arrays, options) in given.items():
        joined = name.startswith("add_")
        op: Any = Joined(getattr(nn, name)) if joined else by_name[name]
        checks[name] = lambda op=op, a=arrays, o=options: check_on_cuda(op, *a, **o)
    for name, (arrays, options) in updates.items():
        update: Any = by_name[name]
        checks[name] = lambda u=update, a=arrays, o=options: check_update(u, *a, **o)
    return checks


class Joined:
    """Both results of an operation side by side, for a check that looks at one."""

    def __init__(self, operation: Any):
        self.operation = operation
        self.__name__, self.by_device = operation.__name__, operation.by_device

    def __call__(self, *tensors: Any) -> Any:
        from tricycle_autograd import concatenate

        return concatenate(self.operation(*tensors), axis=-1)


def learning(place: Place) -> list[Row]:
    """Shakespeare's first steps on the GPU beside the processor's, and the same bits twice."""
    steps = place.size(200, 3)
    here, _ = curve(place, "cpu", steps)
    there, bits = curve(place, "cuda", steps)
    again, bits_again = curve(place, "cuda", steps)
    apart = [abs(a - b) for a, b in zip(here, there, strict=True)]
    late = steps // 10 + 1
    end = abs(statistics.mean(here[-late:]) - statistics.mean(there[-late:]))
    checks = {
        "first 3 losses, beside the CPU's": (max(apart[:3]) < 5e-3, f"within {max(apart[:3]):.1e}"),
        f"last of {steps} losses": (
            end < 0.05,
            f"{there[-1]:.4f}, CPU {here[-1]:.4f}; means within {end:.1e}",
        ),
        "two runs": (bits == bits_again and there == again, "equal bits expected"),
    }
    return [
        row(name, found, place.state if good else FAILED) for name, (good, found) in checks.items()
    ]


def curve(place: Place, device: str, steps: int) -> tuple[list[float], str]:
    """Losses of a training, and a sha256 of the weights at its end."""
    from tricycle_datasets import load_shakespeare
    from tricycle_gpt import GPT, GPTConfig, TrainingConfig
    from tricycle_gpt import place as move_model
    from tricycle_gpt.runs.optimiser import make_optimiser

    width, window, batch = place.size(128, 16), place.size(128, 16), place.size(16, 2)
    layers, heads = place.size(4, 1), place.size(4, 1)
    text = np.frombuffer(load_shakespeare().encode(), np.uint8).astype(np.int64)
    config = GPTConfig(
        vocab_size=256,
        context_window=window,
        embedding_dim=width,
        n_layers=layers,
        n_heads=heads,
    )
    model = GPT(config, rng=np.random.default_rng(0))
    move_model(model, device)
    optimiser = make_optimiser(model, TrainingConfig(learning_rate=1e-3))
    starts = np.random.default_rng(1).integers(0, len(text) - window - 1, (steps, batch))
    losses = []
    for row_of_starts in starts:
        ids = np.stack([text[start : start + window + 1] for start in row_of_starts])
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        losses.append(loss.item())
        optimiser.step()
        optimiser.zero_grad()
    arrays = [parameter.numpy() for parameter in model.parameters()]
    return losses, hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


# ---- How fast is it? ----


def kernels(place: Place) -> list[Row]:
    """Each kernel of a GPT-2 step at its size: its time, and its share of what the GPU can do."""
    import tricycle_nn as nn
    from tricycle_autograd import Tensor
    from tricycle_autograd.gpu import gpu_roof

    n, c, t, heads = place.size(B * T, 6), place.size(C, 64), place.size(T, 6), place.size(H, 1)
    flops, width = (1.0, 1.0) if place.is_emulated else gpu_roof()
    x, w, b = place.noise(n, c), place.noise(c), place.noise(c)
    wide = place.noise(n, 4 * c)
    qkv = place.noise(n // t, t, 3 * c)
    kinds: dict[str, tuple[Any, tuple, dict]] = {
        "layer_norm": (nn.layer_norm, (x, w, b), {}),
        "rms_norm": (nn.rms_norm, (x, w), {}),
        "gelu": (nn.gelu, (wide,), {}),
        "swiglu": (nn.swiglu, (wide, wide), {}),
        "packed_attention": (nn.packed_attention, (qkv,), {"n_heads": heads}),
    }
    rows = []
    for name, (operation, arrays, options) in kinds.items():
        tensors = [Tensor(array, requires_grad=True) for array in arrays]
        dy = operation(*tensors, **options).array

        def forward(operation=operation, tensors=tensors, options=options):
            return operation(*tensors, **options)

        def both(forward=forward, tensors=tensors, dy=dy):
            for tensor in tensors:
                tensor.grad = None
            forward().backward(dy)

        ahead = place.milliseconds(forward)
        back = place.milliseconds(both) - ahead
        moved = sum(array.nbytes for array in arrays) + dy.nbytes
        for verb, took, times in (("forward", ahead, 1), ("backward", back, 1.5)):
            if name == "packed_attention":
                work = 4 * n * t * c / 2 * (1 if verb == "forward" else 2.5)
                share = f", {work / took / 1e9:.0f} TFLOP/s, {work / took * 1e3 / flops:.0%}"
            else:
                share = f", {times * moved / took * 1e3 / width:.0%} of copying"
            rows.append(place.timed(f"{name} {verb}", took, share))
    return rows


def products(place: Place) -> list[Row]:
    """GPT-2's products: cuBLASLt's first proposal and the best of eight; a file of better ones."""
    from tricycle_autograd import cublaslt

    m = place.size(32768, 8)
    c, vocabulary = place.size(C, 16), place.size(WIDE, 64)
    rows, better = [], {}
    for name, k, n in (
        ("query, key, value", c, 3 * c),
        ("projection", c, c),
        ("up", c, 4 * c),
        ("down", 4 * c, c),
        ("head", c, vocabulary),
    ):
        N = m // 4 if name == "head" else m
        x, weight, y = place.noise(N, k), place.noise(k, n), place.noise(N, n)
        d_weight = place.noise(k, n, dtype=np.float32)
        kinds = {"": (y, x, weight), "to x": (x, y, weight.T), "to weight": (d_weight, x.T, y)}
        for kind, (out, left, right) in kinds.items():
            what = f"{name} {kind}".strip()
            first = place.milliseconds(lambda o=out, a=left, b=right: cublaslt.product(o, a, b))
            work = 2 * N * k * n / first / 1e9
            rows.append(place.timed(what, first, f", {work:.0f} TFLOP/s"))
            if not place.is_emulated:
                rows.append(best_of(place, what, first, out, left, right, better))
    if place.is_emulated:
        return [*rows, row("other proposals", "cuBLASLt makes none without a GPU", NOT_RUN)]
    return [*rows, written(place, better)]


def best_of(place: Place, name: str, first: float, out: Any, a: Any, b: Any, better: dict) -> Row:
    """The fastest of cuBLASLt's proposals for a product; kept in `better` if it gains 3%."""
    import cupy

    from tricycle_autograd import cublaslt

    problem = cublaslt.problem_of(out, a, b)
    plan = cublaslt.plans[cupy.cuda.Device().id, problem]
    usual, times, found = plan.algorithm, [], plan.proposals()
    for proposal in found:
        plan.algorithm = proposal.algorithm
        times.append(place.milliseconds(lambda: cublaslt.product(out, a, b)))
    plan.algorithm = usual
    best = min(range(len(times)), key=times.__getitem__)
    if times[best] < 0.97 * first:
        better[problem] = bytes(found[best].algorithm)
    return row(f"{name}, best of {len(found)}", f"{times[best]:.3f} ms, proposal {best + 1}")


def written(place: Place, better: dict) -> Row:
    """The file of better proposals, which a run takes if it is told to."""
    from tricycle_autograd import cublaslt, product_choices

    if not better:
        return row("other proposals", "none gains 3%")
    os.environ["TRICYCLE_PRODUCT_CHOICES"] = str(place.folder / "product-choices.json")
    file = product_choices.write(cublaslt.library().cublasLtGetVersion(), better)
    return row("other proposals", f"{len(better)}; take them: TRICYCLE_PRODUCT_CHOICES={file}")


def step(place: Place) -> list[Row]:
    """GPT-2 124M's whole training step, at batches of 64, 32 and 4."""
    import cupy

    from tricycle_gpt import GPT, PRESETS, GPTConfig, TrainingConfig
    from tricycle_gpt import place as move_model
    from tricycle_gpt.runs.optimiser import make_optimiser
    from tricycle_nn import gradient_norm, scale_for_norm

    toy = GPTConfig(vocab_size=64, context_window=16, embedding_dim=16, n_layers=1, n_heads=1)
    config = toy if place.is_emulated else PRESETS["gpt2"]
    model = GPT(config, rng=np.random.default_rng(0))
    move_model(model, "cuda")
    optimiser = make_optimiser(model, TrainingConfig())
    rows = []
    for batch in (1,) if place.is_emulated else (64, 32, 4):
        shape = (batch, config.context_window + 1)
        ids = np.random.default_rng(0).integers(0, config.vocab_size, shape)

        def one(ids=ids):
            model.loss(ids[:, :-1], ids[:, 1:]).backward()
            optimiser.step(grad_scale=scale_for_norm(gradient_norm(model.parameters()), 1.0))
            optimiser.zero_grad()

        took = place.milliseconds(one)
        pace = batch * config.context_window / took * 1e3
        held = cupy.get_default_memory_pool().total_bytes() / 1e9
        rows.append(place.timed(f"batch {batch}", took, f", {pace:,.0f} tokens/s, {held:.1f} GB"))
    return rows


def graph(place: Place) -> list[Row]:
    """A chain of products and norms, captured with memory of its own: bits and times."""
    import cupy

    from tricycle_autograd import Tensor, cublaslt, no_grad
    from tricycle_nn import rms_norm

    if place.is_emulated:
        return [row("capture and replay", "numpy has no graphs to capture", NOT_RUN)]
    x, weight, ones = place.noise(4096, C), place.noise(C, C, scale=0.04), place.noise(C)
    out = cupy.empty_like(x)

    def chain():
        y = x
        for _ in range(12):
            with no_grad():
                y = rms_norm(Tensor(y), Tensor(ones)).array
            z = cupy.empty_like(y)
            cublaslt.product(z, y, weight)
            y = z
        out.data.copy_from_device_async(y.data, y.nbytes)

    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    cupy.cuda.Device().synchronize()
    with stream, cupy.cuda.using_allocator(pool.malloc):
        chain()
        plain = cupy.asnumpy(out.view(np.uint16))
        out.fill(0)
        before = pool.total_bytes()
        stream.begin_capture()
        chain()
        captured = stream.end_capture()
        grew = pool.total_bytes() - before
        captured.launch(stream)
        stream.synchronize()
        same = bool((cupy.asnumpy(out.view(np.uint16)) == plain).all())
        plainly = place.milliseconds(chain)
        replayed = place.milliseconds(lambda: captured.launch(stream))
    return [
        row("same bits as without", same, MEASURED if same else FAILED),
        row("24 launches, plainly", f"{plainly:.3f} ms"),
        row("replayed", f"{replayed:.3f} ms"),
        row("memory taken while capturing", f"{grew} bytes"),
    ]


# ---- What is to be beaten ----


def torch_step(place: Place) -> Iterator[Row]:
    """PyTorch's step of the same model: compiled with two kinds of attention, and eager."""
    reason = why_no_torch()
    for how, attention, batch in torch_kinds():
        name = f"{how}, {attention}, batch {batch}"
        if reason:
            yield row(name, reason, NOT_RUN)
            continue
        try:
            seconds, memory = torch_seconds(how, attention, batch)
        except ERRORS as error:
            yield row(name, f"{type(error).__name__}: {error}"[:300], FAILED)
        else:
            pace = batch * T / seconds
            found = f"{seconds * 1e3:.2f} ms, {pace:,.0f} tokens/s, {memory / 1e9:.1f} GB"
            yield row(name, found)


def why_no_torch() -> str | None:
    """What keeps PyTorch from being measured; None where nothing does."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    import torch

    return None if torch.cuda.is_available() else "PyTorch finds no GPU"


def torch_kinds() -> Iterator[tuple[str, str, int]]:
    """How PyTorch is run, with which attention, and how many windows at once: what matters most
    first, for compiling takes its time."""
    for batch in (64, 4, 32):
        for attention in ("CUDNN_ATTENTION", "FLASH_ATTENTION"):
            yield "compiled", attention, batch
        yield "eager", "FLASH_ATTENTION", batch


def torch_seconds(how: str, attention: str, batch: int) -> tuple[float, int]:
    """Seconds of a step, and bytes at its peak."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    sys.path.insert(0, str(HERE / "bench"))
    from torch_gpt import TorchGPT

    from tricycle_gpt import PRESETS

    torch.manual_seed(0)
    torch.cuda.reset_peak_memory_stats()
    torch._dynamo.reset()
    model = TorchGPT(replace(PRESETS["gpt2"], vocab_size=WIDE)).cuda()
    optimiser = torch.optim.AdamW(model.parameters(), lr=6e-4, fused=True)
    loss_of = torch.compile(model.loss) if how == "compiled" else model.loss
    ids = torch.randint(0, V, (batch, T + 1), device="cuda")

    def one():
        autocast = torch.autocast("cuda", dtype=torch.bfloat16)
        with autocast, sdpa_kernel(getattr(SDPBackend, attention)):
            loss = loss_of(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    times = []
    for i in range(12):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        one()
        ended.record()
        torch.cuda.synchronize()
        if i >= 3:
            times.append(began.elapsed_time(ended) / 1e3)
    return statistics.median(times), torch.cuda.max_memory_allocated()


def sanitizer(place: Place) -> list[Row]:
    """NVIDIA's own checks of memory and races, on some operations."""
    tool = shutil.which("compute-sanitizer")
    kinds = ("memcheck", "racecheck")
    if tool is None or place.is_emulated:
        reason = "the emulated GPU looks itself" if place.is_emulated else "it was not found"
        return [row(kind, reason, NOT_RUN) for kind in kinds]
    rows = []
    for kind in kinds:
        words = [tool, "--tool", kind, "--error-exitcode", "9", sys.executable, __file__]
        words += ["--part", "operations", "--only", "rms_norm,packed_attention,embedding"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        said = [line for line in done.stdout.splitlines() if "SUMMARY" in line]
        found = said[-1] if said else done.stderr[-200:]
        rows.append(row(kind, found, FAILED if done.returncode else MEASURED))
    return rows


# ---- One part after the other ----

# In this order, with the seconds that each may take.
PARTS: dict[str, tuple[Callable[[Place], Iterable[Row]], int]] = {
    "device": (device, 30),
    "operations": (operations, 80),
    "learning": (learning, 60),
    "kernels": (kernels, 40),
    "products": (products, 60),
    "graph": (graph, 20),
    "step": (step, 60),
    "torch_step": (torch_step, 150),
    "sanitizer": (sanitizer, 60),
}


def main() -> int:
    """Run the parts; 0 where none failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--emulated", action="store_true", help="on the GPU made of numpy")
    parser.add_argument("--only", default="", help="operations, by name, with commas between")
    parser.add_argument("--file", type=Path, default=Path("gpu_check.json"), help="the answers")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # what a part's process is told
    args = parser.parse_args()
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if args.part:
        only = set(filter(None, args.only.split(",")))
        place = Place(args.emulated, only, args.file.resolve().parent)
        with gpu_or_numpy(args.emulated):
            for found in PARTS[args.part][0](place):
                print(json.dumps(found), flush=True)
        return 0
    if not args.emulated:
        from tricycle_autograd.gpu import NoGPUError, choose_device

        try:
            choose_device("cuda")
        except NoGPUError as error:
            print(f"error: {error}; or try --emulated", file=sys.stderr)
            return 2
    return run_all(args.parts or list(PARTS), args)


@contextmanager
def gpu_or_numpy(is_emulated: bool) -> Iterator[None]:
    """Where "cuda" is the emulated GPU, if it is to be."""
    from tricycle_autograd.testing_streams import emulated_gpu

    with emulated_gpu() if is_emulated else nullcontext():
        yield


def run_all(parts: list[str], args: argparse.Namespace) -> int:
    """Each part in its process, a JSON file after each, the table at the end."""
    began, found = time.monotonic(), {}
    for part in parts:
        left = LIMIT - (time.monotonic() - began)
        if left < LEAST and not args.emulated:
            found[part] = {"seconds": 0, "rows": [row(part, "no time was left", NOT_RUN)]}
        else:
            limit = 3600 if args.emulated else min(left, PARTS[part][1])
            found[part] = one_part(words_for(part, args), limit)
        args.file.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{part}: {found[part]['seconds']} s", file=sys.stderr, flush=True)
    print(table(found))
    return int(any(r["state"] == FAILED for one in found.values() for r in one["rows"]))


def words_for(part: str, args: argparse.Namespace) -> list[str]:
    """The command line of a part's process."""
    words = [sys.executable, __file__, "--part", part, "--file", str(args.file)]
    return [*words, "--only", args.only, *["--emulated"] * args.emulated]


def one_part(words: list[str], limit: float) -> dict[str, Any]:
    """Run a part's process, which prints its rows as it finds them; a failure is one more."""
    began, failure = time.monotonic(), ""
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        # With a group of its own, which ends with it: what it has started holds the GPU, too.
        part = subprocess.Popen(words, stdout=said, stderr=said, start_new_session=True)
        try:
            status = part.wait(limit)
            failure = f"ended with {status}" if status else ""
        except subprocess.TimeoutExpired:
            failure = f"took longer than {limit:g} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(part.pid, signal.SIGKILL)
            part.wait()
        said.seek(0)
        lines = said.read().splitlines()
    rows = [json.loads(line) for line in lines if line.startswith(BEGINNING) and line[-1] == "}"]
    if failure or not rows:
        others = "\n".join(line for line in lines if not line.startswith(BEGINNING))
        rows.append(row("the part", f"{failure or 'found nothing'}: {others[-600:]}", FAILED))
    return {"seconds": round(time.monotonic() - began, 1), "rows": rows}


def table(found: dict[str, Any]) -> str:
    """Everything, a line a row."""
    lines = []
    for part, one in found.items():
        lines.append(f"\n{part} ({one['seconds']} s)")
        for r in one["rows"]:
            text = " ".join(str(r["found"]).split())[:160]
            lines.append(f"  {r['row']:<42} {r['state']:<18} {text}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
