"""Where did the first number break?  A bad batch is run again, and every operation looked at.

The batches of a step whose loss or gradient is not finite are saved, with the step that dropout
was at: `load_batches` and `first_bad_operation` find the place again, in another session too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tricycle_autograd import tape
from tricycle_autograd.arrays import is_floating
from tricycle_autograd.devices import move
from tricycle_autograd.modes import observed_by
from tricycle_autograd.profiling import name_of_primitive
from tricycle_gpt.config import TrainingConfig
from tricycle_gpt.model import GPT
from tricycle_gpt.runs.distributed import Communicator, texts_of_all
from tricycle_gpt.runs.step import Batch
from tricycle_gpt.runs.whole_files import read_arrays, write_arrays
from tricycle_nn import Module, set_dropout_step


class BadNumber(ArithmeticError):
    """An operation gave a number that is not finite."""


def _not_finite(array):
    return ~np.isfinite(array)


def on_the_cpu(array: Any) -> np.ndarray:
    """The numbers as numpy has them, wherever they are: looking at them is numpy's work."""
    return np.asarray(move(array, "cpu") if hasattr(array, "dtype") else array)


class FiniteCheck:
    """Looks at every operation's result, and at every gradient it hands back.

    It is an observer, as `profile()` is; `paths` names the modules that are running.
    """

    def __init__(self):
        self.paths: list[str] = [""]
        self.operation = ""
        self.flops = 0  # products count theirs for every observer

    def call(self, name: str, run: Callable, args: tuple, kwargs: dict) -> Any:
        """Run a fused operation."""
        before, self.operation = self.operation, name
        try:
            return run(*args, **kwargs)
        finally:
            self.operation = before

    def recorded(self, array: Any, inputs: Any, backward: Callable) -> Callable:
        """Check a result; returns its backward, which will be checked too."""
        name = self.operation or name_of_primitive()
        where = f"{name} in {self.paths[-1] or 'the model'}"
        shapes = ", ".join(str(getattr(tensor.array, "shape", ())) for tensor in inputs)
        # Attention's definition has -inf for what may not be seen: if given, it is meant.
        given = any(np.any(on_the_cpu(tensor.array) == -np.inf) for tensor in inputs)
        self._check(array, f"the result of {where}", shapes, np.isnan if given else _not_finite)

        def checked(*dy):
            gradients = backward(*dy)
            for tensor, gradient in zip(inputs, gradients, strict=True):
                # What was written to a leaf's buffer was not handed over: it lies there.
                if gradient is tape.ADDED:
                    gradient = tensor.node.grad
                if gradient is not None:
                    self._check(gradient, f"a gradient of {where}", shapes)
            return gradients

        return checked

    @contextmanager
    def part(self, name: str, direction: str = "") -> Iterator[None]:
        """A stretch that is not an operation: nothing to look at."""
        yield

    def _check(self, array, what, shapes, is_bad=_not_finite):
        array = on_the_cpu(array)
        bad = int(is_bad(array).sum()) if is_floating(array.dtype) else 0
        if bad:
            raise BadNumber(
                f"{what}: {bad:,} of {array.size:,} numbers are not finite, shape {array.shape}, "
                f"from inputs of shape {shapes}"
            )


@dataclass(frozen=True)
class BadStep:
    """A step after which the weights are not moved.

    step     counts from 0
    batches  what it learnt from: (inputs, targets), (B, T) integers each
    reason   why it is bad, as Health.judge says it
    finite   the loss and the gradient were numbers, only too large: so are those of all operations
    """

    step: int
    batches: Sequence[Batch]
    reason: str
    finite: bool


def examine_bad_step(model: GPT, bad: BadStep, folder: Path, communicator: Communicator) -> str:
    """Save a bad step's batches and name its first bad operation: what to tell, on every rank.

    The file's name, for people, counts steps from 1.
    """
    dropout_step = bad.step * len(bad.batches)
    of_rank = f"-rank-{communicator.rank}" if communicator.size > 1 else ""
    kept = folder / f"bad-step-{bad.step + 1:08d}{of_rank}.safetensors"
    try:
        save_batches(kept, bad.batches, dropout_step)
        found = f"its batches are in {kept}"
    except OSError as error:  # what is wrong with the step is told all the same
        found = f"its batches could not be kept ({error})"
    if not bad.finite:
        found += f"; {first_bad_operation(model, bad.batches, dropout_step)}"
        set_dropout_step(model, dropout_step + len(bad.batches))
    return "; ".join(texts_of_all(communicator, found))


