"""Weights that others published: held against a config, and read into a model.

Names and shapes are compared before a model is made, so that a file which does not fit costs
nothing; then one tensor after the other is read, and copied to where it belongs.  At most the model
and one tensor are in memory.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tricycle_gpt.config import GPTConfig
from tricycle_gpt.family import Piece
from tricycle_gpt.model import GPT

HEAD = "lm_head.weight"
# No weights, though the first files have them: the causal mask, and rotary frequencies.
NO_WEIGHTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
READ = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Stored:
    """A tensor that is still in a file.

    shape  of the array that read() gives
    kind   the type of its numbers there, for messages
    read   () -> its numbers
    """

    shape: tuple[int, ...]
    kind: str
    read: Callable[[], np.ndarray]


def pieces(config: GPTConfig) -> dict[str, Piece]:
    """Each of their weights, by its name, as a piece of ours."""
    found = config.family.format_of(config).pieces(config)
    if not config.tied_head:
        found[HEAD] = Piece("head_weight")
    return found


def model_of(config: GPTConfig, stored: Mapping[str, Stored], where: str) -> GPT:
    """A model with these weights.

    config  what it should be; a head that is stored counts, whatever the config says of it, unless
            it is the token table once more
    stored  their weights by their names, with or without the names' prefix
    where   what messages begin with

    Raises ValueError that lists every name which is missing, unknown or of another shape.
    """
    stored = {name: each for name, each in stored.items() if not name.endswith(NO_WEIGHTS)}
    _check_kinds(stored, where)
    _check_size(config, stored, where)  # before anything goes through all layers
    stored = _full_names(config, stored)
    config, stored = _with_its_head(config, stored)
    # Zeros where nothing random is needed: dropout draws its seed.
    rng = np.random.default_rng(0) if config.dropout else NothingDrawn(np.random.PCG64(0))
    model = GPT(config, rng=rng)
    parameters = {name: parameter.array for name, parameter in model.named_parameters()}
    places = {name: piece.of(parameters) for name, piece in pieces(config).items()}
    _check_fit(places, stored, where)
    for name, place in places.items():
        place[...] = stored[name].read()
    model.eval()
    return model


class NothingDrawn(np.random.Generator):
    """Draws zeros, which take no time: for a model whose weights are read."""

    def standard_normal(self, size=None, dtype=np.float64, out=None):
        return np.zeros(size, dtype)


def _full_names(config, stored):
    """By their full names: the first GPT-2 files leave out the prefix."""
    prefix, known = config.family.format_of(config).prefix, {*pieces(config), HEAD}
    found = {}
    for name, tensor in stored.items():
        full = prefix + name if prefix + name in known else name
        if full in found:
            raise ValueError(
                f"the weights hold {full} twice, with its prefix {prefix!r} and without"
            )
        found[full] = tensor
    return found


def _with_its_head(config, stored):
    """Whether the head is a table of its own, as what is stored says."""
    if not config.tied_head or HEAD not in stored:
        return config, stored
    table = stored.get(config.family.format_of(config).token_table)
    same = table is not None and table.shape == stored[HEAD].shape
    if same and np.array_equal(table.read(), stored[HEAD].read()):
        return config, {name: tensor for name, tensor in stored.items() if name != HEAD}
    return replace(config, tied_head=False), stored


def _check_kinds(stored, where):
    others = [name for name, each in stored.items() if each.kind not in READ]
    if others:
        kinds = sorted({stored[name].kind for name in others})
        raise ValueError(
            f"{where} holds {', '.join(kinds)} ({others[0]} is one of {len(others)}); weights in "
            f"{', '.join(READ)} are read, and no quantised ones"
        )


def _check_size(config, stored, where):
    """No memory is asked for that the files could not fill."""
    numbers = sum(math.prod(each.shape) for each in stored.values())
    if config.n_layers > len(stored) or config.least_parameters > 2 * numbers:
        raise ValueError(
            f"the config of {where} describes {config.n_layers:,} layers and at least "
            f"{config.least_parameters:,} numbers, and its weights are {len(stored):,} arrays with "
            f"{numbers:,}: one of the two belongs to another model"
        )


def _check_fit(places, stored, where):
    missing, unknown = sorted(places.keys() - stored.keys()), sorted(stored.keys() - places.keys())
    both = [name for name in places if name in stored]
    misshapen = [
        f"{name} is {stored[name].shape}, expected {places[name].shape}"
        for name in both
        if stored[name].shape != places[name].shape
    ]
    if missing or unknown or misshapen:
        raise ValueError(
            f"the weights in {where} do not fit its config: missing {missing or 'nothing'}, "
            f"unknown {unknown or 'nothing'}, misshapen {misshapen or 'nothing'}"
        )
