"""What every optimiser shares: groups of parameters, kept in arenas.

A group is a set of parameters with settings of their own, in the form

    {"parameters": [...], "weight_decay": 0.1}

Each group's parameters move into an arena (see tricycle_autograd.memory), so that a step is
one loop over flat memory.  The moments an optimiser keeps are flat arrays of the same layout.
In a saved state they are named after their parameter, where the optimiser was given its name:
pairs, as `model.named_parameters()` gives them, in place of parameters.

Where several processes train one model together, each can look after a part of every arena,
and needs the moments of that part only: `Group.keep`.

*Masters.*  bfloat16 has 8 bits for a number, and a step is mostly smaller than the last of them.
So for bfloat16 parameters an optimiser keeps one moment more, the master: the parameter in
float32.  A step moves the master, and rounds it into the parameter.  Their gradients are float32,
too (see Arena).
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from tricycle_autograd.additions import assign, is_half_on_gpu
from tricycle_autograd.arrays import in_float32
from tricycle_autograd.cuda import CudaFile, blocks_for
from tricycle_autograd.devices import array_module, move
from tricycle_autograd.memory import Arena, flat_zeros
from tricycle_autograd.profiling import profiled
from tricycle_autograd.tape import note_that_it_moved
from tricycle_autograd.tensor import Tensor
from tricycle_nn.module import Module

Parameters = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]
PLUMBING = ("groups", "steps_taken", "learning_rate")  # of an optimiser's attributes
MASTER = "master"  # the moment that is a bfloat16 parameter in float32


class Scalars(NamedTuple):
    """What changes from step to step, as an update is given it.

    learning_rate  how far to go
    grad_scale     multiplies every gradient on the way
    step           counts from 1
    """

    learning_rate: float
    grad_scale: float = 1.0
    step: int = 1


class Group:
    """Parameters in one arena, with their settings and the optimiser's memory of them.

    arena       where they and their gradients live
    names       the parameters' names; None for each that was given without
    settings    such as weight_decay, by name
    moments     flat arrays laid out like the kept stretches of the arena, by name: float64 for
                float64 parameters, float32 for others, whose masters are among them if they are
                bfloat16
    kept        (start, end) of each stretch of the arena that is moved here: all of it, unless
                `keep` says otherwise
    one_by_one  whether every number moves by itself, or each parameter as a whole
    """

    def __init__(self, parameters, settings, moment_names, one_by_one):
        self.names, tensors = _names_and_tensors(parameters)
        self.arena = Arena(tensors)
        self.settings = settings
        self.one_by_one = one_by_one
        self.kept = [(0, self.arena.starts[-1])]
        values = self.arena.values
        dtype = np.float64 if values.dtype == np.float64 else np.float32
        has_masters = values.dtype.name == "bfloat16"
        self.moments = {
            name: flat_zeros(values.size, dtype, values)
            for name in (*moment_names, *[MASTER] * has_masters)
        }
        if has_masters:
            assign(self.moments[MASTER], values)

    def keep(self, stretches: list[tuple[int, int]]) -> None:
        """From now on look after these stretches of the arena only, (start, end) in order.

        Their moments stay, those of the others are let go: another process moves those numbers,
        and `state_dict` is for a group that keeps all.  Raises ValueError for a stretch that cuts
        a parameter which moves as a whole.
        """
        cuts = {cut for stretch in stretches for cut in stretch}
        if not self.one_by_one and not cuts <= set(self.arena.starts):
            raise ValueError(
                f"{sorted(cuts - set(self.arena.starts))} cut through parameters that move as a "
                "whole; cut where parameters start"
            )
        for name, whole in self.moments.items():
            size = sum(end - start for start, end in stretches)
            self.moments[name] = flat_zeros(size, whole.dtype, whole)
            place = 0
            for start, end in stretches:
                self.moments[name][place : place + end - start] = whole[start:end]
                place += end - start
        self.kept = _merged(stretches)

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Start and end of each kept stretch that has a gradient, and its place in the moments."""
        for first, last in self.arena.runs_with_gradient():
            place = 0
            for a, b in self.kept:
                start, end = max(first, a), min(last, b)
                if start < end:
                    yield start, end, place + start - a
                place += b - a

    def exact(self, start: int, end: int, place: int) -> Any:
        """What a step moves in a run: the values themselves, or their masters if they have any.

        A master from which its parameter differs takes the parameter's number: it was changed
        since, by loading weights or by hand.
        """
        values = self.arena.values[start:end]
        if MASTER not in self.moments:
            return values
        masters = self.moments[MASTER][place : place + end - start]
        follow(masters, values)
        return masters

    def round_masters(self, start: int, end: int, place: int) -> None:
        """Write the moved masters of a run, if there are any, into their parameters."""
        if MASTER in self.moments:
            assign(self.arena.values[start:end], self.moments[MASTER][place : place + end - start])


