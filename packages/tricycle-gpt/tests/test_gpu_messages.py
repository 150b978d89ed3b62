"""Sums over GPUs: which part goes where, on a stand-in for NCCL whose ranks are threads."""

import ctypes
import sys
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from tricycle_autograd import nvrtc
from tricycle_autograd.devices import move
from tricycle_autograd.gpu import current_gpu, take_gpu
from tricycle_autograd.testing_streams import emulated_gpu
from tricycle_gpt import GPT, GPTConfig, TrainingConfig
from tricycle_gpt.runs import gpu_messages
from tricycle_gpt.runs.data_parallel import DealtOptimiser, totals
from tricycle_gpt.runs.distributed import Alone, Communicator
from tricycle_gpt.runs.gpu_messages import GPUMessages
from tricycle_gpt.runs.optimiser import make_optimiser
from tricycle_gpt.runs.placing import place
from tricycle_nn import scale_for_norm

BF16 = np.dtype(ml_dtypes.bfloat16)


class NCCL:
    """NCCL, as far as it is used; calls begin where a group ends, as they may there."""

    NCCL_SUM = 0
    NCCL_FLOAT32, NCCL_FLOAT64 = np.dtype("f4"), np.dtype("f8")
    NCCL_BFLOAT16, NCCL_UINT8 = BF16, np.dtype("u1")

    char = range(-128, 128)  # what C's char holds, on x86

    def __init__(self, size):
        self.barrier, self.mail = threading.Barrier(size, timeout=600), {}
        self.group = threading.local()
        self.identities, self.places = [], set()

    def get_unique_id(self):
        return tuple(self.char[i] for i in range(64, 192))

    def NcclCommunicator(self, size, identity, rank):
        if not set(identity) <= set(self.char):
            raise OverflowError("value too large to convert to char")
        self.identities.append(identity)
        self.places.add((rank, current_gpu().id))
        return Rank(self, rank)

    def groupStart(self):
        self.group.calls = []

    def groupEnd(self):
        calls = self.group.calls
        self.places |= {(call[0], current_gpu().id) for call in calls}
        for rank in {call[0] for call in calls}:
            self.mail[rank] = [(kind, to, numbers.copy()) for _, kind, to, numbers, _ in calls]
        self.barrier.wait()
        everyone = dict(self.mail)
        self.barrier.wait()  # nobody's mail is changed before all have read it
        for i, (rank, kind, other, _, to) in enumerate(calls):
            if kind == "reduce" and other == rank:
                to[...] = sum(everyone[r][i][2].astype("f4") for r in sorted(everyone))
            elif kind == "broadcast":
                to[...] = everyone[other][i][2]
            elif kind == "recv":
                sent = [n for k, whom, n in everyone[other] if (k, whom) == ("send", rank)]
                to[...] = sent[0]


class Rank:
    """One rank's communicator: it notes what is called."""

    def __init__(self, nccl, rank):
        self.nccl, self.rank = nccl, rank

    def _note(self, kind, other, source, place, n, dtype):
        call = self.rank, kind, other, seen(source, n, dtype), seen(place, n, dtype)
        self.nccl.group.calls.append(call)

    def reduce(self, source, place, n, dtype, add, root, stream):
        self._note("reduce", root, source, place, n, dtype)

    def broadcast(self, source, place, n, dtype, root, stream):
        self._note("broadcast", root, source, place, n, dtype)

    def send(self, source, n, dtype, to, stream):
        self._note("send", to, source, source, n, dtype)

    def recv(self, place, n, dtype, sender, stream):
        self._note("recv", sender, place, place, n, dtype)


def seen(address, n, dtype):
    """The memory at an address."""
    memory = (ctypes.c_ubyte * (n * dtype.itemsize)).from_address(address)
    return np.frombuffer(memory, dtype)