def why_it_stopped(config: TrainingConfig, bad: BadStep, found: str) -> str:
    """What to say when a bad step ends a run, and what may help.

    found  what examine_bad_step found
    """
    advice = (
        f"A learning rate below {config.learning_rate:.2g}, or a longer warmup, usually helps, in "
        "a run of its own"
    )
    policy = "spikes" if bad.finite else "when_not_finite"
    if getattr(config, policy) == "stop":
        flag = f"--training.{policy.replace('_', '-')} skip"
        advice += f"; to go on with this one, without such steps: --resume {flag}"
    return (
        f"at step {bad.step + 1} {bad.reason}; the weights were left as they were. {found}. "
        f"{advice}"
    )


def weights_not_finite(model: GPT) -> list[str]:
    """The names of parameters that hold a number that is not finite: no step will mend them."""
    named = model.named_parameters()
    return [name for name, p in named if not np.isfinite(on_the_cpu(p.array)).all()]


def first_bad_operation(model: GPT, batches: Sequence[Batch], dropout_step: int) -> str:
    """Run batches again and say which operation first gives a number that is not finite.

    The weights are not changed; the gradients are gone afterwards.
    """
    if bad := weights_not_finite(model):
        return f"the weights {', '.join(bad[:3])} are not finite themselves"
    check = FiniteCheck()
    set_dropout_step(model, dropout_step)
    model.zero_grad()
    running = named_while_running(model, check.paths)
    try:
        with running, observed_by(check), np.errstate(all="ignore"):
            for inputs, targets in batches:
                (model.loss(inputs, targets) / len(batches)).backward()
    except BadNumber as error:
        return str(error)
    finally:
        model.zero_grad()
    return "run again, every operation was finite: the fault did not repeat itself"


@contextmanager
def named_while_running(model: Module, paths: list[str]) -> Iterator[None]:
    """Keep the path of the module that runs at the end of `paths`."""
    names = dict(_modules(model, ""))

    def listen(module, path):
        forward = module.forward

        def named(*inputs, **options):
            paths.append(path)
            try:
                return forward(*inputs, **options)
            finally:
                paths.pop()

        module.forward = named

    del names[""]
    before = {path: vars(module).get("forward") for path, module in names.items()}
    for path, module in names.items():
        listen(module, path)
    try:
        yield
    finally:
        for path, module in names.items():
            if before[path] is None:
                del module.forward  # the class's own is there again
            else:
                module.forward = before[path]


def _modules(module, path):
    """(path, module) of everything in a module."""
    yield path, module
    for name, value in vars(module).items():
        inside = enumerate(value) if isinstance(value, list) else [(None, value)]
        for i, found in inside:
            if isinstance(found, Module):
                place = name if i is None else f"{name}.{i}"
                yield from _modules(found, f"{path}.{place}" if path else place)


def save_batches(path: str | Path, batches: Sequence[Batch], dropout_step: int) -> None:
    """Keep a step's batches, of any shapes, in a file.  OSError if it cannot be written."""
    arrays = {"dropout_step": np.array(dropout_step)}
    for i, (inputs, targets) in enumerate(batches):
        arrays |= {f"inputs.{i}": inputs, f"targets.{i}": targets}
    write_arrays(Path(path), arrays)


def load_batches(path: str | Path) -> tuple[list[Batch], int]:
    """The batches of a step that was saved, and the step dropout was at."""
    arrays = read_arrays(Path(path))
    if "inputs" in arrays:  # a file of an older version
        batches = list(zip(arrays["inputs"], arrays["targets"], strict=True))
    else:
        n = sum(name.startswith("inputs.") for name in arrays)
        batches = [(arrays[f"inputs.{i}"], arrays[f"targets.{i}"]) for i in range(n)]
    return batches, int(arrays["dropout_step"].reshape(-1)[0])
