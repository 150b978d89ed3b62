"""Parameters: tensors that are learned; and how they are found in the objects that hold them."""

from collections.abc import Iterator
from typing import Any

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
    parent = vars(parent) if is_module(parent) else parent
    pairs = parent.items() if isinstance(parent, dict) else enumerate(parent)
    return ((str(name), child) for name, child in pairs)
