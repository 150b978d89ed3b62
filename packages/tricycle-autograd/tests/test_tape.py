import copy
import gc
import subprocess
import sys
import weakref
from multiprocessing.reduction import ForkingPickler  # how "spawn" sends things

import numpy as np
import pytest

import tricycle_autograd as tri
from tricycle_autograd import Tensor, recompute, record
from tricycle_autograd.tape import (
    gradient_destination,
    note_that_it_moved,
    on_finished_leaf,
)


def leaf(*values):
    return Tensor(np.array(values, np.float32), requires_grad=True)


def number(value):
    return Tensor(value, requires_grad=True)


@pytest.fixture
def no_garbage_collector():
    """Memory is freed by reference counts alone."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# ---- By hand ----


def test_a_number_times_itself():
    x = number(3.0)
    (x * x).backward()
    assert x.grad == 6  # d(x²)/dx = 2x


def test_a_number_plus_itself():
    x = number(3.0)
    (x + x).backward()
    assert x.grad == 2


def test_a_shared_gradient_is_not_written_into():
    # The gradient of `y = h + x` is one array, handed to h and to x.  x gets a second
    # contribution through h; adding that in place would change what w receives, too.
    w, x = number(1.0), number(2.0)
    h = x + w
    y = h + x
    y.backward()
    assert w.grad == 1
    assert x.grad == 2


def test_a_value_used_three_times_receives_three_gradients():
    x = number(2.0)
    y = x * 3
    (y + y * y + y).backward()
    assert x.grad == 3 * (1 + 2 * 6 + 1)


def test_a_diamond_is_walked_once():
    calls = []

    def watched(x):
        def backward(dy):
            calls.append(float(dy))
            return (dy,)

        return record(x.array, (x,), backward)

    x = number(1.0)
    h = watched(x)
    (h * 2 + h * 5).backward()
    assert calls == [7]
    assert x.grad == 7


# ---- Leaves ----


def test_gradients_add_up_over_backward_passes():
    x = leaf(1.0, 2.0)
    (x * 2).sum().backward()
    (x * 3).sum().backward()
    assert x.grad.tolist() == [5, 5]


def test_leaves_that_share_a_gradient_array_keep_their_own_sums():
    a, b = leaf(1.0), leaf(1.0)
    (a + b).backward(np.ones(1))
    assert not np.shares_memory(a.grad, b.grad)
    (a * 10).backward(np.ones(1))
    assert a.grad.tolist() == [11]
    assert b.grad.tolist() == [1]


def test_the_gradient_passed_in_is_not_written_into():
    x = leaf(1.0, 1.0)
    given = np.array([1.0, 2.0], np.float32)
    y = x + 0
    (y + x + x + y).backward(given)
    assert x.grad.tolist() == [4, 8]
    assert given.tolist() == [1, 2]


def test_the_gradient_of_a_leaf_is_an_array_even_of_one_number():
    x = number(2.0)
    (x * x).backward()
    (x * x * x).backward()
    assert isinstance(x.grad, np.ndarray)
    assert x.grad.shape == ()


def test_a_leaf_is_its_own_gradient():
    x = leaf(5.0)
    x.backward()
    assert x.grad.tolist() == [1]


def test_inputs_without_a_gradient_get_none():
    x, constant = leaf(1.0), Tensor([2.0])
    (x * constant).sum().backward()
    assert constant.grad is None


# ---- Depth and memory ----


def test_a_chain_of_fifty_thousand_steps():
    x = leaf(1.0)
    y = x
    for _ in range(50_000):
        y = y + 1
    y.backward()
    assert x.grad.tolist() == [1]


def test_a_long_chain_can_be_thrown_away():
    x = leaf(1.0)
    y, saved = tri.sin(x), weakref.ref(x.array)
    del x
    for _ in range(200_000):
        y = -y
    assert saved() is not None
    del y  # from one end to the other, without recursion
    assert saved() is None


def test_a_graph_that_is_not_walked_is_freed_by_reference_counts(no_garbage_collector):
    x = leaf(1.0, 2.0)
    y = tri.exp(x)
    loss = (y * y).sum()
    watched = [weakref.ref(y), weakref.ref(y.array), weakref.ref(loss)]
    del y, loss
    assert [watch() for watch in watched] == [None] * 3


def test_what_the_forward_pass_saved_is_freed_as_the_walk_passes(no_garbage_collector):
    x = leaf(1.0, 2.0)
    y = tri.exp(x)
    loss = (y * y).sum()
    saved = weakref.ref(y.array)
    del y
    assert saved() is not None
    loss.backward()
    assert saved() is None  # although `loss` is still there


def test_an_input_is_kept_only_if_a_gradient_needs_it(no_garbage_collector):
    x, scale = leaf(1.0, 2.0), Tensor([3.0])
    h = x + 1
    y = h * scale  # d/dh is scale, and d/d(scale) is not asked for: h is not needed
    saved = weakref.ref(h.array)
    del h
    assert saved() is None
    y.sum().backward()
    assert x.grad.tolist() == [3, 3]


# ---- Freed graphs ----


def test_a_second_backward_is_refused():
    loss = (leaf(1.0) * 2).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match=r"already walked backwards once.*Run the forward pass"):
        loss.backward()


def test_part_of_a_freed_graph_cannot_be_built_on():
    x = leaf(1.0)
    h = x * 2
    h.sum().backward()
    with pytest.raises(RuntimeError, match="already walked backwards once"):
        (h * 3 + x).sum().backward()
    assert x.grad.tolist() == [2]  # noticed before anything was added
    (h.detach() * x).sum().backward()
    assert x.grad.tolist() == [4]


def test_gradients_stop_at_a_detached_tensor():
    x = leaf(3.0)
    y = x.detach()
    assert y.array is x.array
    (x * y).sum().backward()
    assert x.grad.tolist() == [3]


# ---- Buffers: gradients written where they will be used ----


def times(x, weight):
    """x · weight, whose backward writes the weight's gradient where the weight wants it."""
    x_array, node, array = x.array, weight.node, weight.array

    def backward(dy):
        destination, add, result = gradient_destination(node, array)
        if add:
            destination += dy * x_array
        else:
            destination[...] = dy * x_array
        return None, result

    return record(x_array * array, (x, weight), backward)


