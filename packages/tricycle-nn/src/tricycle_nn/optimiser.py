"""What every optimiser shares: groups of parameters, kept in arenas.

A group is a set of parameters with settings of their own, in the form

    {"parameters": [...], "weight_decay": 0.1}

Each group's parameters move into an arena (see tricycle_autograd.memory), so that a step is
one loop over flat memory.  The moments an optimiser keeps are flat arrays of the same layout.

Where several processes train one model together, each can look after a part of every arena,
and needs the moments of that part only: `Group.keep`.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from tricycle_autograd.memory import Arena, aligned_zeros
from tricycle_autograd.profiling import profiled
from tricycle_autograd.tensor import Tensor
from tricycle_nn.module import Module

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]


class Group:
    """Parameters in one arena, with their settings and the optimiser's memory of them.

    arena       where they and their gradients live
    settings    such as weight_decay, by name
    moments     flat arrays laid out like the kept stretches of the arena, by name
    kept        (start, end) of each stretch of the arena that is moved here: all of it, unless
                `keep` says otherwise
    one_by_one  whether every number moves by itself, or each parameter as a whole
    """

    def __init__(self, parameters, settings, moment_names, one_by_one):
        self.arena = Arena(parameters)
        self.settings = settings
        self.one_by_one = one_by_one
        self.kept = [(0, self.arena.starts[-1])]
        self.moments = {name: aligned_zeros(self.arena.starts[-1]) for name in moment_names}

    def keep(self, stretches: list[tuple[int, int]]) -> None:
        """From now on look after these stretches of the arena only, (start, end) in order.

        Their moments stay, those of the others are let go: somebody else moves those numbers, and
        `state_dict` is for a group that keeps all.  Raises ValueError for a stretch that cuts a
        parameter which moves as a whole.
        """
        cuts = {cut for stretch in stretches for cut in stretch}
        if not self.one_by_one and not cuts <= set(self.arena.starts):
            raise ValueError(
                f"{sorted(cuts - set(self.arena.starts))} cut through parameters that move as a "
                "whole; cut where parameters start"
            )
        for name, whole in self.moments.items():
            self.moments[name] = aligned_zeros(sum(end - start for start, end in stretches))
            if stretches:
                np.concatenate([whole[a:b] for a, b in stretches], out=self.moments[name])
        self.kept = list(stretches)

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Start and end of each kept stretch that has a gradient, and its place in the moments."""
        for first, last in self.arena.runs_with_gradient():
            place = 0
            for a, b in self.kept:
                start, end = max(first, a), min(last, b)
                if start < end:
                    yield start, end, place + start - a
                place += b - a


