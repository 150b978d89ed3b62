"""Axes: which ones an operation was asked for, counted from the front."""

from collections.abc import Sequence

import numpy as np

Axes = int | Sequence[int] | None


def normalise_axis(name: str, axis: int, shape: Sequence[int]) -> int:
    """The axis counted from the front.  AxisError naming the shape if there is no such axis."""
    if not -len(shape) <= axis < len(shape):
        raise np.exceptions.AxisError(
            f"{name}: axis {axis} is out of range for shape {tuple(shape)}, "
            f"which has {len(shape)} axes"
        )
    return axis % len(shape)


def normalise_axes(name: str, axes: int | Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Several axes counted from the front; one is as good as a tuple of one.

    Raises AxisError if there is no such axis, ValueError if one is named twice.
    """
    given = tuple(axes) if np.iterable(axes) else (axes,)
    normal = tuple([normalise_axis(name, axis, shape) for axis in given])
    if len(set(normal)) < len(normal):
        raise ValueError(f"{name}: axes {given} name an axis of shape {tuple(shape)} twice")
    return normal
