"""Checkpoints written while training goes on.

The arrays a writer is given are copies (a state_dict is one), so a thread can write, hash and
flush them at the disk's pace while the next steps change the weights.  One is written at a time;
a second save waits for the first.  A save that failed is never silent: its error is raised by the
next call, which in training is the next step.  One that a disk refuses by an error that may pass is
tried a second time: the arrays are still there.
"""

import threading
from pathlib import Path
from typing import Any

import numpy as np

from tricycle_gpt.runs.checkpoint import save_checkpoint
from tricycle_gpt.runs.whole_files import try_twice


class CheckpointWriter:
    """Writes checkpoints below a folder from a thread of its own.

    folder   where they go
    options  keep, keep_best: as for save_checkpoint

    As a context manager it waits, at the end of the block, for what is still being written.
    """

    def __init__(self, folder: str | Path, **options: Any):
        self.folder = Path(folder)
        self.options = options
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(
        self,
        step: int,
        parameters: dict[str, np.ndarray],
        optimiser: dict[str, np.ndarray],
        state: dict[str, Any],
    ) -> None:
        """Begin to write one checkpoint; the arrays belong to the writer from now on.

        Waits for the one before.  Raises OSError if that one could not be written.
        """
        self.wait()
        # Not a daemon: a program that ends by an error still finishes what it began to write.
        self._thread = threading.Thread(
            target=self._write, args=(step, parameters, optimiser, state), name="checkpoint"
        )
        self._thread.start()

    def _write(self, *what):
        try:
            try_twice(lambda: save_checkpoint(self.folder, *what, **self.options))
        except (
            OSError,
            MemoryError,
            ValueError,
            TypeError,
            RuntimeError,
            ArithmeticError,
        ) as error:
            self._error = error

    def check(self) -> None:
        """Raise the error of a save that failed, if one did."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Wait until everything is on the disk.  Raises OSError if it could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, *exception) -> None:
        self.wait()
