"""Tracking: a run is told to MLflow by a thread, so that training never waits.

    MLFLOW_TRACKING_URI       where runs are kept; if not set, mlflow.db and mlruns/ in the current
                              folder, where `mlflow ui` finds them: no server is needed
    MLFLOW_EXPERIMENT_NAME    the experiment that runs belong to; "tricycle" if not set

Whatever is told goes into a queue.  The thread takes it out in batches and tells MLflow
(mlflow_run.py); while the server is slow or gone it keeps trying, later and later, and the queue
forgets its oldest rows rather than grow without end.  metrics.jsonl has every row whatever happens
here.
"""

import importlib.util
import logging
import os
import statistics
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tricycle_gpt.runs.command_line import say as tell
from tricycle_gpt.runs.memory_readers import resident_bytes
from tricycle_gpt.runs.mlflow_run import STATUS, MLflowRun, Row, without_passwords

MOST_ROWS = 50_000  # kept while a server is away: some 50 MB
ROWS_AT_ONCE = 50  # MLflow takes 1000 numbers in one call
MEAN_OF = 20  # steps: one alone may have been disturbed
GATHER = 2.0  # seconds in which rows gather before they are sent together
LONGEST_PAUSE = 60.0  # seconds between two attempts to reach a server
REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "PERMISSION_DENIED",
    "BAD_REQUEST",
}


def can_track() -> bool:
    """Whether MLflow is installed (the extra `mlflow`); asking does not import it."""
    return importlib.util.find_spec("mlflow") is not None


class Tracker(Protocol):
    """What is told about a run, and never holds it up: such as MLflowTracker."""

    @property
    def run_id(self) -> str | None:
        """Its name for the run; None until it has one."""
        ...

    def begin(self, recipe: dict[str, Any], run_id: str | None = None) -> None:
        """Start telling; a run_id is that of the run that is resumed."""
        ...

    def log(self, row: dict[str, Any]) -> None:
        """Tell a row of metrics."""
        ...

    def file(self, path: str | Path, folder: str = "") -> None:
        """Keep a file with the run, under `folder` there."""
        ...

    def end(self, status: str, patience: float | None = None) -> None:
        """Close the run as "finished", "interrupted" or "failed", in `patience` seconds."""
        ...


