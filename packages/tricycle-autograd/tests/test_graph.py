"""Captured steps: what is captured, in which order, and which buffer is written when."""

import numpy as np
import pytest

from tricycle_autograd import Tensor
from tricycle_autograd.devices import move
from tricycle_autograd.graph import MOST, CapturedStep
from tricycle_autograd.memory import Arena
from tricycle_autograd.testing_streams import emulated_gpu


@pytest.fixture
def cupy():
    with emulated_gpu() as cupy:
        yield cupy


class Doubling:
    """out = 2 · x as a launch on the current stream; says how often Python ran it."""

    def __init__(self, cupy):
        self.cupy, self.calls, self.allocators = cupy, 0, []
        self.out = None

    def __call__(self, x):
        self.calls += 1
        self.allocators.append(self.cupy.cuda.allocators[-1])
        out = self.out = self.cupy.empty_like(x)

        def launch():
            out[...] = 2 * x

        self.cupy.cuda.stream.do(launch)
        return out


def read(cupy, array):
    """What the caller's stream sees of an array."""
    cupy.cuda.stream.synchronize()
    return move(array, "cpu").tolist()


def test_it_is_run_once_captured_once_and_replayed_from_then_on(cupy):
    double = Doubling(cupy)
    step = CapturedStep(double)
    found = [read(cupy, step(np.array([i, 10.0]))) for i in range(5)]
    assert found == [[2 * i, 20.0] for i in range(5)]
    assert double.calls == 2  # plainly, and for the capture
    assert len(step.graphs) == 1


def test_a_capture_runs_nothing_by_itself(cupy):
    total = move(np.zeros(1), "cuda")

    def add(x):
        def launch():
            total[...] = total + x

        cupy.cuda.stream.do(launch)
        return total

    step = CapturedStep(add)
    assert [read(cupy, step(np.array([1.0]))) for _ in range(4)] == [[1.0], [2.0], [3.0], [4.0]]


def test_plainly_is_the_same_without_a_graph(cupy):
    double = Doubling(cupy)
    step = CapturedStep(double, plainly=True)
    assert [read(cupy, step(np.array([i]))) for i in range(4)] == [[0], [2], [4], [6]]
    assert (double.calls, step.graphs) == (4, {})


def test_it_has_a_stream_and_memory_of_its_own(cupy):
    double = Doubling(cupy)
    step, caller = CapturedStep(double), cupy.cuda.stream
    for i in range(3):
        step(np.array([i]))
    assert step.stream.non_blocking
    assert step.stream is not caller
    assert double.allocators == [step.pool.malloc] * 2
    assert cupy.cuda.stream is caller
    assert cupy.cuda.allocators == []


def test_results_stay_where_they_are(cupy):
    step = CapturedStep(Doubling(cupy))
    step(np.array([1.0]))
    first, second = step(np.array([2.0])), step(np.array([3.0]))
    assert first is second
    assert read(cupy, first) == [6.0]


def test_inputs_that_the_caller_refills_at_once_are_not_lost(cupy):
    """The GPU fetches as late as it may: what Python has written elsewhere by then is no matter."""
    step, batch, seen = CapturedStep(Doubling(cupy)), np.zeros(2), []
    for i in range(7):
        batch[...] = i
        out = step(batch)
        cupy.cuda.stream.do(lambda out=out: seen.append(move(out, "cpu").tolist()))
        batch[...] = -1
    cupy.cuda.stream.synchronize()
    assert seen == [[2 * i, 2 * i] for i in range(7)]


def test_a_buffer_is_written_again_only_when_it_was_fetched(cupy):
    step = CapturedStep(Doubling(cupy))
    step(np.array([1.0]))
    first, second = step.slots[0].buffers
    step(np.array([2.0]))
    # Nothing has been fetched: both still hold what was written.
    assert (first.tolist(), second.tolist()) == ([1.0], [2.0])
    assert step.stream.waiting
    step(np.array([3.0]))  # which has to wait for the first, and for no more than that
    assert np.array(step.slots[0].array.view(np.ndarray)).tolist() == [1.0]
    assert (first.tolist(), second.tolist()) == ([3.0], [2.0])


