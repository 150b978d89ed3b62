"""The training loop: look at text, be surprised, move the weights; a few thousand times.

`take_steps` is written in the order in which it happens.  What it needs besides the model is a
source of batches.  One that knows its own position lets a run be interrupted and go on exactly: the
same weights, bit for bit, as if nothing had happened.

Several processes can train one model: each runs this loop with its part of every step's batches,
and all take the same decisions.  Their optimiser is then a `DealtOptimiser` (data_parallel.py), and
`communicator` is how they talk.  Rank 0 alone tells and writes.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tricycle_autograd import stack
from tricycle_gpt.config import TrainingConfig
from tricycle_gpt.evaluation import Evaluation, evaluate
from tricycle_gpt.model import GPT
from tricycle_gpt.runs.batch_feed import BatchFeed, BatchSource
from tricycle_gpt.runs.checkpoint_writer import CheckpointWriter
from tricycle_gpt.runs.compiling import expect_training_kernels
from tricycle_gpt.runs.data_parallel import deal_out, totals
from tricycle_gpt.runs.diagnosis import (
    BadStep,
    examine_bad_step,
    weights_not_finite,
    why_it_stopped,
)
from tricycle_gpt.runs.distributed import Alone, Communicator
from tricycle_gpt.runs.health import Health
from tricycle_gpt.runs.interruption import Postponed, interruptible
from tricycle_gpt.runs.micro_steps import MicroSteps
from tricycle_gpt.runs.optimiser import make_optimiser
from tricycle_gpt.runs.out_of_memory import out_of_memory
from tricycle_gpt.runs.patience import Patience, back_to_best
from tricycle_gpt.runs.resuming import (
    RunState,
    dropouts,
    make_recipe,
    make_run_folder,
    restore,
    say_if_it_goes_on_elsewhere,
    say_which_versions_differ,
    versions,
)
from tricycle_gpt.runs.run_lock import RunLock, locked_run
from tricycle_gpt.runs.run_log import RunLog, SilentRunLog
from tricycle_gpt.runs.standard_streams import steadfast_streams
from tricycle_gpt.runs.step import divisors
from tricycle_gpt.runs.tracking import Tracker
from tricycle_gpt.runs.watchdog import Watchdog
from tricycle_nn import scale_for_norm, set_dropout_step
from tricycle_nn.optimiser import AnyOptimiser


@dataclass(frozen=True)
class TrainingResult:
    """How a call of `train` ended; the same on every rank.

    steps       steps taken in all; fewer than its recipe has if its patience was over
    finished    False if it was interrupted, or if its batches ended before its steps
    evaluation  the model's measure on the whole validation text, if it finished and had one
    """

    steps: int
    finished: bool
    evaluation: Evaluation | None


def train(
    model: GPT,
    batches: BatchSource | Iterable[tuple[Any, Any]],
    config: TrainingConfig,
    folder: str | Path,
    *,
    validation: Any = None,
    validation_bytes: int | None = None,
    resume: bool = False,
    facts: dict[str, Any] | None = None,
    tracker: Tracker | None = None,
    sample: Callable[[], str] | None = None,
    own_metrics: Callable[[int], Mapping[str, float]] | None = None,
    communicator: Communicator | None = None,
) -> TrainingResult:
    """Train a model, leaving metrics.jsonl, loss.png and checkpoints/ in `folder`.

    batches           where the text comes from: (inputs, targets), (B, T) integers each, from any
                      iterable; with n ranks, this rank's part of each batch, of config.share(n)
                      windows.  Only one with a `position`, such as tricycle_datasets.Batches, can
                      be resumed to the same bits
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
    own_metrics       more numbers for the row of each step, by name: asked after it, with the steps
                      taken so far
    communicator      the ranks that train together; batch_size and micro_batches are for all of
                      them, so that any number of ranks takes the same steps and can go on from
                      the same checkpoints, in a folder that all see.  Dropout draws other numbers
                      on each rank

    Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 (on any rank) ends it after the current step, with a
    checkpoint, and so do batches that end.  An error in `batches`, `sample` or `own_metrics` is
    raised when the steps before it are in a checkpoint.

    Raises ValueError if the folder holds another run or is in use, if ranks do not begin alike, or
    for a first batch that does not fit; FloatingPointError when the loss, the gradient or the
    weights stop being numbers (the weights are then those of the step before); MemoryError, naming
    the batch size that fits, when a step finds none.
    """
    communicator = communicator or Alone()
    with steadfast_streams(), locked_run(folder, communicator) as lock:
        return take_steps(
            model,
            batches,
            config,
            lock,
            validation,
            validation_bytes,
            resume,
            facts,
            tracker,
            sample,
            own_metrics,
            communicator,
        )


def take_steps(
    model: GPT,
    batches: BatchSource | Iterable[tuple[Any, Any]],
    config: TrainingConfig,
    lock: RunLock,
    validation: Any,
    validation_bytes: int | None,
    resume: bool,
    facts: dict[str, Any] | None,
    tracker: Tracker | None,
    sample: Callable[[], str] | None,
    own_metrics: Callable[[int], Mapping[str, float]] | None,
    communicator: Communicator,
) -> TrainingResult:
    """Train in a folder that is locked; the arguments are those of `train`."""
    folder = lock.folder
    if model.head_weight.device == "cpu":
        expect_training_kernels(model.config.block)
    recipe = make_recipe(model, config, facts)
    optimiser: AnyOptimiser = make_optimiser(model, config)
    optimiser.zero_grad()  # the caller may have looked at a gradient
    model.recompute = config.recompute
    before = None
    if resume:
        before = restore(folder, model, optimiser, batches, recipe)
    else:
        make_run_folder(folder)
    start = before.step if before else 0
    schedule = config.make_schedule()
    health = Health(config, *((before.losses, before.left_out) if before else ()))
    patience = Patience(config, *((before.best_look, before.looks_since) if before else ()))
    _, n_batches = config.share(communicator.size)  # of this rank, in each step
    set_dropout_step(model, start * n_batches)

    summing: Callable[[], AbstractContextManager] = nullcontext
    if communicator.size > 1:
        optimiser = deal_out(model, optimiser, config, {"step": start, **recipe}, communicator)
        summing = optimiser.summing
    # Other threads send gradients meanwhile, where there are other ranks: nothing to capture.
    micro_step = MicroSteps(model, config.graphs and communicator.size == 1)

    is_first = communicator.rank == 0
    if before and is_first:
        say_which_versions_differ(before.versions)
        say_if_it_goes_on_elsewhere(before.device, model.head_weight.device)
    feed, failed = BatchFeed(batches, model.config), Postponed()
    if start < config.steps:
        feed.check()
    model.train()
    keep_best = config.keep_best or patience.counts
    keep = {"keep": config.keep_checkpoints, "keep_best": keep_best}
    with (
        RunLog(folder, start, config.steps, config.log_every, tracker)
        if is_first
        else SilentRunLog() as log,
        CheckpointWriter(folder / "checkpoints", **keep) as writer,
    ):
        log.begin(recipe, before.run_id if before else None)
        if before and start >= config.steps:
            log.say(f"the run in {folder} has taken all its {config.steps} steps{NOTHING_LEFT}")
        if not feed.knows_its_position:
            log.say(CANNOT_GO_ON_EXACTLY)

        def save(steps_taken: int, validation_loss: float | None = None) -> None:
            """Begin to write a checkpoint."""
            writer.wait()  # for the one before: two copies need not be held at once
            # Where the work is dealt out they are gathered, so all ranks take part.
            parameters, moments = optimiser.masters(), optimiser.state_dict()
            if not is_first:
                return
            lock.check_place()
            log.sync()
            state = RunState(
                recipe=recipe,
                step=steps_taken,
                position=feed.position,
                dropout_seeds=tuple(layer.seed for layer in dropouts(model)),
                losses=tuple(health.losses),
                left_out=health.left_out,
                best_look=patience.best,
                looks_since=patience.since,
                validation_loss=validation_loss,
                run_id=log.run_id,
                versions=versions(),
                device=model.head_weight.device,
            )
            writer.save(steps_taken, parameters, moments, state.to_json())

        with (
            interruptible(silent=not is_first) as interruption,
            Watchdog(config.hang_seconds) as watchdog,
        ):
            taken = start
            for step in range(start, start if patience.is_over else config.steps):
                began = time.perf_counter()
                watchdog.alive()
                rate = optimiser.learning_rate = schedule(step)
                row: dict[str, Any] = {"step": step, "learning_rate": rate}

                # The gradient of the mean over all tokens of the step, one batch after the other.
                step_batches = feed.take(n_batches)  # kept, should it go wrong
                if communicator.any(step_batches is None):
                    feed.give_back()
                    log.say(f"the batches ended after {step} of {config.steps} steps")
                    save(step)
                    writer.wait()
                    feed.failed.raise_it()
                    return TrainingResult(step, False, None)
                assert step_batches is not None
                divide_by = divisors(step_batches, communicator)
                losses, part = [], None
                for i, (inputs, targets) in enumerate(step_batches):
                    try:
                        with summing() if i + 1 == n_batches else nullcontext():
                            part = micro_step(inputs, targets, divide_by[i])
                    except MemoryError:
                        part = None  # all that the step had made hangs on it
                        break
                    losses.append(part)
                    watchdog.alive()
                if part is None:
                    model.zero_grad()
                    micro_step.forget()
                    raise MemoryError(out_of_memory(model, config, step))

                # The weights move, unless that would harm them.
                loss = sum(stack(losses).tolist())  # read once a step, wherever it was computed
                loss, norm = totals(loss, optimiser, communicator)
                verdict, reason = health.judge(loss, norm)
                if verdict != "go":
                    row["unusual"] = f"{verdict}: {reason}"
                    log.say(f"step {step + 1}: {reason} ({verdict})")
                if verdict in ("go", "warn"):
                    optimiser.step(grad_scale=scale_for_norm(norm, config.max_gradient_norm))
                    row |= {"loss": loss, "gradient_norm": norm}
                else:
                    bad = BadStep(step, step_batches, reason, math.isfinite(loss + norm))
                    found = examine_bad_step(model, bad, folder, communicator)
                    if verdict == "stop" or weights_not_finite(model):
                        raise FloatingPointError(why_it_stopped(config, bad, found))
                    log.say(f"step {step + 1} is left out; {found}")
                optimiser.zero_grad()
                tokens = communicator.size * sum(inputs.size for inputs, _ in step_batches)
                row["tokens_per_second"] = round(tokens / (time.perf_counter() - began))

                # Now and then: a look at text that is not trained on, a sample, a checkpoint.
                last = step + 1 == config.steps
                due = is_due(step, config.evaluate_every) and not last
                looks = validation is not None and (due or (last and patience.counts))
                if looks:
                    windows = config.evaluation_windows or None
                    row |= measure(model, validation, validation_bytes, communicator, windows)[1]
                    patience.saw(row["validation_loss"])
                if own_metrics and is_first:
                    with failed:
                        row = with_own(row, own_metrics(step + 1))
                log.step(row, tokens)
                if sample and is_first and "validation_loss" in row:
                    with failed:
                        log.sample(step + 1, sample())
                writer.check()
                stopping = communicator.any(interruption.requested or failed.error is not None)
                taken, over = step + 1, patience.is_over
                wanted = is_due(step, config.checkpoint_every) or (looks and patience.counts)
                if last or stopping or over or wanted:
                    save(step + 1, row.get("validation_loss"))
                if failed.error is not None:
                    writer.wait()
                    failed.raise_it()
                if over and not last:
                    log.say(f"step {step + 1}: {patience.since} looks found no lower loss; enough")
                    break
                if stopping and not last:
                    writer.wait()
                    return TrainingResult(step + 1, False, None)
            writer.wait()  # in here: no signal stops the last save

        if patience.counts:
            communicator.wait()  # until rank 0 has written all of them
            if (best := back_to_best(model, folder)) is not None:
                log.say(f"the weights are those after step {best}, the best on validation text")
        if validation is None:
            return TrainingResult(taken, True, None)
        log.say("measuring on the whole validation text")
        evaluation, row = measure(model, validation, validation_bytes, communicator)
        log.row({"step": taken, **row})
        return TrainingResult(taken, True, evaluation)


NOTHING_LEFT = (
    ": nothing is left to train, and it is only measured again. To go on from its weights begin "
    "another run, in another folder, or give this one more steps where its schedule allows it"
)
CANNOT_GO_ON_EXACTLY = (
    "these batches do not know their position: a run that is resumed begins with them anew, and "
    "does not go on to the same bits (tricycle_datasets.Batches does)"
)


def with_own(row: dict[str, Any], own: Mapping[str, float]) -> dict[str, Any]:
    """A row with numbers of the caller's.  ValueError for a name that it has already."""
    if taken := sorted(row.keys() & own.keys()):
        raise ValueError(
            f"own_metrics gave {', '.join(taken)}, which the row of a step has already: choose "
            "another name"
        )
    return row | {name: float(value) for name, value in own.items()}


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
    """Whether what happens once in `every` steps happens after this one; 0 is never."""
    return every > 0 and (step + 1) % every == 0