def parameter(*values):
    """A leaf with a buffer, full of what an earlier step left in it."""
    weight = leaf(*values)
    weight.node.buffer = np.full(len(values), 99, np.float32)
    return weight


X = Tensor([10.0, 20.0])


def test_the_first_gradient_overwrites_the_buffer():
    weight = parameter(1.0, 1.0)
    times(X, weight).sum().backward()
    assert weight.grad is weight.node.buffer
    assert weight.grad.tolist() == [10, 20]


def test_later_gradients_add_to_the_buffer():
    weight = parameter(1.0, 1.0)
    (times(X, weight) + times(X, weight)).sum().backward()
    assert weight.grad.tolist() == [20, 40]
    times(X, weight).sum().backward()
    assert weight.grad.tolist() == [30, 60]
    assert weight.grad is weight.node.buffer


@pytest.mark.parametrize("order", [1, -1])
def test_gradients_written_and_gradients_returned_add_up(order):
    weight = parameter(1.0, 1.0)
    first, second = [times(X, weight), weight * 3][::order]
    (first + second).sum().backward()
    assert weight.grad.tolist() == [13, 23]
    assert weight.grad is weight.node.buffer


def test_after_the_gradient_is_cleared_the_buffer_is_overwritten_again():
    weight = parameter(1.0, 1.0)
    times(X, weight).sum().backward()
    weight.grad = None
    assert weight.grad is None
    (weight * 2).sum().backward()
    assert weight.grad.tolist() == [2, 2]
    assert weight.grad is weight.node.buffer


def test_an_input_without_a_buffer_gets_a_new_array():
    weight = leaf(1.0, 1.0)
    times(X, weight).sum().backward()
    assert weight.grad.tolist() == [10, 20]
    weight = parameter(1.0, 1.0)
    (times(X, weight * 2) + times(X, weight * 2)).sum().backward()
    assert weight.grad.tolist() == [40, 80]


# ---- Leaves that are complete ----


def finished_in(walk, **leaves):
    """(name, gradient at that moment) of each leaf that a walk reports, in order."""
    names, heard = {tensor.node: name for name, tensor in leaves.items()}, []

    def listen(node):
        heard.append((names[node], node.grad.item()))

    with on_finished_leaf(listen):
        walk()
    return heard


def test_a_leaf_is_complete_when_its_last_use_was_walked():
    a, b = number(2.0), number(3.0)
    y = (a * 5 + b) * b  # b is used last, and first but one: a's only use is walked after both
    assert finished_in(y.backward, a=a, b=b) == [("b", 16), ("a", 15)]  # 2 b + 5 a, 5 b
    assert (a.grad, b.grad) == (15, 16)


