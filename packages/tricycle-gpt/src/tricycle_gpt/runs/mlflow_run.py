"""A run in MLflow: what MLflow wants to be told of it, and in which words.

Each method is given an MlflowClient and may take as long as the server does, so they are called by
the tracker's thread (tracking.py).
"""

import getpass
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tricycle_gpt.runs.whole_files import replace_text

KIND = "custom_model_development"
STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
Row = tuple[dict[str, float], int, int]  # numbers by name, the step, milliseconds since 1970


def where_runs_are_kept() -> str:
    """MLFLOW_TRACKING_URI, or the sqlite file mlflow.db in the current folder."""
    local = f"sqlite:///{Path('mlflow.db').resolve().as_posix()}"
    return os.environ.get("MLFLOW_TRACKING_URI") or local


def without_passwords(text: str) -> str:
    """A text to be shown: in its addresses nobody's name, password or token is left.

    >>> without_passwords("http://ann:secret@host/path?token=abc does not answer")
    'http://***@host/path?token=*** does not answer'
    """
    for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    text = re.sub(r"://\S*@", "://***@", text)
    return re.sub(r"(?i)((?:password|passwd|pwd|token|secret|key)=)[^\s&'\"]+", r"\1***", text)


class MLflowRun:
    """One run, by name.

    name        the run's name in MLflow
    note        a file that keeps MLflow's id of the run, for a run that is resumed
    peak_flops  what the machine does in a second at most, for the tag that says of what `mfu` is
                a share
    say         tells the user

    `id` is MLflow's name for the run: None until the server has answered.
    """

    def __init__(
        self,
        name: str | None,
        note: Path | None,
        peak_flops: float | None,
        say: Callable[[str], None],
    ):
        self.id: str | None = None
        self.uri = where_runs_are_kept()
        self._name, self._note, self._peak_flops, self._say = name, note, peak_flops, say
        self._logged_until = -1  # a resumed run has logged these steps already

    def known_id(self) -> str | None:
        """The id in the note, if there is one."""
        if self._note is None or not self._note.exists():
            return None
        return self._note.read_text(encoding="utf-8", errors="replace").strip() or None

    def open(self, client: Any, recipe: dict[str, Any], run_id: str | None, began: int) -> None:
        """Make the run, or open the one with this id again.

        recipe  becomes the run's parameters
        began   when it began, in milliseconds since 1970
        """
        from mlflow.entities import Param

        if run_id is not None and self._open_again(client, run_id):
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "tricycle")
        experiment = client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._new_experiment(client, name)
        tags = {"mlflow.user": who(), "mlflow.source.name": sys.argv[0]}
        if self._peak_flops:
            tags["peak_flops"] = f"{self._peak_flops:.3g}"  # what mfu is a share of
        run = client.create_run(number, began, tags, self._name)
        params = [Param(name, str(value)[:6000]) for name, value in recipe.items()]
        for i in range(0, len(params), 100):
            client.log_batch(run.info.run_id, params=params[i : i + 100])
        self.id = run.info.run_id
        if self._note is not None:
            replace_text(self._note, f"{self.id}\n")

    def _new_experiment(self, client, name):
        # Beside mlflow.db, where `mlflow ui` looks for them; a server knows a place of its own.
        local = self.uri.startswith("sqlite:///") and "MLFLOW_TRACKING_URI" not in os.environ
        place = Path("mlruns").resolve().as_uri() if local else None
        # For training, not for chats and prompts.  MLflow's newest pages ask the browser instead:
        # "Model training" at the top left, or ?workflowType=machine_learning after the address.
        return client.create_experiment(name, place, {"mlflow.experimentKind": KIND})

    def _open_again(self, client, run_id):
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
        self.id = run_id
        return True

    def log(self, client: Any, rows: Sequence[Row]) -> None:
        """The numbers of some steps; those that it has already are passed over."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, when, step)
            for numbers, step, when in rows
            if step > self._logged_until
            for name, value in numbers.items()
        ]
        for i in range(0, len(metrics), 1000):
            client.log_batch(self.id, metrics=metrics[i : i + 1000])

    def file(self, client: Any, path: Path, folder: str) -> None:
        """A file, or all that is in a folder, under `folder` there."""
        if path.is_dir():
            client.log_artifacts(self.id, str(path), folder or None)
        elif path.exists():  # an old checkpoint may be gone before its turn comes
            client.log_artifact(self.id, str(path), folder or None)

    def data(self, client: Any, name: str, digest: str, source: str) -> None:
        """What the run learns from."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # MLflow keeps 36 characters of a digest.
        data = Dataset(name, digest[:36], "local", source)
        tags = [InputTag("mlflow.data.context", "training")]
        client.log_inputs(self.id, [DatasetInput(data, tags)])

    def model(self, client: Any, folder: Path, name: str) -> None:
        """A model folder, registered as a new version of the model `name`."""
        from mlflow.entities import LoggedModelOutput
        from mlflow.exceptions import MlflowException

        experiment = client.get_run(self.id).info.experiment_id
        model = client.create_logged_model(experiment, name, source_run_id=self.id)
        client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(self.id, [LoggedModelOutput(model.model_id, step=0)])
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        place = client.get_logged_model(model.model_id).artifact_location
        client.create_model_version(name, place, run_id=self.id, model_id=model.model_id)

    def end(self, client: Any, status: str) -> None:
        """Close the run as "finished", "interrupted" or "failed"."""
        client.set_terminated(self.id, STATUS[status])


def who() -> str:
    """The user's name, where the system knows one."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
