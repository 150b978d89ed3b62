"""One digest everywhere: a seeded run ends at the same bits on every machine.

test_processors.py asks the same of machine code for other processors.  A change that alters
what a float32 run computes alters digests.txt too, and CHANGELOG.md says why.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tricycle_autograd.gemm_tile import LANES

HERE = Path(__file__).parent
PROGRAM, DIGESTS = HERE / "one_digest.py", HERE / "digests.txt"


def start(*arguments, **environment) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, PROGRAM, *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def digests(*arguments, **environment) -> str:
    process = start(*arguments, **environment)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


LONG = os.environ.get("TRICYCLE_TEST_LONG") == "1"


@pytest.mark.parametrize("threads", ["2", "4"] if LONG else ["4"])  # and 1 in test_processors.py
def test_the_digests_are_the_same_for_any_number_of_threads(threads):
    assert digests(TRICYCLE_NUM_THREADS=threads) == DIGESTS.read_text()


@pytest.mark.parametrize("lanes", sorted({4, 8, 16} - {LANES}))  # all others run with its own
def test_the_digests_are_the_same_for_any_width_of_registers(lanes):
    # Each has machine code of its own: the lanes are in the cache folder's name.
    assert digests(TRICYCLE_VECTOR_LANES=str(lanes)) == DIGESTS.read_text()


def test_the_digests_do_not_come_from_numpys_choice_of_instructions():
    plain = {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3", "OPENBLAS_CORETYPE": "Nehalem"}
    assert digests(**plain) == DIGESTS.read_text()


def test_the_digest_is_the_same_after_a_kill(tmp_path):
    killed = start(tmp_path, "llama", "muon")
    while not list(tmp_path.glob("llama-muon/checkpoints/step-*[0-9]/MANIFEST.json")):
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert digests(tmp_path, "llama", "muon") == DIGESTS.read_text().splitlines(True)[-1]
