"""Modules: objects that hold parameters and know how to apply them.

There is no registration and no magic.  A module is an ordinary object; its parameters are
whatever `Parameter`s are found by looking through its attributes, through lists, tuples, deques
and dictionaries, and through the modules inside it, in the order they were set.  A parameter's
name is the path by which it was found: "blocks.0.attention.query_key_value.weight".

Everything is found once.  A parameter that two modules share (tied weights) is listed under
the first of its names only, so that it is counted, saved and updated once.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tricycle_autograd.arrays import as_dtype, is_floating
from tricycle_autograd.devices import move
from tricycle_autograd.tape import Node, note_that_it_moved
from tricycle_nn.parameter import Parameter, children, holds_parameters
from tricycle_nn.summary import summary


class Module:
    """Parameters, other modules, and a `forward` that uses them; call it like a function."""

    training = True  # some layers (dropout) behave differently while training

    def __call__(self, *inputs, **options):
        return self.forward(*inputs, **options)

    def forward(self, *inputs, **options):
        raise NotImplementedError(
            f"{type(self).__name__} has no forward(); define what it computes"
        )

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """(name, parameter) of every parameter, each listed once.

        Raises ValueError where two would have one name, and TypeError for parameters in sets and
        other objects, where they have no names.
        """
        named = [(path, found) for path, found in _walk(self) if isinstance(found, Parameter)]
        if len({name for name, _ in named}) < len(named):
            raise ValueError(_names_that_meet(self))
        return named

    def parameters(self) -> list[Parameter]:
        """Every parameter, each listed once."""
        return [parameter for _, parameter in self.named_parameters()]

    def modules(self) -> list["Module"]:
        """This module and every module inside it, each listed once."""
        return [self, *(found for _, found in _walk(self) if isinstance(found, Module))]

    def train(self, training: bool = True) -> "Module":
        """Behave as in training: dropout drops.  Returns the module itself."""
        for module in self.modules():
            module.training = training
        return self

    def eval(self) -> "Module":
        """Behave as in use: dropout lets everything through.  Returns the module itself."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients; the next backward pass overwrites what their memory holds."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, device: str, dtype: Any = None) -> "Module":
        """Move every parameter to "cpu" or "cuda", and to another floating point dtype if given.

            model.to("cuda", "bfloat16")   to train on a GPU: optimisers keep float32 masters
            model.to("cuda")               as exact as on the CPU, for checks

        A parameter that changes leaves its old memory, and its gradient, behind: make optimisers
        afterwards.  Returns the module itself.  Raises TypeError for a dtype that cannot be learned
        in.
        """
        dtype = None if dtype is None else as_dtype(dtype)
        if dtype is not None and not is_floating(dtype):
            raise TypeError(f"parameters are floating point numbers, {dtype} is not")
        for parameter in self.parameters():
            array = parameter.array
            if dtype is not None and array.dtype != dtype:
                array = move(array, "cpu").astype(dtype)  # numpy rounds as well on any machine
            array = move(array, device)
            if array is not parameter.array:
                parameter.array = array
                parameter.node = Node()
        return self

    def state_dict(self) -> dict[str, np.ndarray]:
        """A copy of every parameter on the CPU, by name: what training will not change."""
        return {name: np.array(parameter.numpy()) for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Copy arrays into the parameters of the same names, in place.

        Raises ValueError, before anything is changed, that lists every name which is missing,
        unknown, or has another shape than its parameter.
        """
        parameters = dict(self.named_parameters())
        problems = [f"missing {name}" for name in parameters if name not in state]
        problems += [f"unknown {name}" for name in state if name not in parameters]
        for name, parameter in parameters.items():
            if name in state and np.shape(state[name]) != parameter.shape:
                problems.append(f"{name} is {np.shape(state[name])}, not {parameter.shape}")
        if problems:
            raise ValueError(
                f"these weights do not fit {type(self).__name__}: {'; '.join(problems)}"
            )
        for name, parameter in parameters.items():
            parameter.array[...] = move(np.asarray(state[name], parameter.dtype), parameter.device)
            note_that_it_moved(parameter.node)

    def __repr__(self) -> str:
        return summary(self)


WITH_NAMES = (Parameter, Module, list, tuple, dict, deque)


def _names_that_meet(module):
    """The message for two parameters of one name, which says where both are."""
    where: dict[str, list[str]] = {}
    for path, found in _walk(module, separator="\0"):
        if isinstance(found, Parameter):
            steps = path.split("\0")
            place = steps[0] + "".join(f"[{step!r}]" for step in steps[1:])
            where.setdefault(".".join(steps), []).append(place)
    name, places = next((name, places) for name, places in where.items() if len(places) > 1)
    return (
        f"two parameters of {type(module).__name__} are called {name}: {' and '.join(places)}; "
        "give one another name, or one of them would be lost where they are saved"
    )


def _walk(
    parent: Any, path: str = "", seen: set[int] | None = None, separator: str = "."
) -> Iterator[tuple[str, Any]]:
    """(path, child) for every module and parameter below `parent`, each of them once."""
    seen = {id(parent)} if seen is None else seen
    for name, child in children(parent):
        if id(child) in seen:
            continue
        if isinstance(child, WITH_NAMES):
            seen.add(id(child))
            if isinstance(child, (Parameter, Module)):
                yield path + name, child
            if not isinstance(child, Parameter):
                yield from _walk(child, f"{path}{name}{separator}", seen, separator)
        elif holds_parameters(child):
            raise TypeError(
                f"{path}{name} is a {type(child).__name__} with parameters in it, which would not "
                "be found: a module looks through lists, tuples, deques, dictionaries and other "
                "modules; put them in one of these"
            )
