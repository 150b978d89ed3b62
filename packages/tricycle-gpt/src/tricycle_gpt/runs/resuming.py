"""How a run begins, and how it goes on exactly where it was.

A checkpoint holds the recipe of its run: everything that decides what the weights become.  Only
with the same recipe can a run go on to the same bits.
"""

import dataclasses
import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from tricycle_gpt.config import TrainingConfig
from tricycle_gpt.model import GPT
from tricycle_gpt.runs.checkpoint import load_newest_checkpoint
from tricycle_nn import Dropout

# Settings that may change when a run is resumed.  The last three say what is done about a bad step,
# so that a run that one of them stopped may go on; the others do not touch the weights.
NOT_THE_RECIPE = (
    "log_every",
    "evaluate_every",
    "evaluation_windows",
    "checkpoint_every",
    "keep_checkpoints",
    "recompute",
    "keep_best",
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


def begin(folder: Path) -> None:
    """Make the folder of a new run.  ValueError if a run is in it already."""
    folder.mkdir(parents=True, exist_ok=True)
    found = load_newest_checkpoint(folder / "checkpoints")
    if found is not None:
        raise ValueError(
            f"{folder} holds a run that reached step {found.step}: add --resume to go on with it, "
            "or choose another folder"
        )


def restore(folder: Path, model, optimiser, batches, recipe) -> tuple[int, dict]:
    """Go back to the newest checkpoint in the folder: the steps it had taken, and its state.

    Without a checkpoint the run starts at its beginning.  Raises ValueError, listing the
    differences, if the checkpoint is from another recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = load_newest_checkpoint(folder / "checkpoints")
    if found is None:
        return 0, {}
    # Older checkpoints hold settings that have left the recipe since.
    left = {f"training.{name}" for name in NOT_THE_RECIPE}
    then = {name: value for name, value in found.state["recipe"].items() if name not in left}
    differences = [
        f"{name} was {then.get(name)!r}, is {recipe.get(name)!r}"
        for name in sorted(then.keys() | recipe.keys())
        if then.get(name) != recipe.get(name)
    ]
    if differences:
        raise ValueError(
            f"the run in {folder} was started differently and cannot go on exactly: "
            f"{'; '.join(differences)}. Use the same settings, or another folder"
        )
    model.load_state_dict(found.parameters)
    optimiser.load_state_dict(found.optimiser)
    batches.position = tuple(found.state["position"])
    # Layers draw their seeds when they are made, and the model may have been made from any rng.
    for layer, seed in zip(dropouts(model), found.state["dropout_seeds"], strict=True):
        layer.seed = seed
    return found.step, found.state


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


def dropouts(model: GPT) -> list[Dropout]:
    """The model's dropout layers."""
    return [module for module in model.modules() if isinstance(module, Dropout)]
