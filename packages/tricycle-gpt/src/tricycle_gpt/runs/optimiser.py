"""The optimiser that a recipe asks for.

adamw  AdamW for everything, with decay for matrices only
muon   Muon for the matrices inside the blocks; AdamW, without decay, for the tables (of tokens,
       of positions, the head) and the vectors

A new one is a line in `OPTIMISERS`, and its name in TrainingConfig's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from tricycle_gpt.config import TrainingConfig
from tricycle_gpt.model import GPT
from tricycle_nn import AdamW, Combined, Muon, default_groups
from tricycle_nn.optimiser import AnyOptimiser, Optimiser


def make_optimiser(model: GPT, config: TrainingConfig) -> AnyOptimiser:
    """All parameters of the model in the hands of what `config.optimiser` names."""
    return OPTIMISERS[config.optimiser].make(model, config)


def least_bytes_per_parameter(config: TrainingConfig, device: str = "cpu") -> int:
    """What training takes at least for each number of the model, in bytes of a device's memory.

    Its value, gradient and the optimiser's memory of it; and while a checkpoint is written a copy
    of all but the gradient, which a GPU need not hold.  There a value takes half, and is kept in
    float32 besides; gradients are float32 too.
    """
    moments = OPTIMISERS[config.optimiser].lightest.bytes_per_parameter
    if device == "cuda":
        return (2 + 4 + 4) + moments
    return (4 + 4 + moments) + (4 + moments)


def make_adamw(model: GPT, config: TrainingConfig) -> AdamW:
    """AdamW for everything."""
    return AdamW(
        default_groups(model, config.weight_decay),
        config.learning_rate,
        betas=(config.beta1, config.beta2),
    )


def make_muon(model: GPT, config: TrainingConfig) -> Combined:
    """Muon for the blocks' matrices, AdamW for the rest."""
    named = model.named_parameters()
    inside = {id(p) for block in model.blocks for p in block.parameters()}
    matrices = {name: p for name, p in named if p.ndim == 2 and id(p) in inside}
    packed = [name for name in matrices if name.endswith(".attention.query_key_value.weight")]
    heads = model.config.key_value_heads  # the smallest of queries', keys' and values'
    groups: list[dict[str, Any]] = [
        {
            "parameters": [(name, matrices[name]) for name in packed],
            "parts": model.config.n_heads // heads + 2,
        },
        {"parameters": [pair for pair in matrices.items() if pair[0] not in packed]},
    ]
    others = [pair for pair in named if pair[0] not in matrices]
    rate, betas = config.learning_rate, (config.beta1, config.beta2)
    return Combined(
        [
            Muon(groups, rate, momentum=config.momentum, weight_decay=config.weight_decay),
            AdamW(others, rate, betas=betas, weight_decay=0.0),
        ]
    )


class Maker(NamedTuple):
    """How an optimiser is made.

    make      from a model and a recipe
    lightest  of the rules in it, the one that keeps the fewest bytes for a parameter
    """

    make: Callable[[GPT, TrainingConfig], AnyOptimiser]
    lightest: type[Optimiser]


OPTIMISERS = {
    "adamw": Maker(make_adamw, AdamW),
    "muon": Maker(make_muon, Muon),
}
