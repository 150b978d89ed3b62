"""Parameters: tensors that are learned; and how they are found in the objects that hold them."""

from collections.abc import Iterator, Set, ValuesView
from typing import Any

import numpy as np

from tricycle_autograd.tensor import Tensor


class Parameter(Tensor):
    """A tensor that is learned: a leaf of the graph that wants its gradient.

    It shares the memory of the array it is given, and training changes that memory.
    """

    __slots__ = ()

    def __init__(self, array: Any):
        super().__init__(array, requires_grad=True)


def is_module(thing: Any) -> bool:
    """Whether it is a Module (module.py): an object that knows the parameters in it."""
    return hasattr(thing, "named_parameters")


def children(parent: Any) -> Iterator[tuple[str, Any]]:
    """(name, child) for whatever a module, a list, a tuple or a dictionary holds."""
    parent = attributes(parent) if is_module(parent) else parent
    pairs = parent.items() if isinstance(parent, dict) else enumerate(parent)
    return ((str(name), child) for name, child in pairs)


def attributes(thing: Any) -> dict[str, Any]:
    """An object's attributes by name: those in its dictionary, and those in slots."""
    found = dict(getattr(thing, "__dict__", {}))
    for kind in type(thing).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(thing, name):
                found[name] = getattr(thing, name)
    return found


def holds_parameters(thing: Any) -> bool:
    """Whether a set, or an object other than a module, has parameters or modules in it."""
    if isinstance(thing, (str, bytes, int, float, Tensor, np.ndarray, type(None), type)):
        return False
    inside = thing if isinstance(thing, (Set, ValuesView)) else attributes(thing).values()
    return any(isinstance(one, Parameter) or is_module(one) for one in inside)
