"""metrics.jsonl: what happened at every step, one JSON object a line.

    {"step": 250, "loss": 1.93, "learning_rate": 0.001, "gradient_norm": 0.61, ...}

It is only ever appended to, except that resuming a run cuts it back to the checkpoint's step,
so that no step is told twice.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tricycle_gpt.runs.whole_files import replace_text, replacing, room_for, try_twice

MAKE_ROOM = "Make room, then go on with --resume from the last checkpoint, which is whole"


class MetricsLog:
    """The metrics file of one run.

    path  the file; made if it is not there
    step  steps taken so far: lines of this step and later ones are removed, and so are lines that
          are no rows (a power cut may leave such), of which it says how many

    A row that the disk does not take, full as it may be for a while, waits for the next one.
    """

    def __init__(self, path: str | Path, step: int = 0):
        self.path = Path(path)
        rows = [_row(line) for line in _lines(self.path)]
        if torn := rows.count(None):
            print(f"warning: {self.path}: {torn} lines are no rows, left out", file=sys.stderr)
        kept = [row for row in rows if row is not None and row["step"] < step]
        replace_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = self.path.open("ab", buffering=0)
        self._waiting = bytearray()  # rows, or the end of one, that the disk has not taken yet
        self._said = False

    def write(self, **row: Any) -> None:
        """Append one line, at once; or with the next one, and say so the first time."""
        self._waiting += json.dumps(row).encode() + b"\n"
        try:
            self._append()
        except OSError as error:
            if not self._said:
                print(
                    f"warning: {self.path} takes no rows ({error.strerror}): they are kept until "
                    "it does; the run ends at its next checkpoint if it still does not",
                    file=sys.stderr,
                )
            self._said = True

    def _append(self):
        while self._waiting:
            del self._waiting[: os.write(self._file.fileno(), self._waiting)]

    def sync(self) -> None:
        """Have the disk remember every line, through a pulled plug too.

        Raises OSError, naming the file, if it does not take them.
        """

        def write() -> None:
            self._append()
            os.fsync(self._file.fileno())

        try:
            with room_for(self.path, len(self._waiting), MAKE_ROOM):
                try_twice(write)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> None:
        """Close the file; rows that the disk does not take even now are lost, and it says so.

        It is no error: a run that ends here has either an error of its own, which is worth more, or
        a model to write.
        """
        try:
            self._append()
        except OSError as error:
            print(
                f"warning: {self.path} lacks its last rows, {len(self._waiting):,} bytes "
                f"({error.strerror}); a run that is resumed writes those of its steps again",
                file=sys.stderr,
            )
        finally:
            self._waiting.clear()
            self._file.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; an unfinished last line, left by a crash, is passed over.

    Raises ValueError, naming file and line, for one that is not a JSON object with a step.
    """
    rows = []
    for number, line in enumerate(_lines(Path(path)), 1):
        row = _row(line)
        if row is None:
            beginning = line[:80].decode(errors="replace")
            raise ValueError(f"{path}, line {number} is not JSON with a step: {beginning!r}")
        rows.append(row)
    return rows


def _lines(path):
    """The finished lines of a file, which may not be there."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def _row(line):
    """A line as a row; None if it is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def plot_loss(metrics: str | Path, picture: str | Path) -> None:
    """Draw training and validation loss against the step, from a metrics file into a picture.

    The last measure, of the whole validation text, stands apart from the line of those before it,
    which look at a part.

    Raises ImportError, saying what to install, without matplotlib (the extra `plots`).
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "drawing the loss needs matplotlib; install it with the extra: tricycle-gpt[plots]"
        ) from error
    rows = read_metrics(metrics)
    training = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    validation = [row for row in rows if "validation_loss" in row]
    looks = [row for row in validation if "learning_rate" in row]
    whole = [row for row in validation if "learning_rate" not in row]  # no step was taken

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    if training:
        axes.plot(*zip(*training, strict=True), color="#9ecae1", linewidth=0.8, label="each batch")
        smooth = _smoothed([loss for _, loss in training])
        steps = [step for step, _ in training]
        axes.plot(steps, smooth, color="#08519c", linewidth=1.6, label="training, smoothed")
    for points, mark, label in (
        (looks, "o-", "validation, a part of the text"),
        (whole, "D", "validation, the whole text"),
    ):
        if points:
            columns = ("step", "validation_loss", "validation_margin")
            steps, losses, margins = ([row.get(n) or 0.0 for row in points] for n in columns)
            axes.errorbar(steps, losses, margins, fmt=mark, color="#d94801", label=label, capsize=2)
    if validation:
        last = validation[-1]["step"], validation[-1]["validation_loss"]
        axes.annotate(
            f"{last[1]:.3f}", last, textcoords="offset points", xytext=(0, 8), ha="center"
        )
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    if training or validation:
        axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    picture = Path(picture)
    with replacing(picture) as half_done:  # until it is whole the last one can be seen
        figure.savefig(half_done, dpi=120, format=picture.suffix[1:] or "png")


def _smoothed(values, keep=0.95):
    """Exponential moving average, corrected for its start at zero."""
    mean, out = 0.0, []
    for i, value in enumerate(values, 1):
        mean = keep * mean + (1 - keep) * value
        out.append(mean / (1 - keep**i))
    return out