class MLflowTracker:
    """Tells MLflow about one run.  Every method but `end` returns at once and never raises
    because of the server.

    name             the run's name in MLflow
    flops_per_token  floating point operations that training does for each token (forward and
                     backward); with peak_flops, which the machine does in a second at most, each
                     row with tokens_per_second gets the model FLOPs utilisation of the last
                     steps, `mfu`
    note             a file that keeps the run's name in MLflow, for when it is resumed: it may have
                     been stopped before a checkpoint could know that name
    say              tells the user; standard error if not given

    `memory` is how many bytes MLflow itself takes.  Raises ImportError, saying what to install,
    without MLflow.
    """

    memory = 200_000_000  # 130 MB with a server, 197 with a local file

    def __init__(
        self,
        name: str | None = None,
        *,
        flops_per_token: float | None = None,
        peak_flops: float | None = None,
        note: Path | None = None,
        say: Callable[[str], None] | None = None,
    ):
        if not can_track():
            raise ImportError(
                "tracking needs MLflow; install it with the extra tricycle-gpt[mlflow], or "
                "go without: --no-track"
            )
        self._flops = (flops_per_token, peak_flops)
        self._say = lambda text: (say or tell)(without_passwords(text))
        self._run = MLflowRun(name, note, peak_flops, self._say)
        self.uri = self._run.uri
        self._rows: deque[Row] = deque(maxlen=MOST_ROWS)
        self._jobs: deque[Callable[[Any], None]] = deque()
        self._paces: deque[float] = deque(maxlen=MEAN_OF)
        self._first_pace = True
        self._forgotten = 0
        self._ended = False
        self._given_up = False
        self._warned = False
        self._refused: set[str] = set()
        self._news = threading.Condition()
        self._thread = threading.Thread(
            target=self._work_until_it_fails, name="mlflow", daemon=True
        )

    @property
    def run_id(self) -> str | None:
        """MLflow's name for the run: None until the server has answered."""
        return self._run.id

    # ---- what the training loop calls ----

    def begin(self, recipe: dict[str, Any], run_id: str | None = None) -> None:
        """Start telling: a new run with these parameters, or, with a run_id, an old one again.

        recipe  everything that decides what the weights become, by name
        run_id  of the run that goes on; steps that it has already are not told twice
        """
        if run_id is None:
            run_id = self._run.known_id()
        began = int(time.time() * 1000)  # making mlflow.db may take longer than a short training
        # First, whatever has been told before.
        self._jobs.appendleft(lambda client: self._run.open(client, recipe, run_id, began))
        self._thread.start()

    def log(self, row: dict[str, Any]) -> None:
        """Tell the numbers of a metrics row, {"step": …, name: number, …}."""
        numbers = {
            name: float(value)
            for name, value in row.items()
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        }
        flops, peak = self._flops
        if flops and peak and "tokens_per_second" in numbers:
            numbers["mfu"] = self._mean_pace(numbers["tokens_per_second"]) * flops / peak
        if held := resident_bytes():
            numbers.setdefault("memory_megabytes", held / 1e6)
        with self._news:
            self._forgotten += len(self._rows) == MOST_ROWS
            self._rows.append((numbers, int(row["step"]), int(time.time() * 1000)))

    def _mean_pace(self, pace: float) -> float:
        """Tokens a second over the last steps; the first of all, which waits for kernels, counts
        only while it is alone."""
        if self._first_pace and self._paces:
            self._paces.clear()
            self._first_pace = False
        self._paces.append(pace)
        return statistics.harmonic_mean(self._paces)  # of equal steps: tokens by time

    def file(self, path: str | Path, folder: str = "") -> None:
        """Keep a file, or all that is in a folder, with the run; under `folder` there."""
        path = Path(path)
        self._job(lambda client: self._run.file(client, path, folder))

    def data(self, name: str, digest: str, source: str) -> None:
        """Say what the run learns from: its name, a sha256 and where it lies."""
        self._job(lambda client: self._run.data(client, name, digest, source))

    def model(self, folder: str | Path, name: str) -> None:
        """Keep a model folder with the run and register it: a new version of the model `name`."""
        folder = Path(folder).resolve()
        self._job(lambda client: self._run.model(client, folder, name))

    def end(self, status: str, patience: float | None = None) -> None:
        """Send what is left, for at most `patience` seconds (30 for a server, 180 for
        a local file, whose making is slow on a busy machine), and close the run.

        status  "finished", "interrupted" or "failed"

        A run ends once: another call changes nothing.
        """
        if status not in STATUS:
            raise ValueError(f"a run ends as one of {', '.join(STATUS)}, not as {status!r}")
        with self._news:
            if self._ended:
                return
            self._ended = True
            self._jobs.append(lambda client: self._run.end(client, status))
            self._news.notify()
        if self._thread.ident is not None:
            self._thread.join(patience or (30 if self.uri.startswith("http") else 180))
        self._given_up = True
        left = len(self._rows) + self._forgotten
        if self._thread.is_alive() or left:
            self._say(
                f"MLflow at {self.uri} did not take everything ({left} rows are missing there); "
                "metrics.jsonl has every row"
            )

    # ---- the thread ----

    def _job(self, job):
        with self._news:
            self._jobs.append(job)
            self._news.notify()

    def _work_until_it_fails(self):
        try:
            self._work()
        except (
            BaseException
        ):  # nothing that MLflow does ends a run; what it prints may have a password
            self._say(f"MLflow at {self.uri} failed:\n{traceback.format_exc()}")

    def _work(self):
        # A server that hangs is given up after seconds: MLflow itself would wait 14 minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # Its addresses would be printed in the middle of the sample.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        # A user who waits for a loss need not know that mlflow.db is new.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # _warn says it once
        import mlflow
        from sqlalchemy.exc import SQLAlchemyError

        pause, client = 1.0, None
        while not self._given_up:
            try:
                client = client or mlflow.MlflowClient(self.uri)
                self._send(client)
                pause = 1.0
                with self._news:
                    if self._ended and not self._jobs and not self._rows:
                        return
                    if not self._ended and not self._jobs:
                        self._news.wait(GATHER)
            except (mlflow.MlflowException, SQLAlchemyError, OSError) as error:
                self._warn(error)
                with self._news:
                    # Once the run has ended, hurry: `end` waits with little patience.
                    self._news.wait(min(pause, 1.0) if self._ended else pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _send(self, client):
        """All rows and jobs there are; what fails stays in its place and is tried again."""
        if self.run_id is None and self._jobs:
            self._jobs[0](client)  # begin
            self._jobs.popleft()
        while rows := [self._rows[i] for i in range(min(ROWS_AT_ONCE, len(self._rows)))]:
            self._try(lambda client, rows=rows: self._run.log(client, rows), client)
            with self._news:
                for row in rows:  # a full queue may have forgotten some of them meanwhile
                    if self._rows and self._rows[0] is row:
                        self._rows.popleft()
        while self._jobs:
            self._try(self._jobs[0], client)
            self._jobs.popleft()

    def _try(self, job, client):
        """Do one thing.  What the server understood and refused is said and not tried again."""
        from mlflow.exceptions import MlflowException

        try:
            job(client)
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            if str(error) not in self._refused:
                self._refused.add(str(error))
                self._say(f"MLflow at {self.uri} refused something: {first_line(error)}")

    def _warn(self, error):
        if not self._warned:
            self._warned = True
            self._say(
                f"MLflow at {self.uri} does not answer ({first_line(error)}); training goes on, "
                "metrics.jsonl has every row, and what can be sent later will be"
            )


@contextmanager
def ended_if_it_fails(tracker: Any) -> Iterator[None]:
    """End a tracker's run if what is done meanwhile ends by an error; without one, do nothing."""
    try:
        yield
    except BaseException as error:
        if tracker is not None and isinstance(error, KeyboardInterrupt):  # the user is in a hurry
            tracker.end("interrupted", 1.0)
        elif tracker is not None:
            tracker.end("failed")
        raise


def first_line(error: BaseException) -> str:
    """The beginning of what an error says."""
    return str(error).split("\n", 1)[0][:200]
