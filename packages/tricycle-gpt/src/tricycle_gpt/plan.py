"""A plan: what a run will take, before it starts.

A few steps are really made, with random tokens, and the rest is arithmetic:

    memory   what the process has once the kernels are loaded, in it
               16 bytes a parameter: value, gradient and AdamW's two moments
             + 12 bytes a parameter while a checkpoint is written: a copy of all but gradients
             + the activations of one batch: measured at one and two windows to choose how many
               fit, for they grow no faster than a straight line, and then at that many
    FLOPs    6 for each weight in a matrix product and token (2 forward, 4 backward), and
             12 · layers · width · context for attention
    time     measured for one batch and for one optimiser's step, times their number

The Chinchilla ratio is tokens per parameter; about 20 is the best use of a given number of FLOPs.

Sources: Kaplan et al., Scaling Laws (2020); Hoffmann et al., Training Compute-Optimal LLMs (2022).
"""

import os
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tricycle_autograd.memory import give_back_freed_memory
from tricycle_gpt.config import GPTConfig, TrainingConfig
from tricycle_gpt.model import GPT
from tricycle_gpt.optimiser import make_optimiser
from tricycle_gpt.progress import duration

HELD, SAVING = 16, 12  # bytes a parameter
TIMED = 3  # batches


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    parameters     learned numbers; non_embedding without the tables of tokens and positions
    flops          of the whole training
    tokens         looked at in all; tokens_per_step of them in each step
    chinchilla     tokens per parameter
    memory         bytes at the peak; available is what this machine can give
    seconds        from the first step to the last
    batch_size     windows at once that fit, and micro_batches of them for the step asked for
    """

    parameters: int
    non_embedding: int
    flops: float
    steps: int
    tokens: int
    tokens_per_step: int
    chinchilla: float
    memory: int
    available: int
    seconds: float
    batch_size: int
    micro_batches: int

    def __str__(self) -> str:
        return "\n".join(
            [
                f"parameters   {self.parameters:,} ({self.non_embedding:,} without embeddings)",
                f"tokens       {self.tokens:,}: {self.steps:,} steps of {self.tokens_per_step:,}; "
                f"{self.chinchilla:.1f} a parameter (about 20 is Chinchilla's best)",
                f"batches      --training.batch-size {self.batch_size} "
                f"--training.micro-batches {self.micro_batches}",
                f"memory       {self.memory / 1e9:.2f} GB at the peak, of "
                f"{self.available / 1e9:.2f} GB that are free",
                f"FLOPs        {self.flops:.3g}; {self.flops / self.seconds / 1e9:.1f} G a second",
                f"time         {duration(self.seconds)}",
            ]
        )


def plan(model: GPTConfig, training: TrainingConfig, *, available: int | None = None) -> Plan:
    """Measure a few steps and say what the whole run will take on this machine.

    available  bytes that the run may use in all; if not given, what is free

    A batch that does not fit is cut into smaller ones whose gradients are added up.  Raises
    ValueError for a model that does not fit with a batch of one window.
    """
    give_back_freed_memory()
    started_with = resident_bytes()
    limit = started_with + free_bytes() if available is None else available
    vocabulary, width = model.vocab_size, model.embedding_dim
    least = started_with + (HELD + SAVING) * count_at_least(model)
    if least > limit:
        raise ValueError(refusal(least, limit))
    network = GPT(model, rng=np.random.default_rng(0))
    parameters = network.n_parameters()
    tables = vocabulary * width + (model.context_window * width if model.block == "gpt2" else 0)
    optimiser = make_optimiser(network, training)
    first, second = (peak_of_batch(network, windows) for windows in (1, 2))
    # By now the kernels are loaded, and the model and the optimiser are there.
    now = max(resident_bytes(), started_with + HELD * parameters)
    fixed = now + SAVING * parameters
    wanted = training.batch_size * training.micro_batches
    fitting = [
        windows
        for windows in range(1, training.batch_size + 1)
        if wanted % windows == 0 and fixed + first + (windows - 1) * (second - first) <= limit
    ]
    if not fitting:
        raise ValueError(refusal(fixed + first, limit))
    batch_size = max(fitting)
    activations = peak_of_batch(network, batch_size)
    batch_seconds = min(time_of_batch(network, batch_size) for _ in range(TIMED))
    began = time.perf_counter()
    optimiser.step()
    step_seconds = time.perf_counter() - began + batch_seconds * (wanted // batch_size)
    tokens_per_step = wanted * model.context_window
    tokens = tokens_per_step * training.steps
    multiplied = parameters - tables + vocabulary * width * model.tied_head
    attention = 12 * model.n_layers * width * model.context_window
    return Plan(
        parameters=parameters,
        non_embedding=parameters - tables,
        flops=float(tokens) * (6 * multiplied + attention),
        steps=training.steps,
        tokens=tokens,
        tokens_per_step=tokens_per_step,
        chinchilla=tokens / parameters,
        memory=fixed + activations,
        available=limit,
        seconds=step_seconds * training.steps,
        batch_size=batch_size,
        micro_batches=wanted // batch_size,
    )


def count_at_least(model: GPTConfig) -> int:
    """Parameters in the token table and the blocks' largest matrices: before any is made."""
    width = model.embedding_dim
    return width * (model.vocab_size + model.n_layers * (2 * width + 2 * model.mlp_width))


def refusal(needed: int, limit: int) -> str:
    """Why a model cannot be trained here, and what to do."""
    return (
        f"this model needs {needed / 1e9:.2f} GB to be trained, even with one window at a time, "
        f"and {limit / 1e9:.2f} GB are free: choose fewer layers, a smaller width or vocabulary, "
        "or a shorter context window"
    )


def run_batch(network: GPT, windows: int) -> None:
    """Forward and backward over random tokens."""
    shape = (windows, network.config.context_window + 1)
    ids = np.random.default_rng(0).integers(0, network.config.vocab_size, shape)
    network.loss(ids[:, :-1], ids[:, 1:]).backward()


def time_of_batch(network: GPT, windows: int) -> float:
    """Seconds."""
    began = time.perf_counter()
    run_batch(network, windows)
    return time.perf_counter() - began


def peak_of_batch(network: GPT, windows: int) -> int:
    """Bytes of arrays that a batch holds at its fullest moment."""
    run_batch(network, windows)  # kernels are loaded, and the gradients are there
    tracemalloc.start()
    try:
        run_batch(network, windows)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def resident_bytes() -> int:
    """Memory that this process holds now; 0 where there is no /proc."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0


def free_bytes() -> int:
    """Memory that this machine, or the container around us, can still give."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(free, 0)
