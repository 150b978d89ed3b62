"""Tracking: a run as MLflow shows it, told by a thread so that training never waits.

    MLFLOW_TRACKING_URI       where runs are kept; if not set, mlflow.db and mlruns/ in the current
                              folder, where `mlflow ui` finds them: no server is needed
    MLFLOW_EXPERIMENT_NAME    the experiment that runs belong to; "tricycle" if not set

Whatever is told goes into a queue.  The thread takes it out in batches; while the server is slow
or gone it keeps trying, later and later, and the queue forgets its oldest rows rather than grow
without end.  metrics.jsonl has every row whatever happens here.
"""

import getpass
import importlib.util
import logging
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tricycle_gpt.runs.whole_files import replace_text

MEMORY = 200_000_000  # bytes that MLflow itself takes: 130 MB with a server, 197 with a local file
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
KIND = "custom_model_development"
STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


def can_track() -> bool:
    """Whether MLflow is installed (the extra `mlflow`); asking does not import it."""
    return importlib.util.find_spec("mlflow") is not None


def where_runs_are_kept() -> str:
    """MLFLOW_TRACKING_URI, or the sqlite file mlflow.db in the current folder."""
    local = f"sqlite:///{Path('mlflow.db').resolve().as_posix()}"
    return os.environ.get("MLFLOW_TRACKING_URI") or local


