"""Signals become a flag; some stop at once when they come again."""

import faulthandler
import os
import signal
import subprocess
import sys

import pytest

from tricycle_gpt.runs.interruption import STOPPING_SIGNALS, Postponed, interruptible


@pytest.mark.parametrize("number", STOPPING_SIGNALS)
def test_each_signal_raises_the_flag_and_its_handler_is_put_back(number):
    before = signal.getsignal(number)
    with interruptible() as interruption:
        assert not interruption.requested
        signal.raise_signal(number)
        assert interruption.requested
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU])
def test_a_cluster_may_warn_several_times_and_then_end_it(first):
    with interruptible(silent=True) as interruption:
        for number in (first, first, signal.SIGTERM, first):
            signal.raise_signal(number)
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as interruption:
            signal.raise_signal(signal.SIGHUP)
            assert not interruption.requested
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who catches a signal")
def test_a_handler_of_faulthandler_stays(tmp_path):
    with open(tmp_path / "traceback", "w+") as file:
        faulthandler.register(signal.SIGUSR1, file, all_threads=False)
        try:
            with interruptible() as interruption:
                signal.raise_signal(signal.SIGUSR1)
                assert not interruption.requested
                signal.raise_signal(signal.SIGUSR2)
                assert interruption.requested
            signal.raise_signal(signal.SIGUSR1)
        finally:
            faulthandler.unregister(signal.SIGUSR1)
        file.seek(0)
        assert file.read().count("(most recent call first)") == 2


def test_an_error_is_kept_for_later_and_ctrl_c_is_not():
    postponed = Postponed()
    with postponed:
        raise ValueError("first")
    with postponed:
        raise ValueError("second")
    with pytest.raises(ValueError, match="first"):
        postponed.raise_it()
    with pytest.raises(KeyboardInterrupt), postponed:
        raise KeyboardInterrupt


def test_it_says_what_happens_if_there_is_a_standard_error(capfd):
    with interruptible():
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
    said = capfd.readouterr().err
    assert said == "\nstopping after this step, with a checkpoint\n"


def test_without_a_standard_error_nothing_is_written_into_the_file_that_has_its_number(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from tricycle_gpt.runs.interruption import interruptible\n"
        "from tricycle_gpt.runs.watchdog import Watchdog\n"
        f"assert os.open({str(tmp_path / 'file')!r}, os.O_WRONLY | os.O_CREAT) == 2\n"
        "import time\n"
        "with interruptible(), Watchdog(0.05):\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    time.sleep(0.3)\n"
    )
    line = '"$0" -c "$1" 2>&-'
    done = subprocess.run(["bash", "-c", line, sys.executable, program], env=dict(os.environ))
    assert done.returncode == 0
    assert (tmp_path / "file").read_bytes() == b""
