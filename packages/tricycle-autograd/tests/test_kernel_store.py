"""Files of machine code: whole and used, or compiled again."""

import hashlib
import os
import signal
import subprocess
import sys

import pytest

from tricycle_autograd.compiling import is_stopped, will_answer
from tricycle_autograd.kernel_store import read_kernel, write_kernel

pytestmark = pytest.mark.slow  # it starts many processes

LONG = os.environ.get("TRICYCLE_TEST_LONG") == "1"

KERNEL = """
import numpy as np
from tricycle_autograd.cpu import cpu_kernel

@cpu_kernel
def double(x):
    y = np.empty_like(x)
    for i in range(len(x)):
        y[i] = x[i] + x[i]
    return y
"""
CALL = """
import sys
import numpy as np
sys.path.insert(0, {place!r})
from kernels_here import double
print(double(np.ones(2, np.float32)), sum(double.dispatcher.stats.cache_misses.values()))
"""


@pytest.fixture
def call(tmp_path):
    """Call a kernel in a new process, whose cache is tmp_path/cache; what it printed and said."""
    (tmp_path / "kernels_here.py").write_text(KERNEL)

    def call(line='exec "$0" -c "$1"', place=tmp_path):
        words = ["bash", "-c", line, sys.executable, CALL.format(place=str(place))]
        variables = {**os.environ, "TRICYCLE_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(words, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), done.stderr

    return call


def only_file(tmp_path):
    (file,) = (tmp_path / "cache").rglob("double-*.stored")
    return file


LOADED = "[2. 2.] 0"  # and compiled nothing


def test_the_same_sources_elsewhere_find_what_was_compiled(call, tmp_path):
    assert "compiling" in call()[1]
    elsewhere = tmp_path / "another environment"
    elsewhere.mkdir()
    copy = elsewhere / "kernels_here.py"
    copy.write_text(KERNEL)
    os.utime(copy, (0, 0))
    assert call(place=elsewhere) == (LOADED, "")
    copy.write_text(KERNEL.replace("x[i] + x[i]", "x[i] * 3"))
    assert call(place=elsewhere)[0] == "[3. 3.] 0"


def test_a_file_that_is_empty_cut_damaged_or_gone_is_compiled_again(call, tmp_path):
    assert call()[0] == LOADED
    file = only_file(tmp_path)
    whole = file.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for damaged in (b"", whole[:-100], flipped)[0 if LONG else 2 :]:
        file.write_bytes(damaged)
        found, said = call()
        assert found == LOADED
        assert said.count("is damaged: the kernel is compiled again") == 1
        assert read_kernel(file) is not None
    file.unlink()  # and the mark that it was right is still there
    assert call()[0] == LOADED
    assert call() == (LOADED, "")


def test_where_no_file_can_be_written_a_kernel_runs_from_memory(call, tmp_path):
    found, said = call('ulimit -f 4; exec "$0" -c "$1"')
    assert found == "[2. 2.] 1"
    assert "kernels are kept in memory" in said
    assert not list((tmp_path / "cache").rglob("*.stored"))
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_bytes_come_back_and_every_flipped_bit_is_noticed(tmp_path):
    file = tmp_path / "below" / "a.stored"
    write_kernel(file, b"code")
    assert read_kernel(file) == b"code"
    whole = file.read_bytes()
    assert hashlib.sha256(b"code").digest() in whole
    for cut in (b"", whole[:1], whole[:-1]):
        file.write_bytes(cut)
        assert read_kernel(file) is None
    for place in range(8 * len(whole)):
        wrong = bytearray(whole)
        wrong[place // 8] ^= 1 << place % 8
        file.write_bytes(wrong)
        told = []
        assert read_kernel(file, told.append) is None
        assert told == [f"{file} is damaged: the kernel is compiled again"]
    assert read_kernel(tmp_path / "not there", told.append) is None
    assert len(told) == 1


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_kernel(tmp_path / "file" / "a.stored", b"code")
    (tmp_path / "a.stored").mkdir()  # nothing can be put in its place
    with pytest.raises(OSError):
        write_kernel(tmp_path / "a.stored", b"code")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.stored", "file"]


def test_a_compiling_process_that_is_stopped_is_not_waited_for(monkeypatch, capsys):
    monkeypatch.setattr("tricycle_autograd.compiling.STOPPED_LIMIT", 0.5)
    words = [sys.executable, "-c", "input()"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert not is_stopped(process.pid)
        process.send_signal(signal.SIGSTOP)
        assert not will_answer(process)
        assert is_stopped(process.pid)
        assert (
            f"process {process.pid}, which compiles kernels, was stopped" in capsys.readouterr().err
        )
        process.send_signal(signal.SIGCONT)
        process.kill()
        assert will_answer(process)  # with its end
    finally:
        process.kill()
        process.communicate()
