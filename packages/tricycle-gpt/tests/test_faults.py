"""What a run survives: kills, two signals, a full disk, too little memory, a tracker in trouble."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from small_runs import Stream, losses_in, run, settings, text, weights_in

from tricycle_gpt import GPT, MLflowTracker, load_newest_checkpoint, train
from tricycle_gpt.runs import whole_files
from tricycle_gpt.runs.metrics import MetricsLog

pytestmark = pytest.mark.slow  # it starts many processes

KILLS = 200 if os.environ.get("TRICYCLE_TEST_LONG") == "1" else 5

PROGRAM = """
import sys, numpy as np
sys.path.insert(0, {tests!r})
from small_runs import Stream, text, settings
from tricycle_gpt import GPT, GPTConfig, train
class Telling(Stream):
    def __iter__(self):
        for i, batch in enumerate(super().__iter__()):
            if i == 1:
                print("stepping", flush=True)
            yield batch
model = GPT(GPTConfig({sizes}, dropout=0.1), rng=np.random.default_rng(0))
config = settings(
    steps={steps}, checkpoint_every=3, evaluate_every=50, keep_checkpoints={keep}
)
print("ready", flush=True)
train(model, Telling(text(), {batch}), config, {folder!r}, validation=text(100), resume=True)
print("done", flush=True)
"""
SMALL = {
    "sizes": "23, 16, 16, n_layers=1, n_heads=2",
    "batch": "4, 16",
    "steps": 10 * KILLS,
    "keep": 2,
}
# Large enough that every kernel cuts its work into pieces for several threads.
LARGE = {"sizes": "600, 64, 128, n_layers=2, n_heads=4", "batch": "8, 64", "steps": 4, "keep": 2}


def start(folder, run=SMALL, **variables):
    program = PROGRAM.format(tests=os.path.dirname(__file__), folder=str(folder), **run)
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **variables},
    )


def test_killed_at_any_moment_it_ends_up_at_the_same_bits(tmp_path):
    undisturbed = start(tmp_path / "whole", SMALL | {"keep": 10 * KILLS})
    heard = [(line, time.time()) for line in undisturbed.stdout]
    assert [line for line, _ in heard] == ["ready\n", "stepping\n", "done\n"]
    undisturbed.wait()
    ready, stepping, done = (moment for _, moment in heard)

    rng = np.random.default_rng(0)
    reached = compared = while_saving = 0
    for kill in range(KILLS):
        process = start(tmp_path / "killed")
        process.stdout.readline()
        if kill % 5 == 0:  # while it goes back to the checkpoint and loads its kernels
            time.sleep(float(rng.uniform(0, stepping - ready)))
        else:
            process.stdout.readline()
            time.sleep(float(rng.uniform(0, 2 * (done - stepping) / KILLS)))
        process.kill()
        process.wait()
        process.stdout.close()
        checkpoints = tmp_path / "killed" / "checkpoints"
        while_saving += any(checkpoints.glob("*.tmp"))
        found = load_newest_checkpoint(checkpoints)
        if found is None:
            assert reached == 0, "a checkpoint was lost"
            continue
        assert found.step >= reached, "a checkpoint was lost"
        reached, name = found.step, f"step-{found.step:08d}"
        compared += 1
        for file in sorted((checkpoints / name).iterdir()):
            expected = tmp_path / "whole" / "checkpoints" / name / file.name
            assert file.read_bytes() == expected.read_bytes(), f"{name}/{file.name} differs"
    print(f"{KILLS} kills, {while_saving} in a save; {compared} checkpoints of equal bytes")
    assert compared >= KILLS // 4
    last = start(tmp_path / "killed")
    assert last.communicate()[0].endswith("done\n"), "the run could not go on"
    assert weights_in(tmp_path / "whole") == weights_in(tmp_path / "killed")
    assert losses_in(tmp_path / "whole") == losses_in(tmp_path / "killed")


def test_any_number_of_threads_gives_the_same_bits(tmp_path):
    for threads in ("1", "2", "4"):
        process = start(tmp_path / threads, LARGE, TRICYCLE_NUM_THREADS=threads)
        assert process.communicate()[0] == "ready\nstepping\ndone\n"
    one, two, four = (weights_in(tmp_path / threads) for threads in ("1", "2", "4"))
    assert one == two
    assert one == four


@pytest.mark.parametrize("place", ["metrics", "checkpoint", "sample"])
def test_a_full_disk_ends_a_run_that_then_goes_on_as_if_nothing_had_happened(
    tmp_path, make_tiny, monkeypatch, place
):
    sample = "a sample".title
    run(tmp_path / "whole", make_tiny(dropout=0.1), sample=sample)

    def full(*words, **options):
        raise OSError(28, "No space left on device")

    def write(log):
        if b'"step": 12' in log._waiting:
            os.write(log._file.fileno(), log._waiting[:15])  # as much as there was room for
            del log._waiting[:15]
        if log._waiting.count(b"\n") > 1 or not log._waiting.startswith(b'{"step"'):
            full()
        written(log)

    written = MetricsLog._append
    with monkeypatch.context() as disk:
        if place == "metrics":
            disk.setattr(MetricsLog, "_append", write)
        elif place == "checkpoint":
            disk.setattr(whole_files, "save_file", full)
        else:
            sample = full
        with pytest.raises(OSError, match="No space left on device"):
            run(tmp_path / "full", make_tiny(dropout=0.1), sample=sample)
    run(tmp_path / "full", make_tiny(dropout=0.1), sample="a sample".title, resume=True)
    assert weights_in(tmp_path / "whole") == weights_in(tmp_path / "full")
    assert losses_in(tmp_path / "whole") == losses_in(tmp_path / "full")


def test_a_full_disk_at_the_very_end_costs_a_row_and_not_the_model(
    tmp_path, make_tiny, monkeypatch, capsys
):
    def write(log):
        if b"validation_loss" in log._waiting and b"learning_rate" not in log._waiting:
            raise OSError(28, "No space left on device")
        written(log)

    written = MetricsLog._append
    monkeypatch.setattr(MetricsLog, "_append", write)
    result = run(tmp_path / "run", make_tiny())
    assert result.finished
    assert "lacks its last rows" in capsys.readouterr().err
    assert len(losses_in(tmp_path / "run")) == result.steps


def test_without_memory_it_says_which_batch_fits(tmp_path, make_tiny, monkeypatch):
    real = GPT.loss

    def narrow(self, ids, targets):
        if len(ids) > 3:
            raise MemoryError("Unable to allocate 3.00 GiB")
        return real(self, ids, targets)

    monkeypatch.setattr(GPT, "loss", narrow)
    model = make_tiny()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    with pytest.raises(
        MemoryError,
        match="for step 1; the weights were left as they were. 3 windows at once fit: "
        "--training.batch-size 3 --training.micro-batches 4 makes steps of the same size",
    ):
        run(tmp_path, model, settings(batch_size=12))
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    monkeypatch.setattr(GPT, "loss", lambda *words: narrow(words[0], np.zeros((9, 1)), None))
    with pytest.raises(MemoryError, match="Not even one window of text fits: choose fewer layers"):
        run(tmp_path, model)


LIMITED = """
import resource, sys, numpy as np
sys.path.insert(0, {tests!r})
from small_runs import Stream, text, settings
from tricycle_gpt import GPT, GPTConfig, train
from tricycle_gpt.runs.command_line import end_politely
sizes = GPTConfig(500, 256, 64, n_layers=2, n_heads=2)
def go(batch_size, folder):
    model = GPT(sizes, rng=np.random.default_rng(0))
    config = settings(steps=2, warmup=0, batch_size=batch_size, checkpoint_every=0)
    train(model, Stream(text(2000), batch_size, 256), config, {folder!r} + folder)
