"""Tracking: MLflow has what was told; a server that is away or hangs stops nothing."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import nullcontext
from pathlib import Path

import pytest

from tricycle_gpt import MLflowTracker, flops_per_token, follow
from tricycle_gpt.runs import run_folder, tracking
from tricycle_gpt.runs.tracking import ended_if_it_fails

RECIPE = {"model.n_layers": 2, "training.learning_rate": 0.001, "data.tokens": "ab" * 32}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return tmp_path


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def tell_a_run(folder: Path, tracker: MLflowTracker) -> None:
    began = time.time()
    tracker.begin(RECIPE)
    ended = time.time()
    (folder / "loss.png").write_bytes(b"a picture")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    tracker.data("my texts", "ab" * 32, "my_texts/")
    for step in range(120):
        tracker.log({"step": step, "loss": 5 - step / 100, "tokens_per_second": 1000})
    tracker.log({"step": 120, "validation_loss": 3.5, "bits_per_byte": None, "why": "the end"})
    tracker.file(folder / "loss.png")
    tracker.file(folder / "model", "checkpoint")
    tracker.file(folder / "pruned before its turn came")
    tracker.model(folder / "model", "my-gpt")
    tracker.end("finished", patience=100)
    check_when_it_began(tracker, began, ended)


def check_when_it_began(tracker: MLflowTracker, began: float, ended: float) -> None:
    from mlflow import MlflowClient

    when = MlflowClient(tracker.uri).get_run(tracker.run_id).info.start_time
    assert int(1000 * began) <= when <= 1000 * ended  # not when the server got to it


def check_the_run(tracker: MLflowTracker) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracker.uri)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {name: str(value) for name, value in RECIPE.items()}
    history = client.get_metric_history(tracker.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [(i, 5 - i / 100) for i in range(120)]
    assert run.data.metrics["validation_loss"] == 3.5
    assert run.data.metrics["mfu"] == pytest.approx(0.06)  # 1000 tokens · 6e6 of 1e11 a second
    assert 10 < run.data.metrics["memory_megabytes"] < 100_000
    assert {"bits_per_byte", "why", "step"}.isdisjoint(run.data.metrics)
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("my texts", "ab" * 18)
    assert {file.path for file in client.list_artifacts(tracker.run_id)} == {
        "loss.png",
        "checkpoint",
    }
    assert run.data.tags["mlflow.source.name"] == sys.argv[0]
    assert run.data.tags["mlflow.user"]
    assert run.data.tags["peak_flops"] == "1e+11"
    assert len(run.outputs.model_outputs) == 1
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    (version,) = client.search_model_versions("name='my-gpt'")
    assert (version.version, version.run_id) in [(1, tracker.run_id), ("1", tracker.run_id)]


def test_a_run_is_kept_in_a_local_file_without_any_server(here):
    told = []
    tracker = MLflowTracker("a run", flops_per_token=6e6, peak_flops=1e11, say=told.append)
    tell_a_run(here, tracker)
    assert told == []
    assert (here / "mlflow.db").exists()
    assert (here / "mlruns").exists()
    check_the_run(tracker)
    go_on_with(tracker.run_id)


def go_on_with(run_id: str) -> None:
    """The last 20 steps are taken again and 10 more; a run that is not known starts a new one."""
    from mlflow import MlflowClient

    told = []
    again = MLflowTracker(say=told.append)
    again.begin(RECIPE, run_id)
    for step in range(100, 131):
        again.log({"step": step, "loss": 5 - step / 100})
    again.end("interrupted", patience=100)
    assert (again.run_id, told) == (run_id, [])
    client = MlflowClient(again.uri)
    steps = sorted(metric.step for metric in client.get_metric_history(run_id, "loss"))
    assert steps == [*range(120), *range(121, 131)]  # step 120 had a validation loss already
    assert client.get_run(run_id).info.status == "KILLED"

    other = MLflowTracker(say=told.append)
    other.begin(RECIPE, "0" * 32)
    other.end("failed", patience=100)
    assert client.get_run(other.run_id).info.status == "FAILED"
    assert re.search("does not know the run 0+: starting a new one", told[0])


def test_a_run_that_stopped_before_its_first_checkpoint_goes_on_by_its_note(here):
    names = []
    for _ in range(2):
        tracker = MLflowTracker(note=here / "note.txt")
        tracker.begin({}, None)
        tracker.end("interrupted", patience=100)
        names.append(tracker.run_id)
    assert names[0] == names[1] == (here / "note.txt").read_text().strip()


@pytest.mark.slow
def test_a_run_is_told_to_a_real_server(here, monkeypatch):
    uri = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", uri.rsplit(":", 1)[1], "--backend-store-uri", "sqlite:///server.db"]
    with (here / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f"{uri}/health", server)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        tracker = MLflowTracker("a run", flops_per_token=6e6, peak_flops=1e11)
        tell_a_run(here, tracker)
        check_the_run(tracker)
        assert not (here / "mlflow.db").exists()
        go_on_with(tracker.run_id)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for(address: str, server: subprocess.Popen) -> None:
    for _ in range(600):
        assert server.poll() is None, Path("server.log").read_text()
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(Path("server.log").read_text())


def test_a_server_that_is_down_is_said_once_and_stops_nothing(here, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "MOST_ROWS", 1000)
    told = []
    tracker = MLflowTracker(say=told.append)
    tracker.begin(RECIPE)
    for step in range(3000):
        tracker.log({"step": step, "loss": 1.0})
    for _ in range(600):
        if told:
            break
        time.sleep(0.1)
    tracker.end("finished", patience=1)
    assert tracker.run_id is None
    assert len(told) == 2
    assert "does not answer" in told[0]
    assert "training goes on, metrics.jsonl has every row" in told[0]
    assert "did not take everything (3000 rows are missing there)" in told[1]


def test_no_password_is_shown(here, monkeypatch):
    address = f"http://ann:secret@127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{address}/?token=hidden")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "private")
    told = []
    tracker = MLflowTracker(say=told.append)

    def surprise(client):
        raise RuntimeError(f"private: {tracker.uri}")

    monkeypatch.setattr(tracker, "_send", surprise)
    tracker.begin(RECIPE)
    tracker.log({"step": 0, "loss": 1.0})
    tracker.end("finished", patience=600)  # it ends at once, when MLflow is imported
    assert "RuntimeError: ***: http://***@127.0.0.1" in told[0]
    assert "did not take everything" in told[1]
    assert not any(word in "".join(told) for word in ("ann", "secret", "hidden", "private"))


def test_a_server_that_hangs_holds_nobody_up(here, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # takes connections, says nothing
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{hanging.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        told = []
        tracker = MLflowTracker(say=told.append)
        tracker.begin(RECIPE)
        tracker.log({"step": 0, "loss": 1.0})
        tracker.end("finished", patience=2)
        assert tracker._thread.is_alive()  # it still waits for an answer; nobody else does
        assert "did not take everything (1 rows are missing there)" in told[-1]


def test_a_server_that_comes_back_is_told_what_it_missed(here, monkeypatch):
    from mlflow import MlflowClient

    real, failures = MlflowClient.log_batch, [OSError("no route"), OSError("still none")]
    threads = set()

    def unreliable(self, *args, **named):
        threads.add(threading.current_thread().name)
        if failures:
            raise failures.pop()
        return real(self, *args, **named)

    monkeypatch.setattr(MlflowClient, "log_batch", unreliable)
    told = []
    tracker = MLflowTracker(say=told.append)
    tracker.begin({})
    tracker.log({"step": 0, "loss": 1.0})
    tracker.end("finished", patience=100)
    assert failures == []
    assert threads == {"mlflow"}  # the thread that trains has nothing to do with it
    assert len(told) == 1
    assert len(MlflowClient(tracker.uri).get_metric_history(tracker.run_id, "loss")) == 1


def test_what_a_server_refuses_is_said_and_the_rest_goes_on(here):
    from mlflow import MlflowClient

    told = []
    tracker = MLflowTracker(say=told.append)
    tracker.begin({})
    tracker.log({"step": 0, "a:name;that*MLflow?does not take": 1.0})
    tracker.end("finished", patience=100)
    assert len(told) == 1
    assert "refused something: Invalid value" in told[0]
    assert MlflowClient(tracker.uri).get_run(tracker.run_id).info.status == "FINISHED"


def test_mfu_is_the_mean_of_the_last_steps_and_the_first_does_not_count(here):
    tracker = MLflowTracker(flops_per_token=1.0, peak_flops=1000.0)
    for step, pace in enumerate([1, 100, 300]):
        tracker.log({"step": step, "tokens_per_second": pace})
    found = [numbers["mfu"] for numbers, _, _ in tracker._rows]
    # 300 tokens in 3 s and in 1 s are 150 a second, not the mean of 100 and 300.
    assert found == pytest.approx([0.001, 0.1, 0.15])


def test_mfu_is_a_share_of_what_all_ranks_could_do(here, make_tiny, monkeypatch):
    monkeypatch.setattr(run_folder, "peak_flops", lambda device: 1e9)
    model = make_tiny()
    for ranks in (1, 3):
        tracker = follow(here, model, "text", "ab", {}, ranks=ranks)
        tracker.log({"step": 0, "tokens_per_second": 1000})
        share = 1000 * flops_per_token(model) / (ranks * 1e9)
        assert tracker._rows[0][0]["mfu"] == pytest.approx(share)


def test_a_run_ends_in_one_of_three_ways(here):
    with pytest.raises(ValueError, match="finished, interrupted, failed, not as 'done'"):
        MLflowTracker().end("done")


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (OSError("full"), [("failed", None)]),
        (KeyboardInterrupt(), [("interrupted", 1.0)]),
        (None, []),
    ],
)
def test_a_run_is_ended_by_what_fails_behind_the_training(error, ended):
    found = []

    class Notebook:
        def end(self, status, patience=None):
            found.append((status, patience))

    for tracker in (None, Notebook()):
        with pytest.raises(type(error)) if error else nullcontext(), ended_if_it_fails(tracker):
            if error:
                raise error
    assert found == ended


def test_a_run_ends_once(here):
    from mlflow import MlflowClient

    tracker = MLflowTracker("once")
    tracker.begin({})
    tracker.end("finished", patience=100)
    tracker.end("failed", patience=100)
    assert MlflowClient(tracker.uri).get_run(tracker.run_id).info.status == "FINISHED"


def test_without_mlflow_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tracking, "can_track", lambda: False)
    with pytest.raises(ImportError, match=r"extra tricycle-gpt\[mlflow\], or go without: --no-tr"):
        MLflowTracker()


def test_importing_tricycle_gpt_imports_no_mlflow():
    command = "import tricycle_gpt, sys; assert 'mlflow' not in sys.modules, 'imported'; print(1)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr
