"""A progress bar where a terminal shows it: tqdm's if installed, else a line now and then."""

import sys
import time
from typing import Any


class Progress:
    """Counts towards a total and shows it on a terminal; elsewhere it is silent.

    >>> with Progress("encoding", total=10, unit="B") as progress:
    ...     progress.update(10)
    """

    def __init__(self, what: str, total: int | None, unit: str):
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.bar: Any = None
        self.visible = sys.stderr.isatty()
        self.last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        if self.visible:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                return self
            self.bar = tqdm(desc=self.what, total=self.total, unit=self.unit, unit_scale=True)
        return self

    def update(self, amount: int) -> None:
        """Say how much more is done."""
        self.done += amount
        if self.bar is not None:
            self.bar.update(amount)
        elif self.visible and time.monotonic() > self.last_line + 2:
            self.last_line = time.monotonic()
            total = f" of {self.total:,}" if self.total else ""
            print(f"{self.what}: {self.done:,}{total} {self.unit}", file=sys.stderr)

    def note(self, text: str) -> None:
        """Show a few words after the bar."""
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.close()
