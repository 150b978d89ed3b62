"""A plan: what a run will take, before it starts.

A few steps are really made, with random tokens, and the rest is arithmetic:

    memory   what the process has once the kernels are loaded, in it
               8 bytes a parameter, for value and gradient, and the optimiser's state: 8 more
               with AdamW's two moments, half of that for Muon's matrices (all of it even for
               several ranks: rank 0 gathers for a checkpoint what they share)
             + while a checkpoint is written, a copy of all of it but the gradients
             + the activations of one batch: measured at one and two windows to choose how many
               fit, for they grow no faster than a straight line, and then at that many
    FLOPs    6 for each weight in a matrix product and token (2 forward, 4 backward), and
             12 · layers · width · context for attention
    time     measured for one batch and for one optimiser's step, times their number; several
             ranks share both

The Chinchilla ratio is tokens per parameter; about 20 is the best use of a given number of FLOPs.

Sources: Kaplan et al., Scaling Laws (2020); Hoffmann et al., Training Compute-Optimal LLMs (2022).
"""

import dataclasses
import json
import os
import statistics
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tricycle_autograd.memory import give_back_freed_memory
from tricycle_autograd.threads import CGROUPS, OWN_CGROUP, control_groups
from tricycle_gpt.config import GPTConfig, TrainingConfig
from tricycle_gpt.model import GPT
from tricycle_gpt.runs.distributed import Alone, Communicator
from tricycle_gpt.runs.metrics import read_metrics
from tricycle_gpt.runs.optimiser import make_optimiser
from tricycle_gpt.runs.progress import duration
from tricycle_gpt.runs.whole_files import replace_text
from tricycle_nn import gradient_norm, scale_for_norm

LEAST = {"adamw": 28, "muon": 20}  # bytes a parameter: held, and copied for a checkpoint
TIMED = 5  # batches


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    parameters     learned numbers; non_embedding without the tables of tokens and positions
    flops          of the whole training
    tokens         looked at in all; tokens_per_step of them in each step
    chinchilla     tokens per parameter
    memory         bytes at the peak; available is what this machine can give
    seconds        from the first step to the last
    batch_size     windows at once that fit, and micro_batches of them for the step asked for:
                   for all ranks, as in TrainingConfig
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

    def refuse_what_does_not_fit(self, asked: TrainingConfig) -> None:
        """Raise ValueError, with the batch that fits, if the one asked for does not."""
        if self.batch_size < asked.batch_size:
            raise ValueError(
                f"a batch of {asked.batch_size} windows does not fit into the "
                f"{self.available / 1e9:.2f} GB that are free; the same steps in less memory: "
                f"--training.batch-size {self.batch_size} "
                f"--training.micro-batches {self.micro_batches}"
            )

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


