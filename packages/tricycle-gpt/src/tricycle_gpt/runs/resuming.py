"""How a run begins, and how it goes on exactly where it was.

`RunState` is what a checkpoint holds beside the arrays of the model and the optimiser.  In it is
the recipe of the run: everything that decides what the weights become.  Only with the same recipe
can a run go on to the same bits.
"""

import dataclasses
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from tricycle_autograd.devices import DEVICES
from tricycle_gpt.config import TrainingConfig
from tricycle_gpt.model import GPT
from tricycle_gpt.runs.batch_feed import BatchSource
from tricycle_gpt.runs.checkpoint import (
    Checkpoint,
    CheckpointError,
    list_checkpoints,
    load_newest_checkpoint,
    read_state,
)
from tricycle_nn import Dropout
from tricycle_nn.optimiser import MASTER, AnyOptimiser

# Settings that may change when a run is resumed.  The last three say what is done about a bad step,
# so that a run that one of them stopped may go on; the others do not touch the weights.
NOT_THE_RECIPE = (
    "log_every",
    "evaluate_every",
    "evaluation_windows",
    "checkpoint_every",
    "keep_checkpoints",
    "recompute",
    "graphs",
    "keep_best",
    "patience",
    "hang_seconds",
    "when_not_finite",
    "spikes",
    "spike_z",
)
# Packages, beside Python itself.
DECIDES_THE_BITS = ("numpy", "numba", "tricycle-autograd", "tricycle-nn", "tricycle-gpt")


def make_recipe(
    model: GPT, config: TrainingConfig, facts: dict[str, Any] | None
) -> dict[str, str | int | float | bool | None]:
    """Everything that decides what the weights become, by name, as JSON would give it back."""
    training = dataclasses.asdict(config)
    for name in NOT_THE_RECIPE:
        del training[name]
    parts = {"model": dataclasses.asdict(model.config), "training": training, "data": facts or {}}
    flat = {f"{part}.{key}": value for part, named in parts.items() for key, value in named.items()}
    return json.loads(json.dumps(flat))


@dataclass(frozen=True)
class RunState:
    """What a checkpoint's state.json holds: this is its schema, for writing and for reading.

    recipe           everything that decides what the weights become, by name
    step             steps taken
    position         where the batches go on: (epoch, index); None if they do not know
    dropout_seeds    of the model's dropout layers, in their order
    losses           the last ones that were trained on, for judging the next (health.py)
    left_out         steps left out just before, one after the other
    best_look        the lowest validation loss so far, where a run ends for lack of a lower one
    looks_since      how many looks in a row have found none since
    validation_loss  if this step came with a look at the validation text (checkpoint.py keeps the
                     best by it)
    run_id           the tracker's name for the run
    versions         of what decides the bits, or None where that was not yet written down
    device           "cpu" or "cuda": where its last steps were made

    What has a default here is lacking in older checkpoints, which are read all the same.
    """

    recipe: dict[str, Any]
    step: int
    position: tuple[int, int] | None
    dropout_seeds: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()
    left_out: int = 0
    best_look: float | None = None
    looks_since: int = 0
    validation_loss: float | None = None
    run_id: str | None = None
    versions: dict[str, str | None] | None = None
    device: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields by name, in what JSON has: lists for tuples."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> "RunState":
        """The state that to_json gave, now or in an older version.

        Names that this version does not know are passed over.  Raises ValueError, naming them, for
        fields that every version has written and are not there.
        """
        fields = dataclasses.fields(cls)
        needed = [field.name for field in fields if field.default is dataclasses.MISSING]
        if missing := [name for name in needed if name not in state]:
            raise ValueError(
                f"a run cannot go on from this state: it has no {', '.join(missing)}. Was it saved "
                "by train()? Use a checkpoint that was, or another folder"
            )
        found: dict[str, Any] = {f.name: state[f.name] for f in fields if f.name in state}
        for name, value in found.items():
            if not FITS[name](value):
                raise ValueError(f"a run cannot go on from this state: its {name} is {value!r:.80}")
            found[name] = tuple(value) if isinstance(value, list) else value
        return cls(**found)


def _is_count(value):
    return type(value) is int and value >= 0


def _is_number(value):
    return type(value) in (int, float)


def _is_list_of(what, value):
    return isinstance(value, list | tuple) and all(map(what, value))


def _are_versions(value):
    return isinstance(value, dict) and all(v is None or isinstance(v, str) for v in value.values())


# What each field of a state.json may be: a file that is whole may still hold anything.
FITS: dict[str, Callable[[Any], bool]] = {
    "recipe": lambda value: isinstance(value, dict),
    "step": _is_count,
    "position": lambda value: value is None or (_is_list_of(_is_count, value) and len(value) == 2),
    "dropout_seeds": lambda value: _is_list_of(_is_count, value),
    "losses": lambda value: _is_list_of(_is_number, value),
    "left_out": _is_count,
    "best_look": lambda value: value is None or _is_number(value),
    "looks_since": _is_count,
    "validation_loss": lambda value: value is None or _is_number(value),
    "run_id": lambda value: value is None or isinstance(value, str),
    "versions": lambda value: value is None or _are_versions(value),
    "device": lambda value: value in (None, *DEVICES),
}


