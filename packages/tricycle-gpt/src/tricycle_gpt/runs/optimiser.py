"""The optimiser that a recipe asks for.

adamw  AdamW for everything, with decay for matrices only
muon   Muon for the matrices inside the blocks; AdamW, without decay, for the tables (of tokens,
       of positions, the head) and the vectors
"""

from tricycle_gpt.config import TrainingConfig
from tricycle_gpt.model import GPT
from tricycle_nn import AdamW, Combined, Muon, default_groups


def make_optimiser(model: GPT, config: TrainingConfig) -> AdamW | Combined:
    """All parameters of the model in the hands of what `config.optimiser` names."""
    betas = (config.beta1, config.beta2)
    if config.optimiser == "adamw":
        groups = default_groups(model, config.weight_decay)
        return AdamW(groups, config.learning_rate, betas=betas, weight_decay=config.weight_decay)
    named = [pair for block in model.blocks for pair in block.named_parameters()]
    matrices = [p for _, p in named if p.ndim == 2]
    packed = [p for name, p in named if name == "attention.query_key_value.weight"]
    in_blocks, in_packed = {id(p) for p in matrices}, {id(p) for p in packed}
    heads = model.config.key_value_heads  # the smallest of queries', keys' and values'
    groups = [
        {"parameters": packed, "parts": model.config.n_heads // heads + 2},
        {"parameters": [p for p in matrices if id(p) not in in_packed]},
    ]
    others = [p for p in model.parameters() if id(p) not in in_blocks]
    rate = config.learning_rate
    return Combined(
        [
            Muon(groups, rate, momentum=config.momentum, weight_decay=config.weight_decay),
            AdamW(others, rate, betas=betas, weight_decay=0.0),
        ]
    )
