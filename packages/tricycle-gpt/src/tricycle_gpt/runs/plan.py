"""A plan: what a run will take, before it starts.

A few steps are really made, with random tokens, and the rest is arithmetic:

    memory   what the process has once the kernels are loaded, in it
               8 bytes a parameter, for value and gradient, and the optimiser's state: 8 more
               with AdamW's two moments, half of that for Muon's matrices (all of it even for
               several ranks: rank 0 gathers for a checkpoint what they share)
             + while a checkpoint is written, a copy of all of it but the gradients
             + the activations of one batch: measured at one and two windows to choose how many
               fit, for they grow no faster than a straight line, and then at that many
    FLOPs    those of a token (flops.py), times the tokens
    time     measured for one batch and for one optimiser's step, times their number; several
             ranks share both

The Chinchilla ratio is tokens per parameter; about 20 is the best use of a given number of FLOPs.

On a GPU all of it is measured, memory too; a checkpoint's copies are not made there.

Source: Hoffmann et al., Training Compute-Optimal LLMs (2022).
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tricycle_gpt.config import GPTConfig, TrainingConfig
from tricycle_gpt.model import GPT
from tricycle_gpt.runs.compiling import expect_training_kernels
from tricycle_gpt.runs.distributed import Alone, Communicator
from tricycle_gpt.runs.flops import flops_per_token
from tricycle_gpt.runs.memory_readers import memory_of, peak_bytes
from tricycle_gpt.runs.metrics import read_metrics
from tricycle_gpt.runs.optimiser import least_bytes_per_parameter, make_optimiser
from tricycle_gpt.runs.placing import place
from tricycle_gpt.runs.progress import duration
from tricycle_gpt.runs.trial_steps import peak_of_batch, time_of_step
from tricycle_gpt.runs.whole_files import replace_text


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
    device         where it will run, and whose memory that is
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
    device: str = "cpu"

    def refuse_what_does_not_fit(self, asked: TrainingConfig) -> None:
        """Raise ValueError, with the batch that fits, if the one asked for does not."""
        if self.batch_size < asked.batch_size:
            raise ValueError(
                f"a batch of {asked.batch_size} windows does not fit into the "
                f"{self.available / 1e9:.2f} GB that are free; the same steps in less memory: "
                f"--training.batch-size {self.batch_size} "
                f"--training.micro-batches {self.micro_batches}"
            )

    def in_short(self) -> str:
        """Time and memory: "3 min 5 s and 0.41 GB"."""
        return f"{duration(self.seconds)} and {self.memory / 1e9:.2f} GB"

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
    device: str = "cpu",
) -> Plan:
    """Measure a few steps and say what the whole run will take on this machine.

    available     bytes that the run may use in all; if not given, what is free
    besides       bytes that something else in the process will take, such as a tracker: of the
                  processor's memory
    communicator  ranks that will share the batch, and those of one machine its memory: the plan
                  is that of rank 0, which writes, as if talking to the others took no time
    device        "cpu" or "cuda", where the run will be; its memory is what is asked about

    A batch that does not fit is cut into smaller ones whose gradients are added up.  Raises
    ValueError for a model that does not fit with a batch of one window, and for a batch that the
    ranks cannot share evenly.
    """
    memory, ranks = memory_of(device), communicator or Alone()
    memory.give_back()
    if device == "cuda":
        besides = 0  # what runs beside it is not on the GPU, nor is another rank
    started_with = memory.held() + besides
    free = memory.free() // (1 if device == "cuda" else ranks.neighbours)
    limit = memory.held() + free if available is None else available
    expect_training_kernels(model.block)
    vocabulary, width = model.vocab_size, model.embedding_dim
    windows, batches = training.share(ranks.size)
    least = started_with + least_bytes_per_parameter(training, device) * model.least_parameters
    if least > limit:
        raise ValueError(refusal(least, limit))
    network = GPT(model, rng=np.random.default_rng(0))
    place(network, device)
    network.recompute = training.recompute
    parameters = network.n_parameters()
    positions = model.context_window if model.family.learned_positions else 0
    tables = (vocabulary + positions) * width
    optimiser = make_optimiser(network, training)
    first, second = (peak_of_batch(network, windows) for windows in (1, 2))
    state = sum(array.nbytes for array in optimiser.state_dict().values())
    memory.give_back()
    # By now the kernels are loaded, and the model and the optimiser are there.
    fixed = memory.held() + besides
    if device == "cpu":
        fixed = max(fixed, started_with + 8 * parameters + state)
        fixed += 4 * parameters + state  # a checkpoint's copy
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
    memory.give_back()  # so that the run itself does not begin with it
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
        device=device,
    )


def compare_with_plan(folder: str | Path, planned: Plan) -> None:
    """Write plan.json into a run's folder: what was expected beside what it took.

    The seconds are those of all steps in metrics.jsonl, evaluations and checkpoints not counted;
    the memory is this process's peak, on the device that was planned for.
    """
    folder = Path(folder)
    paces = [
        row["tokens_per_second"]
        for row in read_metrics(folder / "metrics.jsonl")
        if row.get("tokens_per_second")
    ]
    seconds = sum(planned.tokens_per_step / pace for pace in paces)
    # cupy's pool keeps what it ever had.
    memory = memory_of("cuda").held() if planned.device == "cuda" else peak_bytes()
    took = {"steps": len(paces), "seconds": round(seconds, 3), "memory": memory}
    found = {"planned": dataclasses.asdict(planned), "took": took}
    replace_text(folder / "plan.json", json.dumps(found, indent=1) + "\n")


def refusal(needed: int, limit: int) -> str:
    """Why a model cannot be trained here, and what to do."""
    return (
        f"this model needs {needed / 1e9:.2f} GB to be trained, even with one window at a time, "
        f"and {limit / 1e9:.2f} GB are free: choose fewer layers, a smaller width or vocabulary, "
        "or a shorter context window"
    )
