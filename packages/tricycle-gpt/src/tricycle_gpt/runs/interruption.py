"""Ctrl-C, politely: finish the step, save, stop.

While `interruptible()` is active the first SIGINT (Ctrl-C) or SIGTERM only raises a flag that
the training loop looks at once a step, and says so.  A second one stops at once.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption:
    """Whether the program was asked to stop."""

    requested = False


@contextmanager
def interruptible(silent: bool = False) -> Iterator[Interruption]:
    """Turn the first SIGINT or SIGTERM into a flag; the handlers are put back at the end.

    silent  say nothing: another rank does

    Outside the main thread, where Python cannot receive signals, the flag stays down.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def stop_soon(number, frame):
        if interruption.requested:
            raise KeyboardInterrupt
        interruption.requested = True
        # Not print(): the signal may have arrived in the middle of another one.
        if not silent:
            os.write(2, b"\nstopping after this step, with a checkpoint; once more stops at once\n")

    before = {number: signal.signal(number, stop_soon) for number in STOPPING_SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


STOPPING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
