"""A watchdog: a step that hangs says where.

A run that stands still (a disk that does not answer, a lock that is never given back) prints
nothing and explains nothing.  If `alive()` was not called for too long, the stacks of all
threads are written to standard error, and again after each such time.  Python's faulthandler
does it from a thread that needs no interpreter, so it barks inside a hanging kernel too.
"""

import faulthandler

from tricycle_gpt.runs.standard_streams import has_standard_error


class Watchdog:
    """Barks after `seconds` without a sign of life; 0 keeps it asleep.

    It only tells: a slow machine may yet get there.  As a context manager it lies down at the end.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds

    def alive(self) -> None:
        """Say that something has been done; the time starts again."""
        if self.seconds and has_standard_error():
            # 2 is standard error: sys.stderr may be an object without a file behind it.
            faulthandler.dump_traceback_later(self.seconds, repeat=True, file=2)

    def __enter__(self) -> "Watchdog":
        self.alive()
        return self

    def __exit__(self, *exception) -> None:
        if self.seconds:
            faulthandler.cancel_dump_traceback_later()
