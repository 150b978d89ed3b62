"""Learning rate schedules: functions of the step, counted from 0.

    optimiser.learning_rate = schedule(step)

There is no hidden counter, so resuming a run needs nothing from here.  All of them warm up in
a straight line and reach their peak at step `warmup`; all stand exactly at their floor at the
last step, `steps - 1`, and after it.  So with a floor of 0 the last step moves nothing; give a
floor above 0 where every step should learn.  Where there is no way down, because the last step is
step `warmup` itself, that step has the peak: a run of one step learns.

Sources: Loshchilov & Hutter, SGDR (2016) for the cosine; Hu et al., MiniCPM (2024) for
warm-up, stable, decay.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CosineSchedule:
    """Up in a straight line, then down along half a cosine.

    peak, floor  the highest learning rate, and the last
    warmup       steps before the peak
    steps        steps in all

    Raises ValueError unless 0 <= floor <= peak and 0 <= warmup < steps.
    """

    peak: float
    floor: float
    warmup: int
    steps: int

    def __post_init__(self):
        _check(self.peak, self.floor, self.warmup, self.steps)

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        progress = _progress(step, self.warmup, self.steps)
        return _between(self.peak, self.floor, (1 + math.cos(math.pi * progress)) / 2)


@dataclass(frozen=True)
class LinearSchedule:
    """Up in a straight line, then down in one.  Arguments and errors as for CosineSchedule."""

    peak: float
    floor: float
    warmup: int
    steps: int

    def __post_init__(self):
        _check(self.peak, self.floor, self.warmup, self.steps)

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        return _between(self.peak, self.floor, 1 - _progress(step, self.warmup, self.steps))


@dataclass(frozen=True)
class WarmupStableDecay:
    """Up in a straight line, level at the peak, then down in a straight line.

    peak, floor  the highest learning rate, and the last
    warmup       steps before the peak
    steps        steps in all
    decay        steps of the way down

    The level part can be prolonged without having planned for it.  Raises ValueError unless
    0 <= floor <= peak, 0 <= warmup, 1 <= decay and warmup + decay < steps.
    """

    peak: float
    floor: float
    warmup: int
    steps: int
    decay: int

    def __post_init__(self):
        _check(self.peak, self.floor, self.warmup, self.steps)
        if self.decay < 1 or self.warmup + self.decay >= self.steps:
            raise ValueError(
                f"a schedule needs 1 <= decay and warmup + decay < steps, got decay {self.decay}, "
                f"warmup {self.warmup}, steps {self.steps}"
            )

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        # The last level step is the first of the way down.
        level_until = self.steps - 1 - self.decay
        if step <= level_until:
            return self.peak
        return _between(self.peak, self.floor, 1 - _progress(step, level_until, self.steps))


def _progress(step, start, steps):
    """0 at `start`, 1 at the last step and after; 0 at a start that is the last step."""
    last = steps - 1
    if step == start == last:
        return 0.0
    return 1.0 if step >= last else (step - start) / (last - start)


def _between(peak, floor, height):
    # Written so that height 1 gives exactly `peak` and height 0 exactly `floor`.
    return peak * height + floor * (1 - height)


def _check(peak, floor, warmup, steps):
    if not 0 <= floor <= peak:
        raise ValueError(f"a schedule needs 0 <= floor <= peak, got floor {floor}, peak {peak}")
    if not 0 <= warmup < steps:
        raise ValueError(f"a schedule needs 0 <= warmup < steps, got {warmup} of {steps}")