FILE = CudaFile(__file__)


def follow(masters: Any, values: Any) -> None:
    """Where masters, flat float32, are not what values, bfloat16, were rounded from: take those."""
    if is_half_on_gpu(values):
        threads = 256
        blocks = blocks_for(values.size, threads * 16 // values.itemsize)
        kernel = FILE.get("follow", values.dtype)
        kernel((blocks,), (threads,), masters, values, np.int64(values.size))
    else:
        same = masters.astype(values.dtype) == values
        masters[...] = np.where(same, masters, values.astype(np.float32))


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

    def masters(self) -> dict[str, np.ndarray]:
        """A copy of every parameter, as exactly as it is known, by its name."""
        ...


class Optimiser:
    """Moves parameters downhill.  A subclass says by how much, in `update`.

    learning_rate  set it before each step to follow a schedule
    steps_taken    counts the steps so far

    Raises TypeError for anything but parameters, and if those of one group differ in dtype
    or device; ValueError for settings out of range, for a parameter or a name given twice, and for
    no parameter at all.
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
        check_names(name for name, _ in self._windows([g.arena.values for g in self.groups]))

    def __repr__(self) -> str:
        n = sum(len(group.arena.tensors) for group in self.groups)
        settings: dict[str, Any] = {"learning_rate": self.learning_rate}
        settings |= {name: value for name, value in vars(self).items() if name not in PLUMBING}
        for name in self.groups[0].settings:
            values = list(dict.fromkeys(group.settings[name] for group in self.groups))
            settings[name] = values[0] if len(values) == 1 else values
        told = ", ".join(f"{name}={value}" for name, value in settings.items())
        return f"{type(self).__name__}({n} parameters, {told}, steps_taken={self.steps_taken})"

    def step(self, grad_scale: float = 1.0) -> None:
        """Move every parameter that has a gradient; the others stay as they are.

        grad_scale  multiplies every gradient on the way, without a pass of its own: for
                    clipping (see clip_scale) and for averaging over micro-batches

        The numbers change in place: a loss computed before a step cannot be walked backwards after
        it, for its backward pass would find the new ones; backward() then raises RuntimeError.
        """
        self.steps_taken += 1
        scalars = Scalars(self.learning_rate, grad_scale, self.steps_taken)
        with profiled(f"{type(self).__name__}.step"):
            for group in self.groups:
                group.arena.adopt()
                for tensor in group.arena.tensors:
                    if tensor.grad is not None:
                        note_that_it_moved(tensor.node)
                self.update_group(group, scalars)

    def update_group(self, group, scalars):
        """Move what has a gradient in a group: by `update`, if every number moves by itself."""
        for start, end, place in group.runs():
            moments = [
                group.moments[name][place : place + end - start] for name in self.moment_names
            ]
            self.update(
                group.exact(start, end, place),
                in_float32(group.arena.gradients[start:end]),
                *moments,
                scalars=scalars,
                **group.settings,
            )
            group.round_masters(start, end, place)

    def update(self, values, gradients, *moments, scalars, **settings):
        """Change `values` and the moments in place: flat arrays, all of one length."""
        raise NotImplementedError(f"{type(self).__name__} has no update()")

    def zero_grad(self) -> None:
        """Forget the gradients; the next backward pass overwrites them."""
        for group in self.groups:
            for tensor in group.arena.tensors:
                tensor.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        """A copy of all that is needed to go on exactly: steps taken, learning rate, moments.

        Moments are named after their parameter: "blocks.0.mlp.up.weight.first_moment" has its
        shape.  One that was given without a name is called by its place in the order it was
        given, and its group: "0.12.first_moment" belongs to parameter 12 of group 0.
        """
        state = {
            "steps_taken": np.array(self.steps_taken, np.int64),
            "learning_rate": np.array(self.learning_rate, np.float64),
        }
        for name, _, window in self._moment_windows():
            state[name] = np.array(move(window, "cpu"))
        return state

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Take over what `state_dict` returned.

        Read are also a state from before moments had their parameters' names, and one with
        masters by an optimiser that keeps none: there they are the parameters.  ValueError lists
        every name that does not fit.
        """
        windows = {name: window for name, _, window in self._moment_windows()}
        if not windows.keys() & state.keys():
            newer = {position: name for name, position, _ in self._moment_windows()}
            state = {newer.get(name, name): array for name, array in state.items()}
        for name, window in self._windows([group.arena.values for group in self.groups]):
            if f"{name}.{MASTER}" in state:
                windows.setdefault(f"{name}.{MASTER}", window)
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
                f"and groups it was saved with, all by name or none: {'; '.join(problems)}"
            )
        self.steps_taken = int(state["steps_taken"])
        self.learning_rate = float(state["learning_rate"])
        for name, window in windows.items():
            array = np.asarray(state[name], window.dtype)
            window[...] = array_module(window).asarray(array)

    def masters(self) -> dict[str, np.ndarray]:
        """A copy of every parameter as exactly as it is known: what a checkpoint should hold.

        That is the master in float32 where there is one, and the parameter where there is none,
        by its name.  For an optimiser that keeps all of its groups, as `state_dict` is.
        """
        for group in self.groups:
            group.arena.adopt()
        exact = [group.exact(0, group.arena.starts[-1], 0) for group in self.groups]
        return {name: np.array(move(window, "cpu")) for name, window in self._windows(exact)}

    def names(self) -> list[str]:
        """The parameters' names, of those that were given one."""
        return [name for group in self.groups for name in group.names if name]

    def moments_of_names(self) -> list[str]:
        """What a state may hold for the parameters that were given a name, masters included."""
        moments = (*self.moment_names, MASTER)
        return [f"{name}.{moment}" for name in self.names() for moment in moments]

    def _windows(self, flats):
        """The name, or position, of every parameter and its window on its group's flat array."""
        for g, (group, flat) in enumerate(zip(self.groups, flats, strict=True)):
            windows = group.arena.windows(flat)
            for p, (name, window) in enumerate(zip(group.names, windows, strict=True)):
                yield name or f"{g}.{p}", window

    def _moment_windows(self):
        """The name, the name by position and the window of every moment of every parameter."""
        for g, group in enumerate(self.groups):
            for moment_name, moment in group.moments.items():
                windows = group.arena.windows(moment)
                for p, (name, window) in enumerate(zip(group.names, windows, strict=True)):
                    position = f"{g}.{p}.{moment_name}"
                    yield f"{name}.{moment_name}" if name else position, position, window