@pytest.fixture
def on_gpus(monkeypatch):
    """Run program(messages, rank) on each of `size` ranks; returns what each returned."""

    def run(size, program, nccl=None, meet=GPUMessages):
        nccl, told = nccl or NCCL(size), threading.Barrier(size, timeout=600)
        word, found, errors = np.zeros(128, np.uint8), [None] * size, []
        monkeypatch.setattr(gpu_messages, "nccl_library", lambda: nccl)

        def tell_all(identity):
            if identity.any():
                word[...] = identity
            told.wait()
            identity[...] = word

        def rank(r):
            try:
                take_gpu(r)
                found[r] = program(meet(r, size, tell_all), r)
            except BaseException as error:
                errors.append(error)
                nccl.barrier.abort()
                raise

        threads = [threading.Thread(target=rank, args=(r,)) for r in range(size)]
        with emulated_gpu() as cupy:
            cupy.cuda.runtime.gpus = size
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert not errors
        assert set(nccl.identities) == {nccl.get_unique_id()}  # all found the same meeting
        assert nccl.places == {(r, r) for r in range(size)}  # with its own GPU in every thread
        return found

    return run


def parts_of(size):
    """Parts of 11 numbers, unequal, in no order; one is empty where there are four ranks."""
    return [(4, 11), (0, 4)] if size == 2 else [(3, 5), (7, 7), (5, 11), (0, 3)]


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("dtype", [np.dtype("f4"), BF16], ids=str)
def test_each_rank_gets_the_sum_of_its_part_and_keeps_the_rest(on_gpus, size, dtype):
    parts = parts_of(size)
    numbers = np.random.default_rng(0).integers(-9, 9, (size, 11)).astype(dtype)  # sums are exact

    def program(messages, rank):
        array = move(numbers[rank].copy(), "cuda")
        messages.reduce(array, parts)
        return move(array, "cpu")

    for rank, found in enumerate(on_gpus(size, program)):
        expected = numbers[rank].copy()
        mine = slice(*parts[rank])
        expected[mine] = numbers.astype("f4").sum(0)[mine]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [2, 4])
def test_parts_come_together_on_all_ranks(on_gpus, size):
    parts = parts_of(size)

    def program(messages, rank):
        whole = move(np.full(11, -1, np.float32), "cuda")
        mine = move(np.arange(*parts[rank], dtype=np.float32), "cuda")
        messages.gather(mine, whole, parts)
        return move(whole, "cpu").tolist()

    assert on_gpus(size, program) == [list(range(11))] * size


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("root", [0, 1])
def test_parts_come_together_on_one_rank(on_gpus, size, root):
    parts = parts_of(size)

    def program(messages, rank):
        whole = move(np.full(11, -1, np.float32), "cuda") if rank == root else None
        mine = move(np.arange(*parts[rank], dtype=np.float32), "cuda")
        messages.gather(mine, whole, parts, root)
        return None if whole is None else move(whole, "cpu").tolist()

    expected = [None] * size
    expected[root] = list(range(11))
    assert on_gpus(size, program) == expected


def test_what_cannot_be_sent_is_refused(on_gpus):
    def program(messages, rank):
        with pytest.raises(TypeError, match="not int16"):
            messages.reduce(move(np.zeros(2, np.int16), "cuda"), [(0, 2)])
        return True

    assert on_gpus(1, program) == [True]


def test_ranks_meet_also_where_a_char_has_no_sign(on_gpus):
    nccl = NCCL(2)
    nccl.char = range(256)  # on Arm
    assert on_gpus(2, lambda messages, r: r, nccl) == [0, 1]
    assert max(nccl.identities[0]) == 191


