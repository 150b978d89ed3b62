"""What a person sees while a model trains: a bar in a terminal, plain lines in a file."""

import sys
import time
from typing import Any

from tqdm.auto import tqdm

SMOOTHING = 0.9  # how much of the shown loss comes from earlier steps


class Progress:
    """Shows steps, loss, tokens per second and the time left.

    steps      steps in all; start of them are done already
    log_every  steps between two lines, where the output is not a terminal
    """

    def __init__(self, steps: int, start: int, log_every: int):
        self.steps = steps
        self.log_every = log_every
        self.start = start
        self.began: float | None = None
        self.timed_steps = 0
        self.timed_tokens = 0
        self.loss: float | None = None
        # disable=None: no bar where the output is not a terminal.
        self.bar = tqdm(total=steps, initial=start, unit="step", disable=None, dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        self.bar.close()

    def show(self, row: dict[str, Any], tokens: int) -> None:
        """Tell what happened in one step, as it stands in the metrics."""
        step, pace, left = row["step"] + 1, "", ""
        self.smooth(row.get("loss"))
        loss = "no loss yet" if self.loss is None else f"loss {self.loss:.3f}"
        if self.began is None:  # the first step may have waited for a compiler: time the others
            self.began = time.perf_counter()
        else:
            self.timed_steps += 1
            self.timed_tokens += tokens
            elapsed = time.perf_counter() - self.began
            pace = f"  {self.timed_tokens / elapsed:,.0f} tokens/s"
            left = f"  {duration(elapsed / self.timed_steps * (self.steps - step))} left"
        if "validation_loss" in row:
            self.say(f"step {step}: {describe_validation(row)}")
        if not self.bar.disable:
            self.bar.set_postfix_str(f"{loss}{pace}", refresh=False)
            self.bar.update()
        elif step % self.log_every == 0 or step in (self.start + 1, self.steps):
            self.say(f"step {step}/{self.steps}  {loss}{pace}{left}")

    def smooth(self, loss: float | None) -> None:
        """Take a step's loss into the one that is shown; a step that was left out has none."""
        if loss is None:
            return
        before = loss if self.loss is None else self.loss
        self.loss = SMOOTHING * before + (1 - SMOOTHING) * loss

    def say(self, text: str) -> None:
        """A line of its own, above the bar if there is one."""
        tqdm.write(text, file=sys.stderr)


def describe_validation(row: dict[str, Any]) -> str:
    """The validation numbers of a metrics row, in words."""
    text = f"validation loss {row['validation_loss']:.3f}"
    if row.get("validation_margin") is not None:
        text += f" ± {row['validation_margin']:.3f}"
    if row.get("bits_per_byte") is not None:
        text += f", {row['bits_per_byte']:.3f} bits per byte"
    return text


def duration(seconds: float) -> str:
    """A time span as a person says it.

    >>> duration(75)
    '1 min 15 s'
    >>> duration(7260)
    '2 h 1 min'
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
