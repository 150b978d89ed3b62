"""On paper: GPT-2 (124M) on many GPUs, by the algorithm of tricycle_gpt/runs/data_parallel.py.

    python scripts/many_gpus.py

prints the table of packages/tricycle-gpt/docs/many_machines.md, which explains the formulas and
what they assume.  The buckets and their order are the real ones; the times are arithmetic.
"""

from dataclasses import dataclass

import numpy as np

from tricycle_gpt import PRESETS, TrainingConfig
from tricycle_gpt.runs.data_parallel import Bucket, make_buckets
from tricycle_nn import AdamW, Parameter, default_groups

GPT2 = PRESETS["gpt2"]
WIDTH, LAYERS, CONTEXT = GPT2.embedding_dim, GPT2.n_layers, GPT2.context_window
RECIPE = TrainingConfig(batch_size=16, micro_batches=32)  # 512 windows of 1,024 tokens

FLOPS = 0.4 * 989e12  # an H100's peak in bfloat16, and the share of it that training reaches
MEMORY = 0.7 * 3.35e12  # bytes a second from its memory
MESSAGE = 2e-6  # seconds to start one message
REACHED = 0.8  # of a link's speed


@dataclass(frozen=True)
class Cluster:
    """GPUs and what joins them.

    inside, between  bytes a second that each GPU can send within its node, and out of it
    node             GPUs in a node
    width            bytes in which a gradient and a parameter are sent: 4, or 2 in bfloat16
    """

    name: str
    gpus: int
    inside: float
    between: float = 0.0
    node: int = 8
    width: int = 4

    def seconds(self, bucket: Bucket) -> float:
        """To sum, or to gather, a bucket by messages from each to each."""
        share = self.width * (bucket.end - bucket.start) / self.gpus  # from each to each other
        neighbours = min(self.node, self.gpus) - 1
        far = self.gpus - 1 - neighbours
        inside = neighbours * share / (REACHED * self.inside)
        between = far * share / (REACHED * self.between) if far else 0.0
        return (self.gpus - 1) * MESSAGE + max(inside, between)


CLUSTERS = [
    Cluster("1 GPU", 1, 450e9),
    Cluster("8, NVLink", 8, 450e9),
    Cluster("64, 400 Gb/s each", 64, 450e9, 50e9),
    Cluster("64, so, bfloat16", 64, 450e9, 50e9, width=2),
    Cluster("64, 100 Gb/s a node", 64, 450e9, 12.5e9 / 8),
]


class Parameters:
    """GPT-2's, in its order, as zeros: only shapes matter here."""

    def __init__(self):
        C = WIDTH
        block = [(C,), (C,), (C, 3 * C), (3 * C,), (C, C), (C,)]  # norm, attention
        block += [(C,), (C,), (C, 4 * C), (4 * C,), (4 * C, C), (C,)]  # norm, MLP
        self.shapes = [(GPT2.vocab_size, C), (CONTEXT, C), *block * LAYERS, (C,), (C,)]
        self.all = [Parameter(np.zeros(shape, np.float32)) for shape in self.shapes]
        self.tables, self.last = 2, len(self.all) - 2
        self.size = sum(p.size for p in self.all)
        # Floating point operations of the backward pass for a token: head, blocks.
        self.head = 4 * GPT2.vocab_size * C
        numbers = sum(p.size for p in self.all[self.tables : self.last]) // LAYERS
        self.block = 4 * numbers + 8 * C * CONTEXT

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """All of them, by number (what `default_groups` asks a model for)."""
        return [(str(i), parameter) for i, parameter in enumerate(self.all)]

    def walked(self, bucket: Bucket) -> float:
        """The share of the backward pass after which a bucket is complete."""
        place = {id(parameter): i for i, parameter in enumerate(self.all)}
        earliest = min(place[id(tensor)] for tensor in bucket.tensors)
        if earliest < self.tables:
            return 1.0
        layer = min((earliest - self.tables) // 12, LAYERS)
        done = self.head + (LAYERS - layer) * self.block
        return done / (self.head + LAYERS * self.block)


def simulate(model: Parameters, buckets: list[Bucket], cluster: Cluster) -> dict[str, float]:
    """One step's parts, in seconds."""
    windows, batches = RECIPE.share(cluster.gpus)
    flops = 1.5 * (model.head + LAYERS * model.block)  # forward is half of backward
    batch = windows * CONTEXT * flops / FLOPS
    backward = batch * 2 / 3
    ended = 0.0
    for bucket in buckets:
        complete = backward * model.walked(bucket)
        ended = max(ended, complete) + cluster.seconds(bucket)
    gather = sum(cluster.seconds(bucket) for bucket in buckets)
    alone = cluster.gpus == 1
    return {
        "compute": batches * batch,
        "sums": 0.0 if alone else ended - backward,
        "gather": 0.0 if alone else gather,
        # AdamW reads four arrays and writes three.
        "moving": 7 * 4 * model.size / cluster.gpus / MEMORY,
    }


def main() -> None:
    """The table."""
    model = Parameters()
    optimiser = AdamW(default_groups(model, 0.1))
    tokens = RECIPE.batch_size * RECIPE.micro_batches * CONTEXT
    print(f"{model.size:,} parameters, {tokens:,} tokens a step; milliseconds")
    print(
        f"{'GPUs':21}{'compute':>8}{'sums left':>10}{'gather':>8}{'moving':>8}{'step':>8}"
        f"{'sent, GB':>9}{'tokens/s':>12}{'of ideal':>9}"
    )
    first = 0.0
    for cluster in CLUSTERS:
        buckets = make_buckets(optimiser.groups, model.all, cluster.gpus)
        found = simulate(model, buckets, cluster)
        step = sum(found.values())
        first = first or step
        sent = 2 * (cluster.gpus - 1) / cluster.gpus * cluster.width * model.size
        parts = f"{1e3 * found['compute']:8.1f}{1e3 * found['sums']:10.1f}"
        parts += f"{1e3 * found['gather']:8.1f}{1e3 * found['moving']:8.1f}{1e3 * step:8.1f}"
        pace = f"{tokens / step:12,.0f}{first / step / cluster.gpus:9.0%}"
        print(f"{cluster.name:21}{parts}{sent / 1e9:9.2f}{pace}")


if __name__ == "__main__":
    main()
