"""Ranks that mpiexec starts: how they talk, and how they end."""

import os
import signal
import sys
import time

import numpy as np
import pytest
from ranks import ends_badly, on_ranks, start_ranks

from tricycle_gpt import communicate, load_newest_checkpoint, read_metrics
from tricycle_gpt.runs.checkpoint import list_checkpoints
from tricycle_gpt.runs.distributed import LAUNCHED, Alone, check_launcher, cores_of_one

pytestmark = pytest.mark.slow  # it starts many processes

LONG = os.environ.get("TRICYCLE_TEST_LONG") == "1"

# ---- Talking ----

METHODS = """
import time
from pathlib import Path
from tricycle_gpt.runs.distributed import texts_of_all
with communicate() as ranks:
    assert type(ranks) is Communicator and ranks.size == 3
    r = ranks.rank
    # 1e20 + 1 - 1e20 in the order of the ranks is 0; the other orders have 1 or 0.
    assert ranks.sum([r, [1e20, 1.0, -1e20][r]]).tolist() == [3, 0]
    assert ranks.sum(5).tolist() == 15

    assert ranks.any(r == 2) and not ranks.any(False)
    note = Path(sys.argv[1])
    if r == 1:
        time.sleep(0.2)
        note.touch()
    ranks.wait()
    assert note.exists()

    array = np.arange(7, dtype=np.float32) * 10**r
    parts = [(4, 7), (0, 0), (0, 4)]
    ranks.reduce(array, parts)
    expected = np.arange(7, dtype=np.float32) * 10**r
    expected[slice(*parts[r])] = np.arange(7)[slice(*parts[r])] * 111
    assert array.tolist() == expected.tolist()
    assert ranks.sent == [4 * 4, 7 * 4, 3 * 4][r]

    ranks.gather(array[slice(*parts[r])], array, parts)
    assert array.tolist() == [111.0 * i for i in range(7)]
    on_one = None if r != 1 else np.zeros(7, np.int64)
    ranks.gather(np.arange(*parts[r]), on_one, parts, root=1)
    assert on_one is None or on_one.tolist() == list(range(7))
    assert texts_of_all(ranks, "é" * r) == ["", "é", "éé"]
    say(ranks, "well")
"""


def test_numbers_are_added_in_the_order_of_ranks_and_parts_come_together(tmp_path):
    assert on_ranks(3, METHODS, tmp_path / "note").split() == ["well"]


def test_a_program_that_mpiexec_did_not_start_is_alone():
    with communicate() as ranks:
        assert type(ranks) is Alone
    assert (ranks.rank, ranks.size) == (0, 1)
    assert ranks.sum([2.0, 3.0]).tolist() == [2, 3]
    array = np.arange(3)
    ranks.reduce(array, [(0, 3)])
    ranks.gather(array[:0], None, [(0, 0)])
    ranks.gather(np.array([7, 8, 9]), array, [(0, 3)])
    assert array.tolist() == [7, 8, 9]


def test_without_mpi4py_the_error_names_the_extra(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r"tricycle-gpt\[mpi\]"), communicate():
        pass


@pytest.mark.parametrize("launcher", ["MPICH", "Open MPI", "PMIx"])
def test_an_mpiexec_of_another_mpi_is_noticed(monkeypatch, launcher):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    name = {"MPICH": "PMI", "Open MPI": "OMPI_COMM_WORLD", "PMIx": "PMIX"}[launcher]
    monkeypatch.setenv(f"{name}_RANK", "1")
    if launcher != "PMIx":  # it does not tell how many
        monkeypatch.setenv(f"{name}_SIZE", "2")
    check_launcher(World(1, 2))
    with pytest.raises(
        RuntimeError, match=r"rank 1 of (2|several) to its launcher, and rank 0 of 1"
    ):
        check_launcher(World(0, 1))


class World:
    """What an MPI library says."""

    def __init__(self, rank, size):
        self.Get_rank, self.Get_size = lambda: rank, lambda: size


class Neighbours:
    """Ranks of one machine, of which each has the cores that it names."""

    def __init__(self, names):
        self.names = names

    def Get_size(self):
        return len(self.names)

    def Get_rank(self):
        return 0

    def Allgather(self, mine, everyone):
        everyone[:] = [mine[0] if name == self.names[0] else 0 for name in self.names]


def test_ranks_on_the_same_cores_share_them(monkeypatch):
    monkeypatch.setattr("tricycle_gpt.runs.distributed.allowed_cores", lambda: (8, ""))
    assert cores_of_one(Neighbours(["all"])) == 8
    assert cores_of_one(Neighbours(["all", "all"])) == 4
    assert cores_of_one(Neighbours(["0-7", "8-15"])) == 8  # the launcher has divided them
    assert cores_of_one(Neighbours(["all"] * 9)) == 1


# ---- Ending ----

ONE_FAILS = """
import time
with communicate() as ranks:
    ranks.sum(0)
    if ranks.rank == 1:
        raise ValueError("the data is not there")
    ranks.sum(0)
"""
ALL_FAIL = """
from tricycle_gpt.runs.command_line import end_politely
def main():
    with communicate() as ranks:
        ranks.sum(0)
        raise ValueError("seen by everyone")
end_politely(main)
"""
ONE_IS_KILLED = """
import os, signal
with communicate() as ranks:
    ranks.sum(0)
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.sum(0)
"""


def test_where_one_rank_fails_all_end_and_its_message_is_heard():
    said = ends_badly(start_ranks(3, ONE_FAILS))
    assert "rank 1 of 3 failed:" in said
    assert "ValueError: the data is not there" in said


def test_an_error_that_all_ranks_have_is_told_once():
    said = ends_badly(start_ranks(3, ALL_FAIL))
    assert said.count("error: seen by everyone") == 1


def test_where_one_rank_is_killed_all_end():
    process = start_ranks(2, ONE_IS_KILLED)
    ends_badly(process)
    assert process.returncode == 9  # the signal that one of them died of


INTERRUPTED = """
import os, signal
class Interrupting(Windows):
    def __iter__(self):
        for i, batch in enumerate(super().__iter__()):
            if i == 5 and self.ranks.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch
with communicate() as ranks:
    source = Interrupting(6, ranks)  # 6 x 2 windows by two ranks: one batch of 6 for each
    result = train(small(), source, recipe(), sys.argv[1], communicator=ranks)
    say(ranks, result.steps, ranks.sum([result.steps, result.finished]))
"""


def test_a_signal_to_one_rank_stops_all_after_the_same_step(tmp_path):
    said = on_ranks(2, INTERRUPTED, tmp_path)
    assert said == "6 [12.  0.]\n"
    assert load_newest_checkpoint(tmp_path / "checkpoints").step == 6


@pytest.mark.parametrize("number", [signal.SIGTERM, *[signal.SIGINT] * LONG])
def test_a_signal_to_mpiexec_ends_with_a_checkpoint(tmp_path, number):
    program = """
with communicate() as ranks:
    train_small(sys.argv[1], ranks, steps=100_000, warmup=2)
"""
    process = start_ranks(2, program, tmp_path)
    try:
        until = time.time() + 120
        while not list_checkpoints(tmp_path / "checkpoints") and time.time() < until:
            time.sleep(0.05)
        process.send_signal(number)
        _, complained = process.communicate(timeout=600)
    finally:
        process.kill()
    assert "stopping after this step, with a checkpoint" in complained
    steps = read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] + 1
    assert load_newest_checkpoint(tmp_path / "checkpoints").step == steps