def test_without_nccl_the_error_names_the_extras(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(
        ImportError, match=r"tricycle-autograd\[nccl12\] or tricycle-autograd\[nccl13\]"
    ):
        gpu_messages.nccl_library()


# ---- Training ----

SMALL = GPTConfig(vocab_size=23, context_window=8, embedding_dim=16, n_layers=1, n_heads=1)
TEXT = np.random.default_rng(0).integers(0, 23, (2, 4, 9))  # two steps of four windows


class Threads(Communicator):
    """Ranks that are threads: numbers are added in their order, arrays by the stand-in."""

    def __init__(self, rank, size, tell_all, numbers, barrier):
        self.rank, self.size, self.sent, self.neighbours, self.place = rank, size, 0, size, rank
        self._world = SimpleNamespace(Bcast=lambda identity, root: tell_all(identity))
        self.numbers, self.barrier = numbers, barrier

    def sum(self, numbers):
        self.numbers[self.rank] = np.array(numbers, np.float64)
        self.barrier.wait()
        total = sum(self.numbers[r] for r in range(self.size))
        self.barrier.wait()
        return total


def train_on(ranks):
    """Two steps of a rank's share; its weights, on rank 0 the optimiser's state, gradient norms."""
    model = GPT(SMALL, rng=np.random.default_rng(0))
    place(model, "cuda")
    optimiser = make_optimiser(model, TrainingConfig(learning_rate=1e-2))
    if ranks.size > 1:
        optimiser = DealtOptimiser(optimiser, model.parameters(), ranks, bucket_size=300)
    norms = []
    for windows in TEXT:
        mine = windows[ranks.rank :: ranks.size]
        loss = model.loss(mine[:, :-1], mine[:, 1:]) / ranks.size
        with optimiser.summing() if ranks.size > 1 else nullcontext():
            loss.backward()
        norms.append(totals(loss.item(), optimiser, ranks)[1])
        optimiser.step(grad_scale=scale_for_norm(norms[-1], 1.0))
        optimiser.zero_grad()
    return model.state_dict(), optimiser.state_dict(), norms


@pytest.mark.slow
@pytest.mark.skipif(not nvrtc.is_there(), reason="NVRTC is not installed")
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_with_a_gpu_each_train_as_one_does(on_gpus, size):
    with emulated_gpu():
        alone, state_alone, norms_alone = train_on(Alone())
    numbers, barrier = {}, threading.Barrier(size, timeout=600)
    found = on_gpus(
        size,
        lambda ranks, r: train_on(ranks),
        meet=lambda *about: Threads(*about, numbers, barrier),
    )
    for weights, _, _ in found[1:]:  # all ranks have the same
        for name, array in weights.items():
            assert array.tobytes() == found[0][0][name].tobytes(), name
    # AdamW makes a whole step of the smallest gradient, so that a few numbers go elsewhere: of the
    # way that all went it is little.
    begun = GPT(SMALL, rng=np.random.default_rng(0)).state_dict()
    went = sum(np.square(alone[name] - begun[name]).sum() for name in alone)
    apart = sum(np.square(found[0][0][name] - alone[name]).sum() for name in alone)
    assert apart < 0.02 * went
    for _, _, norms in found:
        np.testing.assert_allclose(norms, norms_alone, rtol=0.02)
    assert [bool(state) for _, state, _ in found] == [True] + [False] * (size - 1)
    assert {n: a.shape for n, a in found[0][1].items()} == {
        n: a.shape for n, a in state_alone.items()
    }


# ---- Which way ----


class World:
    """One rank of MPI's, which tells itself what it knows."""

    def Get_rank(self):
        return 0

    def Get_size(self):
        return 1

    def Bcast(self, array, root):
        self.told = (array.dtype, array.size, root)


def test_a_communicator_sends_arrays_on_gpus_by_nccl_and_others_by_mpi(monkeypatch):
    nccl = NCCL(1)
    monkeypatch.setattr(gpu_messages, "nccl_library", lambda: nccl)
    ranks = Communicator(World())
    with emulated_gpu():
        array, whole = (move(np.arange(3, dtype=np.float32), "cuda") for _ in range(2))
        ranks.reduce(array, [(0, 3)])
        ranks.gather(array * 2, whole, [(0, 3)])
        assert move(whole, "cpu").tolist() == [0, 2, 4]
    assert ranks._world.told == (np.uint8, 128, 0)
    assert len(nccl.identities) == 1  # they meet once