class AnyOptimiser(Protocol):
    """What a training loop asks of an optimiser: of one, of several `Combined`, or of one whose
    work is dealt out to several processes.  The methods are explained in `Optimiser`."""

    learning_rate: float

    @property
    def groups(self) -> list[Group]:
        """The parameters, in arenas."""
        ...

    def step(self, grad_scale: float = 1.0) -> None:
        """Move the parameters."""
        ...

    def zero_grad(self) -> None:
        """Forget the gradients."""
        ...

    def state_dict(self) -> dict[str, np.ndarray]:
        """All that is needed to go on exactly."""
        ...

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Take over what `state_dict` returned."""
        ...


class Optimiser:
    """Moves parameters downhill.  A subclass says by how much, in `update`.

    learning_rate  set it before each step to follow a schedule
    steps_taken    counts the steps so far

    Raises TypeError for what is no float32 parameter on the cpu, ValueError for settings out
    of range, for a parameter given twice, and for none at all.
    """

    moment_names: tuple[str, ...] = ()
    bytes_per_parameter = 0  # that it keeps beside value and gradient: 4 a moment
    one_by_one = True  # False: a parameter moves as a whole

    def __init__(self, parameters: Parameters, learning_rate: float, **defaults: float):
        check_not_negative("learning_rate", learning_rate)
        self.learning_rate = learning_rate
        self.steps_taken = 0
        self.groups = [
            Group(tensors, settings, self.moment_names, self.one_by_one)
            for tensors, settings in _as_groups(parameters, defaults)
        ]
        everyone = [id(p) for group in self.groups for p in group.arena.tensors]
        if not everyone:
            raise ValueError("an optimiser needs at least one parameter, got none")
        if len(set(everyone)) < len(everyone):
            raise ValueError("a parameter is in two groups; put each one in one group")

    def step(self, grad_scale: float = 1.0) -> None:
        """Move every parameter that has a gradient; the others stay as they are.

        grad_scale  multiplies every gradient on the way, without a pass of its own: for
                    clipping (see clip_scale) and for averaging over micro-batches

        The numbers change in place: a loss computed before a step is not to be walked backwards
        after it, for its backward pass would find the new ones.
        """
        self.steps_taken += 1
        with profiled(f"{type(self).__name__}.step"):
            for group in self.groups:
                group.arena.adopt()
                self.update_group(group, grad_scale)

    def update_group(self, group, grad_scale):
        """Move what has a gradient in a group: by `update`, if every number moves by itself."""
        for start, end, place in group.runs():
            self.update(
                group.arena.values[start:end],
                group.arena.gradients[start:end],
                *(moment[place : place + end - start] for moment in group.moments.values()),
                grad_scale=grad_scale,
                **group.settings,
            )

    def update(self, values, gradients, *moments, grad_scale, **settings):
        """Change `values` and the moments in place: flat arrays, all of one length."""
        raise NotImplementedError(f"{type(self).__name__} has no update()")

    def zero_grad(self) -> None:
        """Forget the gradients; the next backward pass overwrites them."""
        for group in self.groups:
            for tensor in group.arena.tensors:
                tensor.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        """A copy of all that is needed to go on exactly: steps taken, learning rate, moments.

        Moments are named by the parameter's place in the order it was given, and its group:
        "0.12.first_moment" has the shape of parameter 12 of group 0.
        """
        state = {
            "steps_taken": np.array(self.steps_taken, np.int64),
            "learning_rate": np.array(self.learning_rate, np.float64),
        }
        for name, window in self._moment_windows():
            state[name] = window.copy()
        return state

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Take over what `state_dict` returned.  ValueError lists every name that does not fit."""
        windows = dict(self._moment_windows())
        shapes: dict[str, tuple[int, ...]] = {"steps_taken": (), "learning_rate": ()}
        shapes |= {name: window.shape for name, window in windows.items()}
        problems = [f"missing {name}" for name in shapes if name not in state]
        problems += [f"unknown {name}" for name in state if name not in shapes]
        for name, shape in shapes.items():
            if name in state and np.shape(state[name]) != shape:
                problems.append(f"{name} is {np.shape(state[name])}, not {shape}")
        if problems:
            raise ValueError(
                f"this state does not fit the {type(self).__name__}, which needs the parameters "
                f"and groups it was saved with: {'; '.join(problems)}"
            )
        self.steps_taken = int(state["steps_taken"])
        self.learning_rate = float(state["learning_rate"])
        for name, window in windows.items():
            window[...] = state[name]

    def _moment_windows(self):
        for g, group in enumerate(self.groups):
            for moment_name, moment in group.moments.items():
                for p, window in enumerate(group.arena.windows(moment)):
                    yield f"{g}.{p}.{moment_name}", window


def default_groups(model: Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weight decay for matrices, none for vectors (biases, norms' weights).

    Decay pulls a matrix towards small weights; a norm's weight or a bias has no reason to be
    small (the habit of GPT-2's successors, and of nanoGPT).
    """
    parameters = model.parameters()
    groups = [
        {"parameters": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"parameters": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["parameters"]]


def _as_groups(parameters, defaults):
    """(parameters, settings) of each group, from whichever of its two forms `parameters` has."""
    if isinstance(parameters, (Tensor, Module, dict)):
        raise TypeError(
            f"an optimiser takes a list of parameters, or of groups, got one "
            f"{type(parameters).__name__}; pass model.parameters(), or put it in a list"
        )
    given = list(parameters)
    if not any(isinstance(entry, dict) for entry in given):
        given = [{"parameters": given}]
    return [_as_group(group, defaults) for group in given]


def _as_group(group, defaults):
    if not isinstance(group, dict) or "parameters" not in group:
        raise TypeError('groups are dicts such as {"parameters": [...], "weight_decay": 0.1}')
    settings = {**defaults, **group}
    tensors = settings.pop("parameters")
    unknown = sorted(settings.keys() - defaults.keys())
    if unknown:
        raise TypeError(f"unknown settings in a group: {unknown}; known: {sorted(defaults)}")
    for name, value in settings.items():
        check_not_negative(name, value)
    return tensors, settings


def check_not_negative(name: str, value: float) -> None:
    """Raise ValueError unless 0 <= value: for rates and strengths."""
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, got {value}")


def check_share(name: str, value: float) -> None:
    """Raise ValueError unless 0 <= value < 1: for how much of something old is kept."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}")