def test_a_leaf_that_was_complete_gets_nothing_more():
    x = number(3.0)
    y = x * x
    assert finished_in(y.backward, x=x) == [("x", 6)]
    assert x.grad == 6


def test_a_nested_walk_reports_its_own_leaves():
    w, v, x = number(2.0), number(5.0), number(3.0)

    def inside(h):
        return h * w

    y = recompute(inside, x * v)
    heard = []
    with on_finished_leaf(heard.append):
        y.backward()
    assert [node for node in heard if node in (w.node, v.node)] == [w.node, v.node]
    assert (w.grad, v.grad) == (15, 6)


def test_leaves_of_one_step_are_reported_in_the_order_of_its_inputs():
    a, b = number(2.0), number(3.0)
    assert finished_in((a * b).backward, a=a, b=b) == [("a", 3), ("b", 2)]
    assert finished_in((b * a).backward, a=a, b=b) == [("b", 4), ("a", 6)]  # added to the first


def test_after_the_block_no_listener_is_called():
    x, heard = number(1.0), []
    with on_finished_leaf(heard.append):
        pass
    (x * 2).backward()
    assert heard == []


# ---- Leaves that travel ----

IN_A_NEW_PROCESS = """
import sys
from multiprocessing.reduction import ForkingPickler
w = ForkingPickler.loads(open(sys.argv[1], "rb").read())
(w * 2 + w * 5).backward()
print(w.grad.tolist(), w.node.buffer)
"""


def later_steps(n=100):
    """Some numbers pass, so that a leaf made now is younger than one made before."""
    for _ in range(n):
        number(1.0)


def test_a_leaf_that_comes_from_another_process_learns(tmp_path):
    later_steps()
    (tmp_path / "leaf").write_bytes(ForkingPickler.dumps(parameter(1.0)))
    command = [sys.executable, "-c", IN_A_NEW_PROCESS, str(tmp_path / "leaf")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "[7.0] None\n"


@pytest.mark.parametrize(
    "travel", [copy.deepcopy, lambda x: ForkingPickler.loads(ForkingPickler.dumps(x))]
)
def test_a_copy_of_a_leaf_has_its_gradient_and_goes_its_own_way(travel):
    w = parameter(1.0, 1.0)
    (w * 2).sum().backward()
    v = travel(w)
    assert v.node.number > w.node.number
    (v * 3 + v * 4).sum().backward()
    assert (w.grad.tolist(), v.grad.tolist()) == ([2, 2], [9, 9])
    assert v.node.buffer is None


def test_a_copy_made_while_a_graph_waits_is_walked_in_order():
    w = number(2.0)
    y = w * 3
    v = copy.deepcopy(w)
    (y * v * v).backward()
    assert (w.grad, v.grad) == (12, 24)


def test_results_do_not_travel_with_their_past():
    y = number(2.0) * 3
    for travel in (copy.deepcopy, ForkingPickler.dumps):
        with pytest.raises(
            TypeError, match=r"cannot be pickled or copied with its past; use tenso"
        ):
            travel(y)
    assert copy.deepcopy(y.detach()).item() == 6


# ---- Gradients that wait at an input ----


def plain_scaled(x, factor):
    """x times a constant array, whose gradient is added to what waits by the tape."""
    return record(x.array * factor, (x,), lambda dy: (dy * factor,))


def scaled(x, factor, seen=None):
    """The same, whose backward adds what waits for itself."""

    def backward(dy, waiting):
        if seen is not None:
            seen.append(waiting)
        dx = dy * factor
        return (dx if waiting is None else waiting + dx,)

    return record(x.array * factor, (x,), backward, takes_waiting=True)


NUMBERS = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
FACTOR = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)


def gradient_of(function, operation, buffer=False):
    """The bytes of a leaf's gradient through function(operation, x)."""
    x = leaf(*NUMBERS)
    if buffer:
        x.node.buffer = np.full(x.shape, 99, np.float32)
    out = function(operation, x)
    out.backward(FACTOR[::-1])
    assert not buffer or x.grad is x.node.buffer
    return x.grad.tobytes()


def residual(operation, x):
    h = tri.sin(x)
    return h + tri.exp(operation(h, FACTOR))


def at_a_leaf(operation, x):
    return x + tri.exp(operation(x, FACTOR))


def with_nothing_waiting(operation, x):
    return operation(tri.sin(x), FACTOR)


def with_later_contributions(operation, x):
    h = tri.sin(x)
    return (tri.cos(h) + h) + operation(h, FACTOR) * operation(h, NUMBERS) - h


