"""The training loop: look at text, be surprised, move the weights; a few thousand times.

It is written in the order in which it happens, without callbacks.  What it needs besides the
model is a source of batches that knows its own position, so that a run can be interrupted and
go on exactly: the same weights, bit for bit, as if nothing had happened.

Several processes can train one model (see data_parallel.py): each runs this loop, with a share of
every batch, and all take the same decisions.  Rank 0 alone tells and writes.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tricycle_gpt.config import TrainingConfig
from tricycle_gpt.evaluation import Evaluation, evaluate
from tricycle_gpt.model import GPT
from tricycle_gpt.runs.checkpoint_writer import CheckpointWriter
from tricycle_gpt.runs.data_parallel import DataParallel
from tricycle_gpt.runs.distributed import Alone, Communicator
from tricycle_gpt.runs.health import Health
from tricycle_gpt.runs.interruption import interruptible
from tricycle_gpt.runs.metrics import MetricsLog
from tricycle_gpt.runs.optimiser import make_optimiser
from tricycle_gpt.runs.picture import LossPicture
from tricycle_gpt.runs.progress import Progress
from tricycle_gpt.runs.resuming import (
    begin,
    dropouts,
    make_recipe,
    restore,
    say_which_versions_differ,
    versions,
)
from tricycle_gpt.runs.step import Run
from tricycle_gpt.runs.tracking import ended_if_it_fails
from tricycle_gpt.runs.watchdog import Watchdog
from tricycle_nn import set_dropout_step


class BatchSource(Protocol):
    """Batches without end that know their position, such as tricycle_datasets.Batches."""

    position: tuple[int, int]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (inputs, targets), (B, T) integers each."""
        ...


class Tracker(Protocol):
    """Somebody who is told about a run and never holds it up, such as MLflowTracker."""

    run_id: str | None

    def begin(self, recipe: dict[str, Any], run_id: str | None = None) -> None:
        """Start telling; a run_id is that of the run that goes on."""
        ...

    def log(self, row: dict[str, Any]) -> None:
        """Tell a row of metrics."""
        ...

    def file(self, path: str | Path, folder: str = "") -> None:
        """Keep a file with the run, under `folder` there."""
        ...

    def end(self, status: str, patience: float | None = None) -> None:
        """Close the run as "finished", "interrupted" or "failed", in `patience` seconds."""
        ...


@dataclass(frozen=True)
class TrainingResult:
    """How a call of `train` ended; the same on every rank.

    steps       steps taken in all
    finished    False if it was interrupted
    evaluation  the model's measure on the whole validation text, if it finished and had one
    """

    steps: int
    finished: bool
    evaluation: Evaluation | None


