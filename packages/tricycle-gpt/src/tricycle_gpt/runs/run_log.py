"""The log of a run: all that tells people and other programs how it goes.

    metrics.jsonl   a row for each step             (metrics.py)
    the bar         in a terminal, or plain lines   (progress.py)
    loss.png        drawn again now and then        (picture.py)
    samples/        what the model wrote
    the tracker     such as MLflow's                (tracking.py)

Rank 0 has a `RunLog`, the others a `SilentRunLog`.
"""

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from tricycle_gpt.runs.metrics import MetricsLog
from tricycle_gpt.runs.picture import LossPicture
from tricycle_gpt.runs.progress import Progress
from tricycle_gpt.runs.tracking import Tracker, ended_if_it_fails
from tricycle_gpt.runs.whole_files import or_else_say, replace_text


class RunLog:
    """Tells of a run, in its folder, on the screen and to a tracker.

    folder     of the run
    start      steps taken already: rows of later ones are removed
    steps      of the whole run
    log_every  steps between two lines, where there is no terminal for a bar
    tracker    told the same as the metrics file, if there is one

    As a context manager it closes its files at the end of the block, and tells the tracker if the
    run failed.  A run that does not fail is left to the caller to end, who may have more to tell.
    """

    def __init__(
        self, folder: Path, start: int, steps: int, log_every: int, tracker: Tracker | None = None
    ):
        self.folder, self.tracker = folder, tracker
        self._range = (start, steps, log_every)

    def __enter__(self) -> "RunLog":
        start, steps, log_every = self._range
        with ExitStack() as opened:  # what is open is closed again if a later part fails
            enter = opened.enter_context
            self._metrics = enter(closing(MetricsLog(self.folder / "metrics.jsonl", start)))
            self._progress = enter(Progress(steps, start, log_every))
            self._picture = enter(LossPicture(self.folder))
            enter(ended_if_it_fails(self.tracker))
            self._stack = opened.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        self._stack.__exit__(*exception)

    @property
    def run_id(self) -> str | None:
        """The tracker's name for the run, once it has one."""
        return self.tracker.run_id if self.tracker else None

    def begin(self, recipe: dict[str, Any], run_id: str | None) -> None:
        """Tell the tracker what the run is; a run_id is that of the run that is resumed."""
        if self.tracker:
            self.tracker.begin(recipe, run_id)

    def row(self, row: dict[str, Any]) -> None:
        """Write a row of metrics down."""
        self._metrics.write(**row)
        if self.tracker:
            self.tracker.log(row)

    def step(self, row: dict[str, Any], tokens: int) -> None:
        """Write a step's row down and show it; tokens were looked at in it, by all ranks."""
        self.row(row)
        self._progress.show(row, tokens)
        if self._picture.redraw() and self.tracker:
            self.tracker.file(self._picture.path)

    def sample(self, steps_taken: int, text: str) -> None:
        """Keep what the model wrote in samples/, if the disk takes it, and show its beginning."""
        path = self.folder / "samples" / f"step-{steps_taken:08d}.txt"
        with or_else_say(str(path)):
            path.parent.mkdir(exist_ok=True)
            replace_text(path, text + "\n")
        self.say(f"step {steps_taken} writes: {text[:200]!r}")
        if self.tracker:
            self.tracker.file(path, "samples")

    def say(self, text: str) -> None:
        """Show a line, above the bar if there is one."""
        self._progress.say(text)

    def sync(self) -> None:
        """Have the disk remember every row, through a pulled plug too."""
        self._metrics.sync()


class SilentRunLog(RunLog):
    """The log of every rank but 0: it has the same methods, and none of them does anything."""

    def __init__(self) -> None:
        self.tracker = None

    def __enter__(self) -> "SilentRunLog":
        return self

    def __exit__(self, *exception) -> None:
        """Nothing was opened."""

    def begin(self, recipe: dict[str, Any], run_id: str | None) -> None:
        """Nothing."""

    def row(self, row: dict[str, Any]) -> None:
        """Nothing."""

    def step(self, row: dict[str, Any], tokens: int) -> None:
        """Nothing."""

    def sample(self, steps_taken: int, text: str) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""
