"""Ending a run that no longer gets better, with the weights with which it was best.

A model that reads a small text again and again learns it by heart: the loss on it falls on, and
that on other text rises.  So every look at the validation text is compared with the best one
before; after a few in a row without a lower loss (`TrainingConfig.patience`) the run ends.  Each
look comes with a checkpoint, and the best of them is gone back to.
"""

from pathlib import Path

from tricycle_gpt.config import TrainingConfig
from tricycle_gpt.model import GPT
from tricycle_gpt.runs.checkpoint import best_checkpoint, load_checkpoint


class Patience:
    """Counts looks without a lower validation loss.

    best   the lowest loss so far; None before the first look, and where there is no end to it
    since  looks since then

    A loss that is not a number is not a lower one.
    """

    def __init__(self, config: TrainingConfig, best: float | None = None, since: int = 0):
        self.allowed, self.best, self.since = config.patience, best, since

    @property
    def counts(self) -> bool:
        """Whether there is an end to it at all."""
        return self.allowed is not None

    @property
    def is_over(self) -> bool:
        """Whether the run should end."""
        return self.allowed is not None and self.since >= self.allowed

    def saw(self, loss: float) -> None:
        """A look at the validation text found this loss."""
        if not self.counts:
            return
        if self.best is None or loss < self.best:
            self.best, self.since = loss, 0
        else:
            self.since += 1


def back_to_best(model: GPT, folder: Path) -> int | None:
    """Give a model the weights with which a run was best; after how many steps that was.

    None, and the model stays as it is, if no checkpoint came with a look.
    """
    best = best_checkpoint(folder / "checkpoints")
    if best is None:
        return None
    found = load_checkpoint(best)
    model.load_state_dict(found.parameters)
    return found.step