def default_groups(model: Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weight decay for matrices, none for vectors (biases, norms' weights).

    Parameters come with their names, after which their moments are named.

    Decay pulls a matrix towards small weights; a norm's weight or a bias has no reason to be
    small (the habit of GPT-2's successors, and of nanoGPT).
    """
    named = model.named_parameters()
    groups = [
        {"parameters": [pair for pair in named if pair[1].ndim >= 2], "weight_decay": weight_decay},
        {"parameters": [pair for pair in named if pair[1].ndim < 2], "weight_decay": 0.0},
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


def _names_and_tensors(parameters):
    """Names and tensors of what was given as tensors or as (name, tensor) pairs."""
    given = list(parameters)
    named = [isinstance(entry, tuple) and len(entry) == 2 for entry in given]
    if not any(named):
        return [None] * len(given), given
    if not all(named) or not all(isinstance(name, str) and name for name, _ in given):
        raise TypeError(
            "the parameters of a group are tensors, or all of them (name, tensor) pairs; pass "
            "model.parameters() or model.named_parameters()"
        )
    return [name for name, _ in given], [tensor for _, tensor in given]


def _merged(stretches):
    """The same (start, end), in as few as can be: neighbours as one."""
    merged: list[tuple[int, int]] = []
    for start, end in stretches:
        if merged and merged[-1][1] == start:
            start = merged.pop()[0]
        merged.append((start, end))
    return merged


def flattened(name: str, *arrays: Any) -> list[Any]:
    """Views (N,) on arrays of one shape, for kernels that change them in place.

    Raises ValueError for shapes that differ, and for an array whose numbers are not in order in
    memory: its flat form would be a copy.
    """
    if len({array.shape for array in arrays}) > 1:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"{name} wants arrays of one shape, got {shapes}")
    if not all(array.flags.c_contiguous for array in arrays):
        raise ValueError(
            f"{name} changes arrays in place, which have their numbers in order in memory; got "
            "one that does not: pass a copy, array.copy()"
        )
    return [array.reshape(-1) for array in arrays]


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError if two parameters have one name, be it given or by position."""
    names = list(names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"two parameters are called {', '.join(twice)}; a state could not tell them apart: "
            "give them names of their own"
        )


def check_not_negative(name: str, value: float) -> None:
    """Raise ValueError unless 0 <= value: for rates and strengths."""
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, got {value}")


def check_share(name: str, value: float) -> None:
    """Raise ValueError unless 0 <= value < 1: for how much of something old is kept."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}")
