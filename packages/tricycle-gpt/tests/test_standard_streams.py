"""What is said may be lost; a run goes on."""

import io
import os
import subprocess
import sys

import pytest

from tricycle_gpt.runs.standard_streams import Steadfast, steadfast_streams

pytestmark = pytest.mark.slow  # it starts many processes

LONG = os.environ.get("TRICYCLE_TEST_LONG") == "1"

TRAINING = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np
from small_runs import run, settings
from tricycle_gpt import GPT, GPTConfig
model = GPT(GPTConfig(23, 16, 16, n_layers=1, n_heads=2), rng=np.random.default_rng(0))
run({folder!r}, model, settings(log_every=1))
"""


def words(folder):
    program = TRAINING.format(tests=os.path.dirname(__file__), folder=str(folder))
    return [sys.executable, "-c", program]


def shell(line, folder):
    """Run a shell's line in which "$@" is the training."""
    return subprocess.run(["bash", "-c", f"set -o pipefail; {line}", "bash", *words(folder)])


@pytest.mark.parametrize(
    "line",
    [
        '"$@" 2>&1 | head -2',
        '"$@" >/dev/full 2>&1',
        '"$@" <&- >&- 2>&-',
        *['"$@" 2>/dev/full', '"$@" 2>&-'] * LONG,
    ],
)
def test_a_run_goes_on_when_standard_error_goes_away(tmp_path, line):
    assert shell(line, tmp_path / "run").returncode == 0
    assert (tmp_path / "run" / "checkpoints" / "step-00000030").is_dir()
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes().count(b"\n") == 31


def test_a_run_goes_on_when_its_terminal_is_closed(tmp_path):
    """Its writes then fail, and SIGHUP ends it, with a checkpoint."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        words(tmp_path), stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    assert os.read(ours, 1)  # the first step's line, or the bar
    os.close(ours)
    assert process.wait(timeout=300) == 0
    assert list((tmp_path / "checkpoints").glob("step-*[0-9]"))


def test_what_cannot_be_written_is_dropped_and_the_next_is_tried(tmp_path):
    class Full(io.StringIO):
        full = True

        def write(self, text):
            if self.full:
                raise OSError(28, "No space left on device")
            return super().write(text)

    stream = Full()
    steadfast = Steadfast(stream)
    assert steadfast.write("lost") == 4
    steadfast.flush()
    with open(tmp_path / "closed", "w") as closed:
        pass
    for gone in (Steadfast(closed), Steadfast(None)):
        assert gone.write("lost") == 4
        gone.flush()
        assert not gone.isatty()


def test_streams_are_put_back():
    before = sys.stdout, sys.stderr
    with steadfast_streams(), steadfast_streams():
        assert isinstance(sys.stderr, Steadfast)
        assert sys.stderr._stream is before[1]
    assert (sys.stdout, sys.stderr) == before


def test_a_full_file_does_not_fail_the_program_at_its_end():
    program = (
        "import sys\n"
        "from tricycle_gpt.runs.standard_streams import steadfast_streams\n"
        "with steadfast_streams():\n"
        "    print('lost'); print('lost', file=sys.stderr)\n"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=full)
    assert done.returncode == 0


def test_a_character_that_the_stream_lacks_takes_nothing_else_with_it(tmp_path):
    path = tmp_path / "log"
    with open(path, "w", encoding="ascii") as stream:
        for text in ("first ", "é", " third"):
            Steadfast(stream).write(text)
    assert path.read_text() == "first ? third"
