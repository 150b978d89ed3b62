"""A run's folder belongs to one process at a time, and to nobody after a kill."""

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from tricycle_gpt.runs import run_lock
from tricycle_gpt.runs.distributed import Alone
from tricycle_gpt.runs.run_lock import locked_run

pytestmark = pytest.mark.slow  # it starts many processes

HOLDING = """
import sys, time
from tricycle_gpt.runs.run_lock import locked_run
with locked_run(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    words = [sys.executable, "-c", HOLDING, str(tmp_path / "run")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_and_a_kill_gives_the_folder_back(tmp_path, holder):
    with (
        pytest.raises(ValueError, match=f"run is in use: process {holder.pid} on .* trains in it"),
        locked_run(tmp_path / "run"),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked_run(tmp_path / "run") as lock:
        lock.check_place()
        assert lock.folder == tmp_path / "run"


def test_the_thread_that_holds_it_may_come_in_again_and_another_may_not(tmp_path):
    refused = []

    def come_in():
        try:
            with locked_run(tmp_path):
                refused.append("came in")
        except ValueError as error:
            refused.append(str(error))

    with locked_run(tmp_path) as lock:
        with locked_run(tmp_path) as again:
            assert again is lock
        thread = threading.Thread(target=come_in)
        thread.start()
        thread.join()
        assert f"in use: process {os.getpid()}" in refused[0]
    come_in()
    assert refused[1] == "came in"


def test_the_lock_ends_with_its_process_and_not_with_a_fork_of_it(tmp_path):
    with locked_run(tmp_path):
        child = os.fork()
        if child == 0:
            signal.pause()
    try:
        with locked_run(tmp_path) as lock:
            assert lock.uses == 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_it_says_so_and_goes_on(tmp_path, monkeypatch, capsys, number):
    def flock(descriptor, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    with locked_run(tmp_path):
        assert "cannot be locked" in capsys.readouterr().err
    monkeypatch.setattr(run_lock, "fcntl", None)  # as on Windows
    with locked_run(tmp_path):
        assert "see to it yourself" in capsys.readouterr().err


@pytest.mark.parametrize("written", ["", "[]", "{", '{"process": 1}', "\0" * 9])
def test_whatever_is_in_the_file_a_second_one_is_refused(tmp_path, holder, written):
    (tmp_path / "run" / "run.lock").write_text(written)
    with pytest.raises(ValueError, match="run is in use: .*process"), locked_run(tmp_path / "run"):
        pass


@pytest.mark.parametrize("change", ["moved", "removed", "replaced"])
def test_a_folder_that_is_moved_removed_or_replaced_is_noticed(tmp_path, change):
    folder = tmp_path / "run"
    with locked_run(folder) as lock:
        lock.check_place()
        folder.rename(tmp_path / "elsewhere")
        if change == "replaced":
            folder.mkdir()
            (folder / "run.lock").touch()
        with pytest.raises(OSError, match="run was moved, removed or replaced while the run"):
            lock.check_place()


@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_a_lock_that_alone_is_removed_is_made_again_and_holds(tmp_path, change):
    folder = tmp_path / "run"
    with locked_run(folder) as lock:
        (folder / "run.lock").unlink()
        if change == "replaced":
            (folder / "run.lock").touch()
        lock.check_place()
        second = subprocess.run(
            [sys.executable, "-c", HOLDING, str(folder)], capture_output=True, text=True
        )
        assert f"in use: process {os.getpid()}" in second.stderr
    with locked_run(folder):  # given back as ever
        pass


def test_who_comes_in_after_the_lock_was_removed_ends_the_first_at_its_next_save(tmp_path):
    folder = tmp_path / "run"
    with locked_run(folder) as lock:
        (folder / "run.lock").unlink()
        words = [sys.executable, "-c", HOLDING, str(folder)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as second:
            try:
                assert second.stdout.readline() == "held\n"
                with pytest.raises(ValueError, match=f"in use: process {second.pid}"):
                    lock.check_place()
            finally:
                second.kill()


def test_the_other_ranks_hold_nothing_and_hear_of_a_refusal(tmp_path, monkeypatch):
    ranks = Alone()
    ranks.rank, ranks.size = 1, 2
    said = ["", "the folder is in use"]
    monkeypatch.setattr(run_lock, "texts_of_all", lambda communicator, text: [said.pop(0), text])
    with locked_run(tmp_path / "run", ranks) as lock:
        lock.check_place()
        assert not (tmp_path / "run").exists()
    with (
        pytest.raises(ValueError, match="the folder is in use"),
        locked_run(tmp_path / "run", ranks),
    ):
        pass