def make_run_folder(folder: str | Path) -> None:
    """Make the folder of a new run.  ValueError if a run is in it already."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = load_newest_checkpoint(folder / "checkpoints")
    if found is not None:
        raise ValueError(
            f"{folder} holds a run that reached step {found.step}: add --resume to go on with it, "
            "or choose another folder"
        )


def restore(
    folder: Path, model: GPT, optimiser: AnyOptimiser, batches: Any, recipe: dict[str, Any]
) -> RunState | None:
    """Go back to the newest checkpoint in the folder; its state, or None if there is none.

    model, optimiser, batches  get the weights, moments and position that are in it
    recipe                     has to be the one in it: ValueError, listing the differences, if not
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = load_newest_checkpoint(folder / "checkpoints")
    if found is None:
        return None
    place = folder / "checkpoints" / f"step-{found.step:08d}"
    try:
        state = RunState.from_json(found.state)
    except ValueError as error:
        raise ValueError(f"{place / 'state.json'}: {error}") from error
    # Older checkpoints hold settings that have left the recipe since.
    left = {f"training.{name}" for name in NOT_THE_RECIPE}
    then = {name: value for name, value in state.recipe.items() if name not in left}
    differences = [
        f"{name} was {then.get(name)!r}, is {recipe.get(name)!r}"
        for name in sorted(then.keys() | recipe.keys())
        if then.get(name) != recipe.get(name)
    ]
    if differences and not same_rates_so_far(then, recipe, state.step):
        raise ValueError(
            f"the run in {folder} was started differently and cannot go on exactly: "
            f"{'; '.join(differences)}. Use the same settings, or another folder"
            f"{HOW_TO_PROLONG if then.get(STEPS) != recipe[STEPS] else ''}"
        )
    try:
        model.load_state_dict(found.parameters)
        optimiser.load_state_dict(with_masters(found, optimiser))
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{place} does not fit this model: {error}") from error
    if state.position is not None and isinstance(batches, BatchSource):
        batches.position = state.position
    # Layers draw their seeds when they are made, and the model may have been made from any rng.
    for layer, seed in zip(dropouts(model), state.dropout_seeds, strict=bool(state.dropout_seeds)):
        layer.seed = seed
    return state


def with_masters(found: Checkpoint, optimiser: AnyOptimiser) -> dict[str, np.ndarray]:
    """The optimiser's state in a checkpoint, for one that keeps masters, too.

    A run that was saved on the CPU has none: what goes on, on a GPU in bfloat16, is rounded from
    its parameters.
    """
    if not any(MASTER in group.moments for group in optimiser.groups):
        return found.optimiser
    masters = {f"{name}.{MASTER}": array for name, array in found.parameters.items()}
    return {**masters, **found.optimiser}


STEPS = "training.steps"
SCHEDULE = {
    f"training.{name}"
    for name in ("steps", "learning_rate", "final_learning_rate", "warmup", "schedule", "decay")
}
HOW_TO_PROLONG = (
    ". A run can be given more steps where the learning rates of its steps so far stay what they "
    "were, as with warmup-stable-decay before its decay (and warmup given as a number); else begin "
    "a new run, in another folder, with the weights of this one"
)


def same_rates_so_far(then: dict[str, Any], now: dict[str, Any], step: int) -> bool:
    """Whether two recipes differ in nothing but learning rates that are still to come.

    A run with the second from its beginning would then be where the first is, bit for bit.
    """
    names = then.keys() | now.keys()
    if any(then.get(name) != now.get(name) for name in names - SCHEDULE):
        return False
    rates = []
    for recipe in (then, now):
        settings = {name.partition(".")[2]: recipe[name] for name in SCHEDULE if name in recipe}
        try:
            schedule = TrainingConfig(**settings).make_schedule()
        except (ValueError, TypeError):  # a recipe of another version
            return False
        rates.append([schedule(i) for i in range(step)])
    return rates[0] == rates[1]


def versions() -> dict[str, str | None]:
    """Which versions decide the bits here; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in DECIDES_THE_BITS:
        try:
            found[name] = metadata.version(name)  # without importing it
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def say_which_versions_differ(then: dict[str, str | None] | None) -> None:
    """Warn on stderr if a checkpoint was written by other versions; old ones do not know."""
    if then is None:
        return
    differences = [
        f"{name} was {then.get(name)}, is {now}"
        for name, now in versions().items()
        if then.get(name) != now
    ]
    if differences:
        print(
            f"warning: the checkpoint was written by other versions ({'; '.join(differences)}): "
            "the run goes on, but perhaps not to the same bits",
            file=sys.stderr,
        )


def device_of_run(folder: Path) -> str | None:
    """Where the last steps of the run in a folder were made; None if it is not known."""
    for path in reversed(list_checkpoints(folder / "checkpoints")):
        try:
            return read_state(path).get("device")
        except CheckpointError:  # who resumes the run is told
            continue
    return None


def say_if_it_goes_on_elsewhere(then: str | None, now: str) -> None:
    """Warn on stderr if a run's last steps were made on another device: its numbers differ."""
    if then not in (None, now):
        numbers = {"cpu": "on the processor, in float32", "cuda": "on a GPU, in bfloat16"}
        print(
            f"warning: the run was {numbers[str(then)]}, and goes on {numbers[now]}",
            file=sys.stderr,
        )


def dropouts(model: GPT) -> list[Dropout]:
    """The model's dropout layers."""
    return [module for module in model.modules() if isinstance(module, Dropout)]
