"""How many threads, on what, and what is said where it is slow."""

import os
import subprocess
import sys

import pytest

from tricycle_autograd import threads

pytestmark = pytest.mark.slow  # it starts many processes


def fresh(**environment):
    """What a new process has settled, once a kernel was used."""
    code = (
        "import numba\n"
        "from tricycle_autograd import threads\n"
        "threads.prepare()\n"
        "print(numba.get_num_threads(), threads.threading_layer())"
    )
    kept = {k: v for k, v in os.environ.items() if k not in (threads.VARIABLE, "NUMBA_NUM_THREADS")}
    return subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True
    )


@pytest.fixture(autouse=True)
def forget():
    yield
    threads.number_of_threads.cache_clear()
    threads.threading_layer.cache_clear()


def test_a_quota_of_one_core_and_a_half_takes_two_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert threads.allowed_cores(tmp_path) == (8, "the machine's cores")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert threads.cgroup_quota(tmp_path) == 1.5
    assert threads.allowed_cores(tmp_path) == (2, "a quota of 1.5 cores (cgroup)")


def test_the_older_cgroups_keep_the_quota_in_two_files(tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("300000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert threads.cgroup_quota(tmp_path) == 3.0
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    assert threads.cgroup_quota(tmp_path) is None


def test_the_older_cgroups_have_a_tree_for_each_controller(tmp_path):
    own, step = tmp_path / "own", tmp_path / "cpu" / "job_12" / "step_0"
    step.mkdir(parents=True)
    own.write_text("12:memory:/other\n4:cpu,cpuacct:/job_12/step_0\n1:name=systemd:/a:b\n")
    groups = [step, step.parent, tmp_path / "cpu"]
    assert threads.control_groups(tmp_path, own, "cpu") == groups
    for folder, quota in zip(groups, ("-1", "250000", "800000"), strict=True):
        (folder / "cpu.cfs_quota_us").write_text(quota)
        (folder / "cpu.cfs_period_us").write_text("100000")
    assert threads.cgroup_quota(tmp_path, own) == 2.5


def test_the_narrowest_of_the_groups_around_a_process_counts(tmp_path):
    """A job of SLURM is a group inside others, each with limits of its own."""
    own, step = tmp_path / "own", tmp_path / "job_12" / "step_0"
    step.mkdir(parents=True)
    own.write_text("4:freezer:/elsewhere\n0::/job_12/step_0\n")
    assert threads.control_groups(tmp_path, own) == [step, tmp_path / "job_12", tmp_path]
    assert threads.cgroup_quota(tmp_path, own) is None
    for folder, quota in ((step, "max"), (tmp_path / "job_12", "300000"), (tmp_path, "800000")):
        (folder / "cpu.max").write_text(f"{quota} 100000\n")
    assert threads.cgroup_quota(tmp_path, own) == 3.0


@pytest.mark.parametrize("named", ["0::/\n", "", "0::/docker/outside_of_this_container\n", None])
def test_in_a_container_the_group_is_at_the_root(tmp_path, named):
    if named is not None:
        (tmp_path / "own").write_text(named)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert threads.cgroup_quota(tmp_path, tmp_path / "own") == 1.5


def test_no_limit_is_no_limit(tmp_path):
    assert threads.cgroup_quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert threads.cgroup_quota(tmp_path) is None


def test_affinity_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 6}, raising=False)
    assert threads.allowed_cores(tmp_path) == (3, "the process's affinity")


def test_one_variable_sets_the_number():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert fresh(TRICYCLE_NUM_THREADS="1").stdout.split()[0] == "1"
    assert int(fresh().stdout.split()[0]) <= cores


@pytest.mark.parametrize("wrong", ["0", "-2", "two", "1.5", ""])
def test_a_number_that_is_none_is_refused(monkeypatch, wrong):
    monkeypatch.setenv(threads.VARIABLE, wrong)
    threads.number_of_threads.cache_clear()
    with pytest.raises(ValueError, match=f"{threads.VARIABLE} is a number of threads, 1 or more"):
        threads.number_of_threads()


@pytest.mark.parametrize(
    ("there", "layer"),
    [(["libgomp.so.1"], "omp"), (["libtbb.so.12"], "tbb"), ([], "workqueue")],
)
def test_the_layer_is_what_can_be_loaded(monkeypatch, there, layer):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("NUMBA_THREADING_LAYER", raising=False)
    monkeypatch.setattr(threads, "_loads", lambda library: library.split("/")[-1] in there)
    threads.threading_layer.cache_clear()
    assert threads.threading_layer() == layer


def test_a_layer_that_was_chosen_is_taken(monkeypatch):
    monkeypatch.setenv("NUMBA_THREADING_LAYER", "workqueue")
    threads.threading_layer.cache_clear()
    assert threads.threading_layer() == "workqueue"


def test_a_slow_layer_is_said_once_with_the_cure():
    slow = fresh(NUMBA_THREADING_LAYER="workqueue", TRICYCLE_NUM_THREADS="1")
    assert "install the system's libgomp1, or pip install" in slow.stderr
    assert slow.stderr.count("tricycle:") == 1
    assert fresh(NUMBA_THREADING_LAYER="omp").stderr == ""
