"""A row of ids, whatever it came in: a list, an array, a tensor of another library."""

from collections.abc import Iterable
from typing import Any

import numpy as np


def row_of_ids(ids: Any) -> np.ndarray | list[int]:
    """An array (N,) of integers, or a list of them; nothing is copied without need.

    ids     a list or any other iterable of integers; an array; anything that has `__array__` or
            `tolist`, as PyTorch's tensors do
    raises  ValueError for an array of another shape or kind, TypeError for anything but a row

    >>> row_of_ids((3, np.uint16(4)))
    [3, 4]
    """
    if type(ids) is list and set(map(type, ids)) <= {int}:
        return ids
    if not isinstance(ids, list | tuple | np.ndarray) and hasattr(ids, "__array__"):
        ids = _as_array(ids)
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
            raise ValueError(
                f"expected a row of integers, got an array of {ids.dtype} of shape {ids.shape}"
                + ("; several rows: decode_batch" if ids.ndim == 2 else "")
            )
        return ids
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise TypeError(f"expected a row of ids, such as [1, 2], got {ids!r:.60}")
    return [_id(i, place) for place, i in enumerate(ids)]


def _as_array(tensor: Any) -> Any:
    """The numbers of a tensor; where it cannot become an array, say as it is on a GPU, a list."""
    try:
        return np.asarray(tensor)
    except (TypeError, RuntimeError):
        return np.asarray(tensor.tolist())


def _id(value: Any, place: int) -> int:
    try:
        return value if type(value) is int else value.__index__()
    except (AttributeError, TypeError):
        advice = "; several rows: decode_batch" if isinstance(value, list | tuple) else ""
        raise TypeError(
            f"expected a row of ids, found {value!r:.60} at place {place:,}{advice}"
        ) from None
