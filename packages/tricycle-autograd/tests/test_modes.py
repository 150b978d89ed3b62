"""Modes belong to their thread and task, and a block undoes its own change only."""

import asyncio
import threading

import numpy as np
import pytest

from tricycle_autograd import Tensor, definitions_only, exp, no_grad, profile, recompute
from tricycle_autograd.modes import count_flops, current, is_recording, observed_by, recording
from tricycle_autograd.recompute import same_again
from tricycle_autograd.tape import on_finished_leaf


def leaf(*values):
    return Tensor(np.array(values, np.float32), requires_grad=True)


def in_a_thread(function):
    """What function() returns in a new thread."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


class Counter:
    """An observer that counts."""

    def __init__(self):
        self.flops, self.results = 0, 0

    def recorded(self, array, inputs, backward):
        self.results += 1
        return backward


# ---- Blocks ----


def test_nothing_is_recorded_under_no_grad():
    x = leaf(1.0)
    with no_grad():
        assert not is_recording()
        y = x * 2
    assert not y.requires_grad
    assert (x * 2).requires_grad
    with pytest.raises(RuntimeError, match="depends on nothing with requires_grad=True"):
        y.backward()


def test_no_grad_ends_with_its_block_whatever_happens():
    with pytest.raises(ZeroDivisionError), no_grad():
        1 / 0  # noqa: B018
    assert is_recording()
    with no_grad():
        with no_grad():
            pass
        assert not is_recording()


def test_recording_switches_the_tape_on_inside_no_grad():
    with no_grad():
        with recording():
            assert is_recording()
        assert not is_recording()


def test_one_block_can_be_entered_twice():
    block = no_grad()
    with block:
        with block:
            assert not is_recording()
        assert not is_recording()
    assert is_recording()


def test_no_grad_decorates_functions_that_call_themselves_too():
    @no_grad()
    def double(x, times):
        y = double(x, times - 1) if times else x
        assert not is_recording()
        return y * 2

    assert double.__name__ == "double"
    y = double(leaf(1.0), 2)
    assert (y.tolist(), y.requires_grad) == ([8], False)
    assert is_recording()


def test_no_grad_refuses_to_decorate_what_runs_later_than_its_call():
    def words():
        yield 1

    async def answer():
        return 1

    async def answers():
        yield 1

    for function in (words, answer, answers):
        with pytest.raises(TypeError, match=f"{function.__name__} runs later than it is called"):
            no_grad()(function)


def test_flops_are_counted_for_the_observer_of_the_block():
    counter = Counter()
    with observed_by(counter):
        count_flops(12)
        exp(leaf(1.0))
    count_flops(30)
    assert (counter.flops, counter.results) == (12, 1)


# ---- Threads ----


def test_a_thread_without_the_tape_leaves_the_tape_of_another_on():
    off, done = threading.Event(), threading.Event()

    def write():
        with no_grad():
            off.set()
            done.wait(30)
            return is_recording()

    results = []
    writer = threading.Thread(target=lambda: results.append(write()))
    writer.start()
    assert off.wait(30)
    x = leaf(1.0)
    (x * 3).backward()
    with no_grad():  # the other order of ends: this block ends after the other thread's
        done.set()
        writer.join()
        assert not is_recording()
    assert is_recording()
    assert (x.grad.tolist(), results) == ([3], [False])


def test_a_new_thread_starts_with_the_tape_on():
    with no_grad():
        assert in_a_thread(is_recording)


def test_a_profile_measures_its_own_thread(capsys):
    with profile() as measured:
        in_a_thread(lambda: exp(leaf(1.0)))
        (leaf(1.0) * 2).sum()
    assert {name for name, _ in measured.rows if name.isalpha()} == {"multiply", "sum"}


def test_leaves_are_reported_to_the_listener_of_the_thread_that_walks():
    x, heard = leaf(1.0), []
    with on_finished_leaf(heard.append):
        in_a_thread((x * 2).backward)
    assert (heard, x.grad.tolist()) == ([], [2])


def test_draws_are_kept_for_the_thread_that_draws():
    started, drawn = threading.Event(), threading.Event()

    def slow(x):
        started.set()
        assert drawn.wait(30)
        return x * same_again(lambda: 2.0)

    results = []

    def train():
        x = leaf(1.0)
        recompute(slow, x).backward()
        results.append(x.grad.tolist())

    trainer = threading.Thread(target=train)
    trainer.start()
    assert started.wait(30)
    assert same_again(lambda: 5.0) == 5.0  # in between, and not the other thread's
    drawn.set()
    trainer.join()
    assert results == [[2.0]]


# ---- Tasks and generators ----


def test_asyncio_tasks_have_modes_of_their_own():
    async def write(other):
        with no_grad():
            other.set()
            await asyncio.sleep(0.01)
            return is_recording()

    async def train(other):
        await other.wait()
        return is_recording()

    async def both():
        other = asyncio.Event()
        return await asyncio.gather(write(other), train(other))

    assert asyncio.run(both()) == [False, True]


def words():
    with no_grad():
        yield is_recording()
        yield is_recording()


def test_a_block_in_a_generator_ends_with_it_whichever_ends_first():
    stream = words()
    assert next(stream) is False
    with no_grad():
        stream.close()
        assert not is_recording()  # our own block still holds
    assert is_recording()

    with no_grad():
        stream = words()
        next(stream)
    assert not is_recording()  # the generator's block is open
    stream.close()
    assert is_recording()


def definitions():
    with definitions_only():
        yield current().definitions


def test_definitions_end_with_their_blocks_in_any_order():
    first, second = definitions(), definitions()
    assert next(first) and next(second)
    first.close()
    assert current().definitions  # the second block is open
    second.close()
    assert not current().definitions

    stream = definitions()
    in_a_thread(lambda: next(stream))
    stream.close()
    assert not current().definitions


def test_a_generator_that_is_closed_by_another_thread_changes_nothing_there():
    stream = words()
    in_a_thread(lambda: next(stream))
    with no_grad():
        stream.close()
        assert not is_recording()
    assert is_recording()
    assert current().blocks == ()