class MLflowTracker:
    """Tells MLflow about one run.  Every method but `end` returns at once and never raises
    because of the server.

    name             the run's name in MLflow
    flops_per_token  floating point operations that training does for each token (forward and
                     backward); with peak_flops, which the machine does in a second at most, each
                     row with tokens_per_second gets the model FLOPs utilisation of the last
                     steps, `mfu`
    note             a file that keeps the run's name in MLflow, for a run that goes on: it may have
                     been stopped before a checkpoint could know that name
    say              tells the user; standard error if not given

    `run_id` is MLflow's name for the run: None until the server has answered.  Raises ImportError,
    saying what to install, without MLflow.
    """

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
        self.run_id: str | None = None
        self.uri = where_runs_are_kept()
        self._name = name
        self._note = note
        self._flops = (flops_per_token, peak_flops)
        self._say = say or (lambda text: print(text, file=sys.stderr, flush=True))
        self._rows: deque[tuple[dict[str, float], int, int]] = deque(maxlen=MOST_ROWS)
        self._jobs: deque[Callable[[Any], None]] = deque()
        self._paces: deque[float] = deque(maxlen=MEAN_OF)
        self._first_pace = True
        self._forgotten = 0
        self._logged_until = -1  # a run gone on with has told these steps before
        self._ended = False
        self._given_up = False
        self._warned = False
        self._refused: set[str] = set()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    # ---- what the training loop calls ----

    def begin(self, recipe: dict[str, Any], run_id: str | None = None) -> None:
        """Start telling: a new run with these parameters, or, with a run_id, an old one again.

        recipe  everything that decides what the weights become, by name
        run_id  of the run that goes on; steps that it has already are not told twice
        """
        if run_id is None and self._note is not None and self._note.exists():
            run_id = self._note.read_text(encoding="utf-8").strip() or None
        began = int(time.time() * 1000)  # making mlflow.db may take longer than a short training
        # First, whatever has been told before.
        self._jobs.appendleft(lambda client: self._open(client, recipe, run_id, began))
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
        numbers.setdefault("memory_megabytes", resident_megabytes())
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

        def upload(client):
            if path.is_dir():
                client.log_artifacts(self.run_id, str(path), folder or None)
            elif path.exists():  # an old checkpoint may be gone before its turn comes
                client.log_artifact(self.run_id, str(path), folder or None)

        self._job(upload)

    def data(self, name: str, digest: str, source: str) -> None:
        """Say what the run learns from: its name, a sha256 and where it lies."""
        self._job(lambda client: self._input(client, name, digest, source))

    def model(self, folder: str | Path, name: str) -> None:
        """Keep a model folder with the run and register it: a new version of the model `name`."""
        folder = Path(folder).resolve()
        self._job(lambda client: self._register(client, folder, name))

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
            self._jobs.append(lambda client: client.set_terminated(self.run_id, STATUS[status]))
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

    def _work(self):
        # A server that hangs is given up after seconds: MLflow itself would wait 14 minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault(
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"
        )  # the sample's place
        # Making a new mlflow.db is no news to someone who waits for a loss.
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
                    # Once the run has ended, hurry: whoever waits has little patience.
                    self._news.wait(min(pause, 1.0) if self._ended else pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _send(self, client):
        """All rows and jobs there are; what fails stays in its place and is tried again."""
        if self.run_id is None and self._jobs:
            self._jobs[0](client)  # begin
            self._jobs.popleft()
        while rows := [self._rows[i] for i in range(min(ROWS_AT_ONCE, len(self._rows)))]:
            self._try(lambda client, rows=rows: self._send_rows(client, rows), client)
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

    def _send_rows(self, client, rows):
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, when, step)
            for numbers, step, when in rows
            if step > self._logged_until
            for name, value in numbers.items()
        ]
        for i in range(0, len(metrics), 1000):
            client.log_batch(self.run_id, metrics=metrics[i : i + 1000])

    def _open(self, client, recipe, run_id, began):
        if run_id is not None and self._go_on(client, run_id):
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "tricycle")
        experiment = client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._new_experiment(client, name)
        tags = {"mlflow.user": who(), "mlflow.source.name": sys.argv[0]}
        if self._flops[1]:
            tags["peak_flops"] = f"{self._flops[1]:.3g}"  # what mfu is a share of
        run = client.create_run(number, began, tags, self._name)
        from mlflow.entities import Param

        params = [Param(name, str(value)[:6000]) for name, value in recipe.items()]
        for i in range(0, len(params), 100):
            client.log_batch(run.info.run_id, params=params[i : i + 100])
        self.run_id = run.info.run_id
        if self._note is not None:
            replace_text(self._note, f"{self.run_id}\n")

    def _new_experiment(self, client, name):
        # Beside mlflow.db, where `mlflow ui` looks for them; a server knows a place of its own.
        local = self.uri.startswith("sqlite:///") and "MLFLOW_TRACKING_URI" not in os.environ
        place = Path("mlruns").resolve().as_uri() if local else None
        # For training, not for chats and prompts.  MLflow's newest pages ask the browser instead:
        # "Model training" at the top left, or ?workflowType=machine_learning behind the address.
        return client.create_experiment(name, place, {"mlflow.experimentKind": KIND})

    def _go_on(self, client, run_id):
        from mlflow.exceptions import MlflowException

        try:
            client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._say(f"MLflow at {self.uri} does not know the run {run_id}: starting a new one")
            return False
        # A run goes on bit for bit, so steps taken again have the numbers that are there already.
        told = [
            metric.step
            for name in ("loss", "validation_loss")
            for metric in client.get_metric_history(run_id, name)
        ]
        self._logged_until = max(told, default=-1)
        self.run_id = run_id
        return True

    def _input(self, client, name, digest, source):
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # MLflow keeps 36 characters of a digest.
        data = Dataset(name, digest[:36], "local", source)
        tags = [InputTag("mlflow.data.context", "training")]
        client.log_inputs(self.run_id, [DatasetInput(data, tags)])

    def _register(self, client, folder, name):
        from mlflow.entities import LoggedModelOutput
        from mlflow.exceptions import MlflowException

        experiment = client.get_run(self.run_id).info.experiment_id
        model = client.create_logged_model(experiment, name, source_run_id=self.run_id)
        client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        place = client.get_logged_model(model.model_id).artifact_location
        client.create_model_version(name, place, run_id=self.run_id, model_id=model.model_id)

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
        if tracker is not None and isinstance(error, KeyboardInterrupt):  # somebody is in a hurry
            tracker.end("interrupted", 1.0)
        elif tracker is not None:
            tracker.end("failed")
        raise


def who() -> str:
    """The user's name, where the system knows one."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def first_line(error: BaseException) -> str:
    """The beginning of what an error says."""
    return str(error).split("\n", 1)[0][:200]


def resident_megabytes() -> float:
    """The memory that this process holds now, in megabytes (10^6 bytes)."""
    import psutil

    return psutil.Process().memory_info().rss / 1e6