def train(
    model: GPT,
    batches: BatchSource,
    config: TrainingConfig,
    folder: str | Path,
    *,
    validation: Any = None,
    validation_bytes: int | None = None,
    resume: bool = False,
    facts: dict[str, Any] | None = None,
    tracker: Tracker | None = None,
    sample: Callable[[], str] | None = None,
    communicator: Communicator | None = None,
) -> TrainingResult:
    """Train a model, leaving metrics.jsonl, loss.png and checkpoints/ in `folder`.

    batches           where the text comes from: with n ranks, this rank's part of each batch, of
                      config.share(n) windows
    validation        (N,) ids of text that is not trained on, in memory or on the disk, as for
                      `evaluate`; validation_bytes is the text's length
    resume            go on from the newest checkpoint in `folder`, if there is one
    facts             more that must be the same when the run is resumed (the tokeniser's hash,
                      say); they are kept in the checkpoints
    tracker           is told the recipe and every row, and that the run failed if it does; when
                      train returns, the caller may tell it more, and ends it (also by
                      `ended_if_it_fails`)
    sample            has the model write something: asked with every look at the validation
                      text, what it wrote is kept in samples/
    communicator      the ranks that train together; batch_size and micro_batches are for all of
                      them, so that any number of ranks takes the same steps and can go on from
                      the same checkpoints, in a folder that all see.  Dropout draws other numbers
                      on each rank

    Ctrl-C or SIGTERM (on any rank) ends it after the current step, with a checkpoint.  Raises
    ValueError if the folder holds another run, or if ranks do not begin alike; FloatingPointError
    when the loss or the gradient stop being numbers (the weights are then those of the step
    before); MemoryError, naming the batch size that fits, when a step finds none.
    """
    folder = Path(folder)
    communicator = communicator or Alone()
    recipe = make_recipe(model, config, facts)
    optimiser = make_optimiser(model, config)
    optimiser.zero_grad()  # whoever called may have looked at a gradient
    model.recompute = config.recompute
    start: int = 0
    state: dict[str, Any] = {}
    if resume:
        start, state = restore(folder, model, optimiser, batches, recipe)
        if communicator.rank == 0:
            say_which_versions_differ(state.get("versions"))
    else:
        begin(folder)
    ranks = DataParallel(optimiser, model.parameters(), communicator)
    # Of the settings too that are not the recipe: all must look, save and judge at the same steps.
    settings = {f"training.{name}": value for name, value in asdict(config).items()}
    ranks.check_that_all_begin_alike({"step": start, **recipe, **settings})
    health = Health(config, state.get("losses"), state.get("left_out", 0))
    run = Run(model, config, folder, ranks, health)
    set_dropout_step(model, start * run.micro_batches)
    for layer in dropouts(model) if ranks.size > 1 else []:
        layer.stream = ranks.rank
    stream = iter(batches)
    model.train()

    speaks = ranks.rank == 0
    if not speaks:
        tracker = sample = None

    def save(steps_taken, row):
        writer.wait()  # for the one before: two copies need not be held at once
        moments = ranks.state_dict()  # which each rank has a part of
        if not speaks:
            return
        metrics.sync()
        state = {
            "position": list(batches.position),
            "dropout_seeds": [layer.seed for layer in dropouts(model)],
            "losses": list(health.losses),
            "left_out": health.left_out,
            "validation_loss": row.get("validation_loss"),
            "run_id": tracker.run_id if tracker else None,
            "recipe": recipe,
            "versions": versions(),
        }
        writer.save(steps_taken, model.state_dict(), moments, state)

    def tell(row):
        metrics.write(**row)
        if tracker:
            tracker.log(row)

    keep = {"keep": config.keep_checkpoints, "keep_best": config.keep_best}
    with (
        closing(MetricsLog(folder / "metrics.jsonl", start)) if speaks else Silent() as metrics,
        Progress(config.steps, start, config.log_every) if speaks else Silent() as progress,
        CheckpointWriter(folder / "checkpoints", **keep) if speaks else Silent() as writer,
        LossPicture(folder) if speaks else Silent() as picture,
        ended_if_it_fails(tracker),
    ):
        if tracker:
            tracker.begin(recipe, state.get("run_id"))
        with interruptible(not speaks) as interruption, Watchdog(config.hang_seconds) as watchdog:
            for step in range(start, config.steps):
                row, tokens = run.take_step(step, stream, watchdog.alive, progress.say)
                last = step + 1 == config.steps
                if validation is not None and is_due(step, config.evaluate_every) and not last:
                    windows = config.evaluation_windows or None
                    row |= measure(model, validation, validation_bytes, communicator, windows)[1]
                tell(row)
                progress.show(row, tokens)
                if sample and "validation_loss" in row:
                    keep_sample(folder, step + 1, sample(), progress, tracker)
                if picture.redraw() and tracker:
                    tracker.file(picture.path)
                writer.check()
                stopping = ranks.any(interruption.requested)
                if last or stopping or is_due(step, config.checkpoint_every):
                    save(step + 1, row)
                if stopping and not last:
                    writer.wait()
                    return TrainingResult(step + 1, False, None)

            writer.wait()
        if validation is None:
            return TrainingResult(config.steps, True, None)
        progress.say("measuring on the whole validation text")
        evaluation, row = measure(model, validation, validation_bytes, communicator)
        tell({"step": config.steps, **row})
        return TrainingResult(config.steps, True, evaluation)


class Silent:
    """Stands in, on ranks that tell nobody, for all that tells: every call does nothing."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *words, **options: None


def keep_sample(folder, step, text, progress, tracker):
    """Write what the model wrote to samples/, show its beginning, and tell the tracker."""
    path = folder / "samples" / f"step-{step:08d}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    progress.say(f"step {step} writes: {text[:200]!r}")
    if tracker:
        tracker.file(path, "samples")


def measure(model, validation, n_bytes, communicator, max_windows=None):
    """An evaluation, and the same as entries of a metrics row."""
    options = {"max_windows": max_windows, "communicator": communicator}
    found = evaluate(model, validation, n_bytes=n_bytes, **options)
    row = {
        "validation_loss": found.loss,
        "validation_margin": found.margin,
        "bits_per_byte": found.bits_per_byte,
        "bits_margin": found.bits_margin,
    }
    return found, row


def is_due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps happens after this one; 0 is never."""
    return every > 0 and (step + 1) % every == 0
