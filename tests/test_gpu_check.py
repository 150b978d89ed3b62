"""The script that asks a GPU everything: on the emulated one, and where a part of it fails."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tricycle_nn
from tricycle_autograd import nvrtc
from tricycle_autograd.fused import registry

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.py"
LONG = os.environ.get("TRICYCLE_TEST_LONG") == "1"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def check(*words, cwd, **options):
    line = [sys.executable, SCRIPT, *words]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False, **options)


def states(folder):
    """The state of each row, by part."""
    found = json.loads((folder / "gpu_check.json").read_text())
    return {part: {r["row"]: r["state"] for r in one["rows"]} for part, one in found.items()}


def test_every_operation_with_gpu_kernels_has_a_check(script):
    ours = [op for name, op in registry.items() if name.startswith("tricycle_nn.")]
    assert ours, tricycle_nn.__name__
    assert set(script.cases()) == {op.__name__ for op in ours if "cuda" in op.by_device}


@pytest.mark.skipif(not nvrtc.is_there(), reason="NVRTC is not installed")
def test_it_runs_on_the_emulated_gpu(tmp_path):
    """All parts but the long ones: operations of every name, and training, in the long run."""
    quick = ["device", "operations", "graph", "step", "torch_step", "sanitizer"]
    words = [] if LONG else [*quick, "--only", "relu,sgd_update"]
    done = check("--emulated", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = states(tmp_path)
    assert found["operations"]["relu"] == found["operations"]["sgd_update"] == "emulated"
    assert found["step"]["batch 1"] == "emulated"
    for part in ("graph", "sanitizer", "torch_step"):
        assert set(found[part].values()) == {"nobody has run it"}
        assert all(name in done.stdout for name in found[part])
    assert "ms" not in done.stdout.split("step (")[1].split("torch_step")[0]  # no time of numpy's
    if LONG:
        assert set(found) > {"learning", "kernels", "products"}
        assert "FAILED" not in str(found)


def test_where_no_gpu_works_it_says_how_to_get_there(tmp_path):
    (tmp_path / "cupy.py").write_text("raise ImportError('not here')")
    done = check(cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    reason = "cupy is installed and cannot be imported (not here); install tricycle-autograd"
    assert f"no GPU works here: {reason}" in done.stderr
    assert done.stderr.rstrip().endswith("or try --emulated")


def test_parts_are_asked_for_by_name(tmp_path):
    done = check("speed", cwd=tmp_path)
    assert done.returncode == 2
    assert "no part speed; there are device, operations" in done.stderr


@pytest.fixture
def run(script, monkeypatch, tmp_path):
    """Runs parts that are little programs; gives the exit status and the table's states."""

    def run(**programs):
        monkeypatch.setattr(script, "PARTS", dict.fromkeys(programs, (None, 5)))
        monkeypatch.setattr(
            script, "words_for", lambda part, args: [sys.executable, "-c", programs[part]]
        )
        words = type("Words", (), {"emulated": False, "file": tmp_path / "gpu_check.json"})
        return script.run_all(list(programs), words), states(tmp_path)

    return run


GOOD = (
    """print('a warning'); print('{"row": "sum", "found": 2, "state": "measured"}', flush=True)"""
)


def test_a_part_that_fails_does_not_end_the_others(run, capsys):
    status, found = run(first="import no_such_module", second=GOOD, third="pass")
    assert status == 1
    assert found["first"] == {"the part": "FAILED"}
    assert found["second"] == {"sum": "measured"}
    assert found["third"] == {"the part": "FAILED"}
    assert "No module named 'no_such_module'" in capsys.readouterr().out


def test_a_part_that_takes_too_long_is_ended(script):
    slow = f"{GOOD}; import time; time.sleep(60)"
    found = script.one_part([sys.executable, "-c", slow], 3)
    first, last = found["rows"]  # what it had found by then, and what became of it
    assert (first["row"], last["state"]) == ("sum", "FAILED")
    assert last["found"].startswith("took longer than 3 s: a warning")
    assert found["seconds"] < 30


def test_what_a_slow_part_has_started_ends_with_it(script, tmp_path):
    """As compute-sanitizer does, which would hold the GPU while later parts are timed."""
    sleeper = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True); "
    words = [sys.executable, "-c", f"{sleeper}import time; time.sleep(60)"]
    (last,) = script.one_part(words, 3)["rows"]
    child = int(last["found"].split()[-1])
    for _ in range(100):  # until its new parent has asked how it ended
        try:
            state = Path(f"/proc/{child}/stat").read_text().split()[2]
        except FileNotFoundError:
            state = "Z"
        if state == "Z":
            return
        time.sleep(0.1)
    raise AssertionError(f"process {child} still runs")


def test_without_failures_the_status_is_good(run):
    assert run(only=GOOD) == (0, {"only": {"sum": "measured"}})


def test_a_failed_row_is_a_failure_too(run):
    status, found = run(one=GOOD.replace("measured", "FAILED"), two=GOOD)
    assert (status, found["one"], found["two"]) == (1, {"sum": "FAILED"}, {"sum": "measured"})


def test_parts_for_which_no_time_is_left_are_not_begun(script, run, monkeypatch):
    monkeypatch.setattr(script, "LIMIT", 1)
    assert run(one=GOOD) == (0, {"one": {"one": "nobody has run it"}})
