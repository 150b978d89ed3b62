"""Ctrl-C, politely: finish the step, save, stop.

While `interruptible()` is active a signal only raises a flag that the training loop looks at once a
step, and says so.

    SIGINT            Ctrl-C; the second stops at once
    SIGTERM           the system, or a cluster, ends the process; the second stops at once
    SIGHUP            the terminal was closed; `nohup` has it ignored, and so it stays
    SIGUSR1, SIGUSR2  clusters send them before time is up (SLURM's --signal, Grid Engine)
    SIGXCPU           the processor time that the process may use is nearly used up

The last three may come several times, and before a SIGTERM: they never stop a save.

`Postponed` does the same for an error in the caller's own code: the steps so far are saved first.
"""

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tricycle_gpt.runs.standard_streams import write_to_standard_error

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK")
STOPPING_SIGNALS = tuple(getattr(signal, name) for name in STOPPING if hasattr(signal, name))
# A person, or the system, that sends one of these again will not wait.
AT_ONCE_WHEN_REPEATED = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether the program was asked to stop."""

    requested = False


@contextmanager
def interruptible(silent: bool = False) -> Iterator[Interruption]:
    """Turn signals into a flag; the handlers are put back at the end.

    silent  say nothing: another rank does

    A signal that is ignored, or that a handler of another library catches (as faulthandler.register
    lets SIGUSR1 print tracebacks), is left to it, but for SIGINT and SIGTERM.
    Outside the main thread, where Python cannot receive signals, the flag stays down.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    came = set()

    def stop_soon(number, frame):
        if number in came and number in AT_ONCE_WHEN_REPEATED:
            raise KeyboardInterrupt
        said = interruption.requested or silent
        interruption.requested = True
        came.add(number)
        # Not print(): the signal may have arrived in the middle of another one.
        if not said:
            again = "; once more stops at once" if number in AT_ONCE_WHEN_REPEATED else ""
            write_to_standard_error(f"\nstopping after this step, with a checkpoint{again}\n")

    before = {
        number: signal.signal(number, stop_soon)
        for number in STOPPING_SIGNALS
        if signal.getsignal(number) is not None  # not Python's: it could not be given back
        and (number in AT_ONCE_WHEN_REPEATED or not _is_taken(number))
    }
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_taken(number):
    """Whether a signal is ignored, or caught by a handler that Python does not know of (Linux)."""
    handler = signal.getsignal(number)
    if handler is not signal.SIG_DFL:
        return handler is signal.SIG_IGN
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    caught = re.search(r"(?m)^SigCgt:\s*(\w+)$", status)
    return caught is not None and bool(int(caught.group(1), 16) >> (number - 1) & 1)


class Postponed:
    """As a context manager, keeps an error of its block, to be raised when the run is saved.

    error  the first that came; None so far
    """

    error: Exception | None = None

    def __enter__(self) -> "Postponed":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):  # Ctrl-C and sys.exit do not wait
            return False
        self.error = self.error or error
        return True

    def raise_it(self) -> None:
        """Raise the error that was kept, if there is one."""
        if self.error is not None:
            raise self.error
