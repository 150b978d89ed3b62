"""One step of training: gradients, a judgement, and the weights move.

A step can be made of several batches, whose gradients are added up: so a large batch fits in
little memory.  Weights are moved only by a gradient that the health check has let pass.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tricycle_gpt.config import TrainingConfig
from tricycle_gpt.model import GPT
from tricycle_gpt.runs.data_parallel import DataParallel
from tricycle_gpt.runs.diagnosis import Batches, examine_bad_step
from tricycle_gpt.runs.health import Health
from tricycle_gpt.runs.plan import out_of_memory
from tricycle_nn import scale_for_norm


class Run:
    """What a step needs: the model, what moves its weights, and who watches over them."""

    def __init__(
        self,
        model: GPT,
        config: TrainingConfig,
        folder: Path,
        ranks: DataParallel,
        health: Health,
    ):
        self.model, self.config, self.folder = model, config, folder
        self.ranks, self.health = ranks, health
        self.schedule = config.make_schedule()
        _, self.micro_batches = config.share(ranks.size)

    def take_step(
        self, step: int, stream: Iterator, alive: Callable[[], None], say: Callable[[str], None]
    ) -> tuple[dict[str, Any], int]:
        """Move the weights once, unless the gradient would harm them.

        step   counts from 0, as in the metrics; people are told of step + 1
        alive  is called when each batch begins;  say  is told what was unusual

        Returns what there is to tell, a row of metrics, and the number of tokens looked at by all
        ranks.  FloatingPointError if the run should not go on.
        """
        began = time.perf_counter()
        rate = self.ranks.optimiser.learning_rate = self.schedule(step)
        row: dict[str, Any] = {"step": step, "learning_rate": rate}
        batches: Batches = []
        source = remembered(stream, batches, alive)
        loss, norm = self.ranks.totals(self.find_gradients(step, source))
        verdict, reason = self.health.judge(loss, norm)
        if verdict != "go":
            row["unusual"] = f"{verdict}: {reason}"
            say(f"step {step + 1}: {reason} ({verdict})")
        if verdict in ("skip", "stop"):
            finite = math.isfinite(loss) and math.isfinite(norm)
            self.report_bad_step(step, batches, verdict, reason, finite, say)
        else:
            self.ranks.step(grad_scale=scale_for_norm(norm, self.config.max_gradient_norm))
            row |= {"loss": loss, "gradient_norm": norm}
        self.ranks.optimiser.zero_grad()
        tokens = self.ranks.size * sum(inputs.size for inputs, _ in batches)
        row["tokens_per_second"] = round(tokens / (time.perf_counter() - began))
        return row, tokens

    def find_gradients(self, step: int, batches: Iterator) -> float:
        """One step's gradients; returns the loss.  MemoryError names the batch size that fits."""
        try:
            return accumulate_gradients(self.model, batches, self.micro_batches, self.ranks)
        except MemoryError:
            self.model.zero_grad()
        # Only here is what the step had made let go of.
        raise MemoryError(out_of_memory(self.model, self.config, step))

    def report_bad_step(self, step, batches, verdict, reason, finite, say):
        """Say that a step is left out and where it went wrong, or raise FloatingPointError."""
        found = examine_bad_step(self.model, batches, step, self.folder, self.ranks, finite)
        if verdict == "skip":
            say(f"step {step + 1} is left out; {found}")
            return
        advice = (
            f"A learning rate below {self.config.learning_rate:.2g}, or a longer warmup, usually "
            "helps, in a run of its own"
        )
        policy = "spikes" if finite else "when_not_finite"
        if getattr(self.config, policy) == "stop":
            flag = f"--training.{policy.replace('_', '-')} skip"
            advice += f"; to go on with this one, without such steps: --resume {flag}"
        raise FloatingPointError(
            f"at step {step + 1} {reason}; the weights were left as they were. {found}. {advice}"
        )


def accumulate_gradients(
    model: GPT, stream: Iterator, micro_batches: int, ranks: DataParallel | None = None
) -> float:
    """Add up the gradients of the mean loss over some batches; returns that loss.

    With several ranks: this rank's share of both, and while the last batch is walked backwards
    the gradients are summed.
    """
    total, size = 0.0, ranks.size if ranks else 1
    for i in range(micro_batches):
        inputs, targets = next(stream)
        loss = model.loss(inputs, targets) / (micro_batches * size)
        with ranks.summing() if ranks and i + 1 == micro_batches else nullcontext():
            loss.backward()
        total += loss.item()
    return total


def remembered(stream, batches, alive):
    """The batches of one step, each kept in `batches` as it passes, and a sign of life."""
    for batch in stream:
        alive()
        batches.append(batch)
        yield batch
