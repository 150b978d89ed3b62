"""loss.png while a run goes on: drawn by a process of its own, so that no step waits for it.

Drawing takes matplotlib about a second, and Python's lock while it draws.  A process at the lowest
priority takes neither from the training; one at a time, and not often.
"""

import importlib.util
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tricycle_autograd.compiling import finding_our_modules, program

PAUSE = 30.0  # seconds between the beginnings of two pictures
PROGRAM = """
import os, sys
if hasattr(os, "nice"):
    os.nice(19)
from tricycle_gpt.runs.metrics import plot_loss
plot_loss(sys.argv[1], sys.argv[2])
"""


class LossPicture:
    """The picture of a run's loss, kept fresh.

    folder  the run's, with metrics.jsonl; the picture is its loss.png

    As a context manager it ends a drawing that is not finished; without matplotlib (the extra
    `plots`) it does nothing.
    """

    def __init__(self, folder: str | Path):
        self.metrics, self.path = (Path(folder) / name for name in ("metrics.jsonl", "loss.png"))
        self._can_draw = importlib.util.find_spec("matplotlib") is not None
        self._drawing: subprocess.Popen | None = None
        self._began = time.monotonic()

    def redraw(self) -> bool:
        """Begin to draw if it is time; whether a new picture is there since the last call."""
        if self._drawing is not None:
            ended = self._drawing.poll()
            if ended is None:
                return False
            self._drawing = None
            return ended == 0
        if self._can_draw and time.monotonic() - self._began >= PAUSE:
            self._began = time.monotonic()
            with suppress(OSError):  # no memory or no process left: no run ends for a picture
                self._drawing = subprocess.Popen(
                    program(PROGRAM, str(self.metrics), str(self.path)),
                    env=finding_our_modules(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C in a terminal is for the training
                )
        return False

    def __enter__(self) -> "LossPicture":
        return self

    def __exit__(self, *exception) -> None:
        if self._drawing is not None:
            self._drawing.kill()
            self._drawing.wait()