def plan(
    model: GPTConfig,
    training: TrainingConfig,
    *,
    available: int | None = None,
    besides: int = 0,
    communicator: Communicator | None = None,
) -> Plan:
    """Measure a few steps and say what the whole run will take on this machine.

    available     bytes that the run may use in all; if not given, what is free
    besides       bytes that something else in the process will take, such as a tracker
    communicator  ranks that will share the batch, and those of one machine its memory: the plan
                  is that of rank 0, which writes, as if talking to the others took no time

    A batch that does not fit is cut into smaller ones whose gradients are added up.  Raises
    ValueError for a model that does not fit with a batch of one window, and for a batch that the
    ranks cannot share evenly.
    """
    give_back_freed_memory()
    ranks = communicator or Alone()
    started_with = resident_bytes() + besides
    free = free_bytes() // ranks.neighbours
    limit = resident_bytes() + free if available is None else available
    vocabulary, width = model.vocab_size, model.embedding_dim
    windows, batches = training.share(ranks.size)
    least = started_with + LEAST[training.optimiser] * count_at_least(model)
    if least > limit:
        raise ValueError(refusal(least, limit))
    network = GPT(model, rng=np.random.default_rng(0))
    network.recompute = training.recompute
    parameters = network.n_parameters()
    tables = vocabulary * width + (model.context_window * width if model.block == "gpt2" else 0)
    optimiser = make_optimiser(network, training)
    first, second = (peak_of_batch(network, windows) for windows in (1, 2))
    state = sum(array.nbytes for array in optimiser.state_dict().values())
    give_back_freed_memory()
    # By now the kernels are loaded, and the model and the optimiser are there.
    now = max(resident_bytes() + besides, started_with + 8 * parameters + state)
    fixed = now + 4 * parameters + state
    fitting = [
        n
        for n in range(1, windows + 1)
        if windows * batches % n == 0 and fixed + first + (n - 1) * (second - first) <= limit
    ]
    if not fitting:
        raise ValueError(refusal(fixed + first, limit))
    at_once = max(fitting)
    wanted = training.batch_size * training.micro_batches
    batch_size = training.batch_size if at_once == windows else at_once
    activations = peak_of_batch(network, at_once)
    step_seconds = time_of_step(
        network, optimiser, at_once, windows * batches // at_once, ranks.size
    )
    tokens_per_step = wanted * model.context_window
    tokens = tokens_per_step * training.steps
    flops = tokens * flops_per_token(network)
    del network, optimiser
    give_back_freed_memory()  # so that the run itself does not begin with it
    return Plan(
        parameters=parameters,
        non_embedding=parameters - tables,
        flops=flops,
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


def flops_per_token(model: GPT) -> float:
    """Floating point operations that training takes for each token (PaLM's count, appendix B).

    Six for each number that is multiplied (two forward, four backward), and attention's
    12 layers · width · context.  A table that is only looked up is not counted.
    """
    config = model.config
    multiplied = model.n_parameters()
    if config.block == "gpt2":
        multiplied -= config.context_window * config.embedding_dim
    if not config.tied_head:
        multiplied -= config.vocab_size * config.embedding_dim
    attention = 12 * config.n_layers * config.embedding_dim * config.context_window
    return float(6 * multiplied + attention)


def batch_that_fits(network: GPT, most: int) -> int:
    """How many windows at once there is memory for: the largest divisor of `most` below it with
    which a forward and backward pass is really made; 0 if there is none."""
    try:
        first, second = (peak_of_batch(network, windows) for windows in (1, 2))
    except MemoryError:
        return 0
    for windows in range(most - 1, 0, -1):
        # A system that promises more memory than it has would end us for taking it.
        if most % windows or first + (windows - 1) * (second - first) > free_bytes():
            continue
        try:
            run_batch(network, windows)
            return windows
        except MemoryError:
            pass
    return 0


def out_of_memory(network: GPT, training: TrainingConfig, step: int) -> str:
    """What to say, and to do, when a step found no memory."""
    give_back_freed_memory()
    said = f"there was none for step {step + 1}; the weights were left as they were. "
    windows = batch_that_fits(network, training.batch_size)
    if not windows:
        return said + (
            "Not even one window of text fits: choose fewer layers, a smaller width or "
            "vocabulary, or a shorter context window"
        )
    micro_batches = training.micro_batches * training.batch_size // windows
    return said + (
        f"{windows} windows at once fit: --training.batch-size {windows} --training.micro-batches "
        f"{micro_batches} makes steps of the same size, in a run of its own"
    )


def compare_with_plan(folder: str | Path, planned: Plan) -> None:
    """Write plan.json into a run's folder: what was foretold beside what it took.

    The seconds are those of all steps in metrics.jsonl, evaluations and checkpoints not counted;
    the memory is this process's peak.
    """
    folder = Path(folder)
    paces = [
        row["tokens_per_second"]
        for row in read_metrics(folder / "metrics.jsonl")
        if row.get("tokens_per_second")
    ]
    seconds = sum(planned.tokens_per_step / pace for pace in paces)
    took = {"steps": len(paces), "seconds": round(seconds, 3), "memory": peak_bytes()}
    found = {"planned": dataclasses.asdict(planned), "took": took}
    replace_text(folder / "plan.json", json.dumps(found, indent=1) + "\n")


def peak_bytes() -> int:
    """The most memory this process ever had; 0 where there is no /proc."""
    status = Path("/proc/self/status")
    return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 if status.exists() else 0


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


def time_of_step(
    network: GPT, optimiser: Any, windows: int, micro_batches: int, ranks: int
) -> float:
    """Seconds: some batches, and one rank's share of the optimiser's move."""
    batch = statistics.median(time_of_batch(network, windows) for _ in range(TIMED))
    time_of_move(network, optimiser)  # which loads its kernels
    move = time_of_move(network, optimiser)
    optimiser.zero_grad()
    return move / ranks + batch * micro_batches


def time_of_move(network: GPT, optimiser: Any) -> float:
    """Seconds."""
    began = time.perf_counter()
    optimiser.step(grad_scale=scale_for_norm(gradient_norm(network.parameters()), 1.0))
    return time.perf_counter() - began


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


def free_bytes(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """Memory that this machine, or the narrowest control group around us, can still give.

    root, own  where those groups are, and what names ours
    """
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    free = [int(lines["MemAvailable"].split()[0]) * 1024]
    for group in control_groups(root, own):
        try:
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such file; "max" is no number
            continue
        # What was read from files counts as used, but goes where memory is wanted.
        free.append(limit - used + int(stat.get("inactive_file", 0)))
    return max(min(free), 0)
