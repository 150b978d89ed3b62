"""Families: what one kind of GPT has that another has not, in one place.

The tokens, the residual stream and the head are every GPT's.  What differs is the block, the norm
at the end, whether positions are learned, which sizes fit together, and what all of it is called
in other programs' files.  A `Family` says so, and families.py has one for each kind.

A new family is a block in tricycle_nn, a `Family` in families.py, and a test.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tricycle_nn import Module

if TYPE_CHECKING:
    from tricycle_gpt.config import GPTConfig


IN_WORDS = {int: "a whole number", float: "a number", bool: "true or false", dict: "a section"}


def setting(theirs: dict[str, Any], name: str, kind: type, otherwise: Any) -> Any:
    """One of their settings; `otherwise` where it is left out, or null.

    kind  int, float, bool or dict: ValueError for a value that is something else
    """
    value: Any = theirs.get(name)
    if value is None:
        return otherwise
    if kind is float and type(value) is int and abs(value) < 2**63:
        value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{name} should be {IN_WORDS[kind]}, got {value!r:.80}")
    return value


@dataclass(frozen=True)
class Piece:
    """Where a weight of another program's file is among ours.

    name        our parameter
    columns     the part of its last axis, or None for all of it
    transposed  whether theirs lies the other way round
    """

    name: str
    columns: slice | None = None
    transposed: bool = False

    def of(self, parameters: dict[str, np.ndarray]) -> np.ndarray:
        """A view of the piece, laid out as theirs."""
        array = parameters[self.name]
        if self.columns is not None:
            array = array[..., self.columns]
        return array.T if self.transposed else array


@dataclass(frozen=True)
class Format:
    """How a family's models stand in Hugging Face's files, under one model_type.

    model_type    in their config.json
    architecture  the class of transformers that reads it
    fits          (config) -> whether a model of ours can be written so
    needed        settings that their config cannot do without, whole numbers
    used          other settings of theirs that to_ours reads
    fixed         settings at which our blocks do what theirs do, with those values
    pieces        (config) -> each of their weights, by its name, as a piece of ours
    to_theirs     (config) -> their settings, but for those that all formats share
    to_ours       (their settings) -> arguments of GPTConfig
    refused       (their settings) -> what else there is in them that our blocks do not do
    token_table   their name for the table that embeds tokens
    prefix        of all names, which some files leave out
    """

    model_type: str
    architecture: str
    fits: Callable[["GPTConfig"], bool]
    needed: tuple[str, ...]
    used: tuple[str, ...]
    fixed: dict[str, tuple[Any, ...]]
    pieces: Callable[["GPTConfig"], dict[str, Piece]]
    to_theirs: Callable[["GPTConfig"], dict[str, Any]]
    to_ours: Callable[[dict[str, Any]], dict[str, Any]]
    refused: Callable[[dict[str, Any]], list[str]]
    token_table: str = "model.embed_tokens.weight"
    prefix: str = ""


@dataclass(frozen=True)
class Family:
    """A kind of GPT.

    name               as GPTConfig.block has it
    make_block         (config, rng=…) -> one block
    make_norm          (width, eps) -> the norm after the last block
    learned_positions  whether positions have a table, added to the tokens' vectors
    mlp_width          (embedding_dim) -> the width inside MLPs where none is given
    check              (config) raises ValueError for settings that its blocks do not take
    formats            its model folders; a model is written in the first that fits
    """

    name: str
    make_block: Callable[..., Module]
    make_norm: Callable[[int, float], Module]
    learned_positions: bool
    mlp_width: Callable[[int], int]
    check: Callable[["GPTConfig"], None]
    formats: tuple[Format, ...]

    def format_of(self, config: "GPTConfig") -> Format:
        """The format that a model is written in.  ValueError if there is none for it.

        Ask before training: a model that cannot be written would be lost at the end.
        """
        for format_ in self.formats:
            if format_.fits(config):
                return format_
        raise ValueError(
            f"a model of the family {self.name} with these settings cannot be written as a model "
            f"folder; its formats are {', '.join(f.model_type for f in self.formats) or 'none'}"
        )


FAMILIES: dict[str, Family] = {}


def add_family(family: Family) -> Family:
    """Make a family known by its name, so that GPTConfig(block=name) finds it.

    Raises ValueError if another one has that name.
    """
    if family.name in FAMILIES:
        raise ValueError(f"there is a family {family.name!r} already; choose another name")
    FAMILIES[family.name] = family
    return family


def family_named(name: str) -> Family:
    """The family of that name.  ValueError, naming those there are, for another one."""
    if name not in list(FAMILIES):  # a list, because what a file names may be one itself
        known = " or ".join(f'"{known}"' for known in FAMILIES)
        raise ValueError(f"block must be {known}, got {name!r}")
    return FAMILIES[name]