go(2, "warm")
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 400_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
end_politely(lambda: go(512, "full"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
def test_where_memory_is_limited_a_batch_that_fits_is_found(tmp_path):
    program = LIMITED.format(tests=os.path.dirname(__file__), folder=f"{tmp_path}/")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    found = re.search(
        r"not enough memory for this batch or model: there was none for step 1; .* "
        r"(\d+) windows at once fit: "
        r"--training.batch-size \1 --training.micro-batches (\d+) ",
        done.stderr,
    )
    assert found, done.stderr
    assert int(found[1]) * int(found[2]) == 512
    assert 1 <= int(found[1]) <= 256


HANGING = """
import sys, time, numpy as np
sys.path.insert(0, {tests!r})
from small_runs import Stream, text, settings
from tricycle_gpt import GPT, GPTConfig, train
class Hanging(Stream):
    def __iter__(self):
        for i, batch in enumerate(super().__iter__()):
            if i == 3:
                print("hanging", flush=True)
                # Short ones: a signal between two looks would not wake a long one.
                while True:
                    time.sleep(0.01)
            yield batch
model = GPT(GPTConfig(23, 16, 16, n_layers=1, n_heads=2), rng=np.random.default_rng(0))
train(model, Hanging(text(), 4, 16), settings(), {folder!r})
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once(tmp_path, number):
    program = HANGING.format(tests=os.path.dirname(__file__), folder=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "hanging\n"
    process.send_signal(number)
    said = ""
    while "once more stops at once" not in said:
        said += process.stderr.readline()
    assert process.poll() is None  # it waits for its step
    process.send_signal(number)
    assert process.wait(timeout=60) != 0  # the step would have taken longer
    assert "KeyboardInterrupt" in process.communicate()[1]


@pytest.mark.parametrize("fault", ["blocks", "raises what is expected", "raises anything"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_tracker_in_trouble_costs_no_step(tmp_path, make_tiny, monkeypatch, fault):
    import mlflow

    asked, over = threading.Event(), threading.Event()

    def trouble(self, *words, **options):
        asked.set()
        if fault == "blocks":
            over.wait(600)
        raise OSError("no route") if fault != "raises anything" else RuntimeError("surprise")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow.MlflowClient, "create_run", trouble)
    monkeypatch.setattr(mlflow.MlflowClient, "get_experiment_by_name", trouble)
    run(tmp_path / "alone", make_tiny())

    class Patient(Stream):
        def __iter__(self):
            for i, batch in enumerate(super().__iter__()):
                assert i == 0 or asked.wait(600)  # the trouble has begun: mlflow is imported
                yield batch

    told = []
    tracker = MLflowTracker(say=told.append)
    stream = Patient(text(), 4, 16)
    result = train(make_tiny(), stream, settings(), tmp_path / "told", tracker=tracker)
    assert result.finished
    tracker.end("finished", patience=0.5)
    assert fault != "blocks" or tracker._thread.is_alive()  # it waited, the training did not
    over.set()
    assert "did not take everything (30 rows are missing there)" in told[-1]
    assert weights_in(tmp_path / "told") == weights_in(tmp_path / "alone")