def test_it_waits_for_the_caller_and_the_caller_for_it(cupy):
    weight, seen = move(np.ones(1), "cuda"), []

    def product(x):
        out = cupy.empty_like(x)

        def launch():
            out[...] = weight * x

        cupy.cuda.stream.do(launch)
        return out

    step = CapturedStep(product)
    for i in range(4):
        out = step(np.array([3.0]))
        cupy.cuda.stream.do(lambda out=out: seen.append(out.tolist()))

        def move_weight(i=i):  # as an optimiser does, which nobody waits for
            weight[...] = i + 2.0

        cupy.cuda.stream.do(move_weight)
    cupy.cuda.stream.synchronize()
    assert seen == [[3.0], [6.0], [9.0], [12.0]]


def test_each_variant_has_a_graph_of_its_own(cupy):
    total = move(np.zeros(1), "cuda")
    adding = [False]

    def accumulate(x):
        adds = adding[0]

        def launch():
            total[...] = total + x if adds else x

        cupy.cuda.stream.do(launch)
        return total

    step, found = CapturedStep(accumulate), []
    for _ in range(4):
        for adding[0] in (False, True, True):
            found.append(read(cupy, step(np.array([1.0]), variant=adding[0]))[0])
    assert found == [1.0, 2.0, 3.0] * 4
    assert set(step.graphs) == {False, True}


def test_after_an_error_in_a_capture_the_stream_works_again(cupy):
    double = Doubling(cupy)
    faults = [None, MemoryError("none left"), RuntimeError("cudaErrorStreamCaptureInvalidated")]

    def faulty(x):
        if fault := faults.pop(0):
            raise fault
        return double(x)

    step = CapturedStep(faulty)
    step(np.array([1.0]))
    for error in (MemoryError, RuntimeError):
        with pytest.raises(error):
            step(np.array([1.0]))
        assert step.stream.captured is None
    assert (step.graphs, cupy.cuda.allocators) == ({}, [])
    faults[:] = [None]
    assert [read(cupy, step(np.array([x]))) for x in (2.0, 3.0)] == [[4.0], [6.0]]


def test_a_replay_sets_the_gradients_that_the_capture_left(cupy):
    weight = Tensor(np.ones(2, np.float32), requires_grad=True).to("cuda")
    weight = Tensor(weight.array, requires_grad=True)
    Arena([weight])

    def backward(x):
        loss = (weight * Tensor(x)).sum()
        loss.backward()
        return loss.array

    step = CapturedStep(backward, leaves=[weight])
    for i in range(1, 5):
        weight.grad = None
        step(np.array([i, 10.0], np.float32))
        assert weight.grad is not None
        assert read(cupy, weight.grad) == [i, 10.0]


def test_more_variants_than_a_few_are_run_plainly(cupy):
    double = Doubling(cupy)
    step = CapturedStep(double)
    for _ in range(3):
        for variant in range(MOST + 2):
            assert read(cupy, step(np.array([1.0 + variant]), variant=variant)) == [2 + 2 * variant]
    assert len(step.graphs) == MOST
    assert double.calls == 2 * MOST + 3 * 2


def test_other_shapes_dtypes_and_numbers_of_inputs_are_refused(cupy):
    step = CapturedStep(Doubling(cupy))
    step(np.zeros((2, 3), np.int32))
    for others in ([np.zeros((3, 2), np.int32)], [np.zeros((2, 3))], []):
        with pytest.raises(ValueError, match=r"made for inputs \[\(\(2, 3\), 'int32'\)\] and got"):
            step(*others)


def test_a_capture_inside_a_capture_is_refused_by_the_stand_in(cupy):
    stream = cupy.cuda.Stream()
    stream.begin_capture()
    with pytest.raises(RuntimeError, match="captures already"):
        stream.begin_capture()
