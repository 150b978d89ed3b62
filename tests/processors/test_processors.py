"""Kernels are right when their machine code is made for other processors.

Each target is two processes with one cache folder that is empty at first: the first has the
kernels compiled by the compiling process and loads them, as a user's first run does, the second
finds them all.  Both must be right, and to the bit the same (check_kernels.py).  Then small models
are trained, which end at the same bits on all that have fused multiply-add (one_digest.py).

Here eight targets that this machine can run, whichever it is, with most checks and one model each;
with TRICYCLE_TEST_LONG=1 all targets that it can run, all checks, four models, and an emulated
Haswell.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from check_kernels import CHECKS, LATER
from llvmlite.binding import get_host_cpu_features
from processors import ARM_TARGETS, AT_LEAST, X86_TARGETS, Target, chosen, runnable

HERE = Path(__file__).parent
LONG = os.environ.get("TRICYCLE_TEST_LONG") == "1"
AT_A_TIME = 2
SECONDS = 3600  # until a process is taken to hang
FEATURES = get_host_cpu_features()
TARGETS = chosen(FEATURES)
WANTED = [name for name in CHECKS if LONG or name not in LATER]
DIGESTS = (HERE / "digests.txt").read_text().splitlines()


FUSED = [target for target in TARGETS if target.multiplies_and_adds_at_once]


def trained(target: Target) -> list[str]:
    """The lines of digests.txt that a target is asked for: one of the four, in turn."""
    if target not in FUSED:
        return []
    return DIGESTS if LONG else [DIGESTS[FUSED.index(target) % 4]]


def run(program: str, *names: str, settings: dict[str, str], python=(sys.executable,)):
    """(exit status, lines that were printed, what was said on standard error)."""
    environment = {**os.environ, "TRICYCLE_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    environment.pop("NUMBA_DISABLE_JIT", None)
    done = subprocess.run(
        [*python, str(HERE / program), *names],
        env=environment | settings,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


class Outcome:
    """What came of one target: its `faults`, and the `digests` of training (one_digest.py)."""

    def __init__(self, target: Target):
        self.models = [word for line in trained(target) for word in line.split()[:2]]
        self.faults: list[str] = []
        self.digests: list[str] = []
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            settings = target.settings(FEATURES) | {"TRICYCLE_CACHE": f"{folder}/cache"}
            self._run(settings, f"{folder}/runs")
        self.said = (
            f"{target.name:32} {target.lanes:2} lanes, {len(WANTED)} checks, "
            f"{time.monotonic() - started:4.0f} s: {'WRONG' if self.faults else 'right'}"
        )

    def _run(self, settings, runs):
        compiled, loaded = [run("check_kernels.py", *WANTED, settings=settings) for _ in range(2)]
        for which, (status, lines, errors) in (("compiling", compiled), ("loading", loaded)):
            if status != 0:
                wrong = [line for line in lines if line.startswith("WRONG")]
                self.faults.append(f"{which}: exit status {status}; {wrong or errors[-2000:]}")
        if "compiling kernels" in loaded[2]:
            self.faults.append("the second process did not find every kernel in the cache")
        if compiled[1] != loaded[1]:
            pairs = zip(compiled[1], loaded[1], strict=False)
            different = [f"{a} | {b}" for a, b in pairs if a != b]
            self.faults.append(f"compiled and loaded differ: {different or 'in number'}")
        if not compiled[1]:
            self.faults.append("nothing was checked")
        if not self.models:
            return
        status, self.digests, errors = run("one_digest.py", runs, *self.models, settings=settings)
        if status != 0:
            self.faults.append(f"one_digest.py: exit status {status}; {errors[-2000:]}")


@pytest.fixture(scope="module")
def say(request):
    """Print a line that is seen also where everything passes."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def show(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n    {line}", end="", flush=True)

    return show


@pytest.fixture(scope="module")
def outcomes(say):
    """An Outcome for each target; two at a time."""

    def one(target: Target) -> Outcome:
        outcome = Outcome(target)
        say(outcome.said)
        return outcome

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        found = list(pool.map(one, TARGETS))
    return dict(zip((target.name for target in TARGETS), found, strict=True))


@pytest.mark.parametrize("name", [target.name for target in TARGETS])
def test_kernels_are_right_compiled_and_loaded_and_to_the_bit_the_same(outcomes, name):
    assert outcomes[name].faults == []


def test_training_has_one_digest_on_all_that_multiply_and_add_at_once(outcomes):
    assert len(FUSED) >= 5  # so that each line is some target's
    for target in FUSED:
        assert outcomes[target.name].digests == trained(target), target.name


def test_enough_targets_were_run(outcomes):
    assert len(outcomes) >= AT_LEAST


# ---- which targets ----


@pytest.mark.parametrize(
    "name", ["x86-64-v2", "Haswell Xeon", "Skylake-SP", "Ice Lake-SP", "Zen 4"]
)
def test_an_ordinary_machine_can_run_enough_targets(name):
    machine = next(target for target in X86_TARGETS if target.name == name)
    features = dict.fromkeys(machine.reported or machine.needed, True)
    found = list(runnable(features, "x86_64"))
    assert machine in found
    assert len(found) >= (AT_LEAST if "fma" in features else 2)
    assert len(list(runnable({}, "aarch64"))) >= AT_LEAST


def test_a_machine_with_avx512_runs_others_than_one_without():
    small, large = (
        next(target for target in X86_TARGETS if target.name == name).needed
        for name in ("Haswell Xeon", "Ice Lake-SP")
    )
    first, second = (
        [target.name for target in runnable(dict.fromkeys(features, True), "x86_64")][:AT_LEAST]
        for features in (small, large)
    )
    assert set(first) != set(second)
    assert "Skylake-SP" in second and "Skylake-SP" not in first


def test_targets_have_names_of_their_own():
    names = [target.name for target in X86_TARGETS + ARM_TARGETS]
    assert len(set(names)) == len(names)


# ---- in the long run: an emulated processor ----

if LONG:

    def test_an_emulated_haswell_is_right(say, tmp_path):
        """Not made for it, but found by numba there: what cpuid says is emulated too."""
        qemu = shutil.which("qemu-x86_64")
        assert qemu is not None, (
            "the long run needs an emulator that is not here; install it: "
            "apt-get update && apt-get install -y qemu-user"
        )
        emulated = [qemu, "-cpu", "Haswell-v4", sys.executable, "-W", "ignore"]
        wrapper = tmp_path / "python"
        wrapper.write_text(f'#!/bin/sh\nexec {" ".join(emulated)} "$@"\n')
        wrapper.chmod(0o755)
        settings = {"TRICYCLE_CACHE": str(tmp_path / "cache"), "CHECK_KERNELS_PYTHON": str(wrapper)}
        for _ in range(2):
            started = time.monotonic()
            status, lines, errors = run("check_kernels.py", settings=settings, python=(wrapper,))
            say(f"emulated Haswell: {len(lines)} checks, {time.monotonic() - started:.0f} s")
            assert status == 0, (lines, errors)
            assert len(lines) == len(CHECKS)