def inside_a_recomputed_block(operation, x):
    return recompute(lambda x: residual(operation, x), x * 2) + x


@pytest.mark.parametrize("buffer", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        residual,
        at_a_leaf,
        with_nothing_waiting,
        with_later_contributions,
        inside_a_recomputed_block,
    ],
)
def test_a_backward_that_adds_what_waits_gives_the_bits_of_the_tape(function, buffer):
    expected = gradient_of(function, plain_scaled, buffer)
    assert gradient_of(function, scaled, buffer) == expected


def test_what_waits_is_what_other_uses_have_left_and_is_not_written_into():
    x, seen = leaf(1.0, 2.0), []
    h = x * 1
    y = h + scaled(h, np.float32(3), seen)
    given = np.array([1.0, 10.0], np.float32)
    y.backward(given)
    assert [waiting.tolist() for waiting in seen] == [[1, 10]]
    assert (x.grad.tolist(), given.tolist()) == ([4, 40], [1, 10])


def test_nothing_waits_at_an_input_that_is_used_once():
    x, seen = leaf(1.0), []
    scaled(x * 1, np.float32(3), seen).backward()
    assert (seen, x.grad.tolist()) == ([None], [3])


def test_gradients_of_earlier_walks_do_not_wait():
    x, seen = parameter(1.0), []
    (x * 2).backward()
    scaled(x, np.float32(3), seen).backward()
    assert (seen, x.grad.tolist()) == ([None], [5])


def test_both_inputs_may_be_the_same_one():
    def product(a, b):
        x, y = a.array, b.array

        def backward(dy, waiting):
            dx = dy * y
            return (dx if waiting is None else waiting + dx), dy * x

        return record(x * y, (a, b), backward, takes_waiting=True)

    x = number(3.0)
    h = x * 1
    (product(h, h) + h).backward()
    assert x.grad == 7


def test_an_input_that_wants_no_gradient_has_none_waiting():
    weight, seen = leaf(2.0), []
    constant = Tensor([5.0])

    def backward(dy, waiting):
        seen.append(waiting)
        return None, dy * constant.array

    record(
        constant.array * weight.array, (constant, weight), backward, takes_waiting=True
    ).backward()
    assert (seen, weight.grad.tolist()) == ([None], [5])


def test_what_waits_stays_where_a_backward_returns_nothing_for_its_input():
    x = number(3.0)
    h = x * 1
    flat = record(h.array, (h,), lambda dy, waiting: (None,), takes_waiting=True)
    (h + flat).backward()
    assert x.grad == 1


def test_an_observer_passes_on_what_waits(capsys):
    x = leaf(1.0)
    with tri.profile():
        h = x * 1
        (h + scaled(h, np.float32(3))).backward()
    assert x.grad.tolist() == [4]


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16"])
def test_many_small_gradients_of_a_short_dtype_are_not_rounded_away(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    x = Tensor(np.ones(1, dtype), requires_grad=True)
    total = x * 0
    for _ in range(3000):
        total = total + x
    total.sum().backward()
    assert float(x.grad[0]) == float(dtype(3000))
    x.grad = None
    for _ in range(3000):
        (x * 1).sum().backward()
    assert float(x.grad[0]) == float(dtype(3000))
    assert x.grad.dtype == dtype


def test_a_gradient_changed_by_hand_counts_as_it_was_left():
    x = Tensor(np.ones(1, np.float16), requires_grad=True)
    for _ in range(3):
        x.sum().backward()
    x.grad[...] = 10
    x.sum().backward()
    assert x.grad.tolist() == [11]


def test_a_leaf_may_do_with_its_gradient_what_it_likes():
    a, b = leaf(1.0, 2.0), leaf(1.0, 2.0)
    given = np.ones(2)
    (a + b).backward(given)
    a.grad *= 10
    assert b.grad.tolist() == [1, 1]
    assert given.tolist() == [1, 1]
    x = leaf(1.0, 2.0)
    x.sum().backward()
    x.grad += 1
    assert x.grad.tolist() == [2, 2]


def test_a_leaf_that_moved_after_the_forward_pass_stops_the_walk():
    weight = leaf(2.0)
    squared = weight * weight
    first, second = squared * 1, squared * weight
    first.backward(np.ones(1))
    note_that_it_moved(weight.node)
    with pytest.raises(RuntimeError, match=r"moved .*an optimiser's step.*before step\(\)"):
        second.backward(np.ones(1))
    weight.grad = None
    (weight * 3).backward(np.ones(1))
    assert weight.grad.tolist() == [3]
