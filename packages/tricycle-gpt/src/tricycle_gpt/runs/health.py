"""Is the run still healthy?  What to do about a step whose loss or gradient is not.

Two things are looked at before the weights are moved, so that they are never damaged:

- a loss or a gradient that is not a finite number: the run stops, or leaves the step out;
- a loss far above the last ones (a spike).  How far is its z-score, the distance from their mean
  in standard deviations:  z = (loss − mean) / deviation.

The last losses, and how many steps were left out in a row, belong to the checkpoint: a resumed
run judges as the uninterrupted one would.
"""

import math
from collections import deque

from tricycle_gpt.config import TrainingConfig

REMEMBERED = 100  # losses that a new one is compared with
ENOUGH = 20  # fewer say nothing about what is usual
PATIENCE = 10  # steps left out one after the other, before the run stops


class Health:
    """Judges each step by the policies in the settings.

    config    when_not_finite ("stop" | "skip"), spikes ("off" | "warn" | "skip" | "stop"), spike_z
    losses    the last losses of a resumed run
    left_out  the steps it had left out, one after the other, when it was saved
    """

    def __init__(
        self, config: TrainingConfig, losses: list[float] | None = None, left_out: int = 0
    ):
        self.config = config
        self.losses = deque(losses or [], REMEMBERED)
        self.left_out = left_out

    def judge(self, loss: float, norm: float) -> tuple[str, str]:
        """What to do with a step, and why: "go", "warn", "skip" or "stop", and a sentence."""
        action, reason = self._judge(loss, norm)
        self.left_out = self.left_out + 1 if action == "skip" else 0
        if action in ("go", "warn"):
            self.losses.append(loss)
        if self.left_out > PATIENCE:
            return "stop", f"{reason}, after {PATIENCE} steps in a row that were left out"
        return action, reason

    def _judge(self, loss, norm):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            reason = f"the loss is {loss} and the gradient's norm {norm}"
            return self.config.when_not_finite, reason
        z = self.z_score(loss)
        if self.config.spikes == "off" or z <= self.config.spike_z:
            return "go", ""
        return self.config.spikes, f"the loss jumped to {loss:.3f}, {z:.1f} deviations up"

    def z_score(self, loss: float) -> float:
        """Standard deviations between a loss and the mean of the last; 0 while those are few."""
        if len(self.losses) < ENOUGH:
            return 0.0
        mean = sum(self.losses) / len(self.losses)
        deviation = (sum((x - mean) ** 2 for x in self.losses) / len(self.losses)) ** 0.5
        # Losses that are all but equal would make a spike of any breath of air.
        return (loss - mean) / max(deviation, 1e-3 * abs(mean), 1e-12)
