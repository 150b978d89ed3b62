"""Modules: how parameters are found, named, saved and loaded."""

import copy
from collections import deque
from multiprocessing.reduction import ForkingPickler  # how "spawn" sends things

import ml_dtypes
import numpy as np
import pytest

from tricycle_autograd import Tensor
from tricycle_autograd.memory import Arena
from tricycle_nn import MLP, Linear, LlamaBlock, Module, Parameter, TransformerBlock, gelu


class Pair(Module):
    def __init__(self):
        self.first = Parameter([1.0, 2.0])
        self.second = Parameter([[3.0]])

    def forward(self, x):
        return self.first * x


class Nested(Module):
    def __init__(self):
        self.sizes = [2, 3]
        self.pairs = [Pair(), (Pair(), Pair())]
        self.heads = {"policy": Pair()}
        self.scale = Parameter(np.ones(3, np.float32))


def names(module):
    return [name for name, _ in module.named_parameters()]


def test_the_parameters_of_a_module_are_its_attributes_in_order():
    pair = Pair()
    assert names(pair) == ["first", "second"]
    assert pair.parameters() == [pair.first, pair.second]


def test_a_name_is_the_path_by_which_a_parameter_was_found():
    assert names(Nested()) == [
        "pairs.0.first",
        "pairs.0.second",
        "pairs.1.0.first",
        "pairs.1.0.second",
        "pairs.1.1.first",
        "pairs.1.1.second",
        "heads.policy.first",
        "heads.policy.second",
        "scale",
    ]


def test_tied_weights_are_listed_once_under_their_first_name():
    nested = Nested()
    nested.head = nested.scale
    nested.again = nested.pairs[0]
    assert "head" not in names(nested)
    assert len(names(nested)) == 9
    assert nested.modules().count(nested.pairs[0]) == 1


def test_a_module_may_know_its_parent():
    pair, nested = Pair(), Nested()
    pair.parent, nested.child = nested, pair
    assert names(nested)[-2:] == ["child.first", "child.second"]
    assert "the whole" in repr(nested)


def test_modules_lists_the_module_itself_first():
    nested = Nested()
    assert nested.modules() == [nested, nested.pairs[0], *nested.pairs[1], nested.heads["policy"]]


def test_calling_a_module_runs_its_forward():
    assert Pair()(3.0).tolist() == [3.0, 6.0]


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match=r"Nested has no forward\(\)"):
        Nested()(1.0)


def test_train_and_eval_reach_every_module():
    nested = Nested()
    assert nested.eval() is nested
    assert not any(module.training for module in nested.modules())
    assert nested.train() is nested
    assert all(module.training for module in nested.modules())


def test_zero_grad_forgets_gradients_and_the_next_backward_starts_anew():
    pair = Pair()
    for _ in range(2):
        pair.zero_grad()
        pair(5.0).sum().backward()
        assert pair.first.grad.tolist() == [5.0, 5.0]
    pair.zero_grad()
    assert pair.first.grad is None


def test_zero_grad_makes_the_next_backward_overwrite_a_buffer():
    pair = Pair()
    arena = Arena(pair.parameters())
    for _ in range(2):
        pair.zero_grad()
        pair(5.0).sum().backward()
        assert pair.first.grad is arena.gradient_windows[0]
        assert pair.first.grad.tolist() == [5.0, 5.0]


def test_parameters_are_leaves_that_want_a_gradient():
    parameter = Parameter([1.0, 2.0])
    assert isinstance(parameter, Tensor) and parameter.requires_grad
    assert parameter.dtype == np.float32


def test_integers_cannot_be_learned():
    with pytest.raises(TypeError, match="only floating point tensors have gradients"):
        Parameter([1, 2])


def test_a_state_is_a_copy_and_loading_it_brings_everything_back():
    nested, other = Nested(), Nested()
    nested.scale.array[...] = [7, 8, 9]
    state = nested.state_dict()
    nested.scale.array[...] = 0
    assert list(state) == names(nested)
    assert state["scale"].tolist() == [7, 8, 9]
    memory = other.scale.array
    other.load_state_dict(state)
    assert other.scale.array is memory
    assert memory.tolist() == [7, 8, 9]


def test_loading_writes_into_an_optimisers_memory_and_keeps_the_dtype():
    pair = Pair()
    arena = Arena(pair.parameters())
    pair.load_state_dict({"first": np.array([8.0, 9.0]), "second": np.array([[4.0]], np.float16)})
    assert arena.value_windows[0].tolist() == [8.0, 9.0]
    assert pair.first.dtype == pair.second.dtype == np.float32


def test_weights_that_do_not_fit_are_all_listed_and_nothing_is_changed():
    pair = Pair()
    with pytest.raises(ValueError) as error:
        pair.load_state_dict({"first": np.zeros((2, 1)), "third": np.zeros(1)})
    assert str(error.value) == (
        "these weights do not fit Pair: missing second; unknown third; first is (2, 1), not (2,)"
    )
    assert pair.first.array.tolist() == [1.0, 2.0]


def test_bfloat16_is_a_dtype_by_its_name():
    pair = Pair()
    wanted = [parameter.array.astype(ml_dtypes.bfloat16) for parameter in pair.parameters()]
    pair.to("cpu", "bfloat16")
    for parameter, rounded in zip(pair.parameters(), wanted, strict=True):
        assert parameter.dtype.name == "bfloat16"
        np.testing.assert_array_equal(parameter.array, rounded)


def test_another_dtype_leaves_the_old_memory_and_gradient_behind():
    pair = Pair()
    Arena(pair.parameters())
    pair(5.0).sum().backward()
    assert pair.to("cpu", "float64") is pair
    assert pair.first.dtype == np.float64
    assert pair.first.grad is None
    pair(1.0).sum().backward()
    assert pair.first.grad.dtype == np.float64


@pytest.mark.parametrize("block", [TransformerBlock, LlamaBlock])
def test_a_model_in_float64_computes_and_learns_in_float64(block):
    single = block(16, 4, dropout=0.1, rng=np.random.default_rng(0))
    double = copy.deepcopy(single).to("cpu", "float64")
    x = np.random.default_rng(1).standard_normal((2, 5, 16))
    expected = single(Tensor(x.astype(np.float32)))
    given = Tensor(x, requires_grad=True)
    y = double(given)
    y.sum().backward()
    expected.sum().backward()
    assert {y.dtype, given.grad.dtype} == {np.dtype(np.float64)}
    np.testing.assert_allclose(y.array, expected.array, rtol=1e-4, atol=1e-5)
    for precise, other in zip(double.parameters(), single.parameters(), strict=True):
        assert precise.grad.dtype == np.float64
        np.testing.assert_allclose(precise.grad, other.grad, rtol=1e-3, atol=1e-4)


def test_moving_to_where_it_is_already_changes_nothing():
    pair = Pair()
    array = pair.first.array
    pair(5.0).sum().backward()
    pair.to("cpu")
    assert pair.first.array is array
    assert pair.first.grad.tolist() == [5.0, 5.0]


def test_integer_models_and_unknown_devices_are_refused():
    with pytest.raises(TypeError, match="parameters are floating point numbers, int32 is not"):
        Pair().to("cpu", "int32")
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        Pair().to("tpu")


def test_a_deep_copy_is_another_model():
    pair = Pair()
    twin = copy.deepcopy(pair)
    twin.first.array[...] = 0
    assert pair.first.array.tolist() == [1.0, 2.0]
    twin(5.0).sum().backward()
    assert twin.first.grad is not None and pair.first.grad is None


def test_printing_a_model_shows_its_parts_and_counts_tied_weights_once():
    class Net(Module):
        def __init__(self):
            rng = np.random.default_rng(0)
            self.layers = [Linear(10, 10, rng=rng) for _ in range(3)]
            self.out = Linear(10, 2, bias=False, rng=rng)
            self.tied = self.out.weight
            self.sizes = [10, 10, 2]

    assert repr(Net()) == (
        "Net                   350  tied is out.weight\n"
        "  layers  3 × Linear  330  weight (10, 10), bias (10,)\n"
        "  out     Linear       20  weight (10, 2)"
    )


def test_printing_shows_the_members_of_a_list_that_differ():
    class Net(Module):
        def __init__(self):
            rng = np.random.default_rng(0)
            self.layers = [Linear(10, 1000, rng=rng), Linear(1000, 2, rng=rng)]

    assert repr(Net()) == (
        "Net               13,002\n"
        "  layers  list    13,002\n"
        "    0     Linear  11,000  weight (10, 1000), bias (1000,)\n"
        "    1     Linear   2,002  weight (1000, 2), bias (2,)"
    )


# ---- Modules that travel ----


def sent(thing):
    """What another process would receive."""
    return ForkingPickler.loads(ForkingPickler.dumps(thing))


@pytest.mark.parametrize("travel", [copy.deepcopy, sent])
def test_a_copy_of_a_module_learns_as_the_original_does(travel):
    original = MLP(4, rng=np.random.default_rng(0))
    x = Tensor(np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32))
    copied = travel(original)
    for module in (original, copied):
        (module(x) * module(x)).sum().backward()
    for ours, theirs in zip(original.parameters(), copied.parameters(), strict=True):
        assert theirs.grad.tobytes() == ours.grad.tobytes()
        assert theirs.grad is not ours.grad


def test_a_fused_operation_is_pickled_by_its_name():
    assert sent(gelu) is copy.deepcopy(gelu) is gelu


# ---- Where parameters may be ----


class Holder(Module):
    def __init__(self, held):
        self.held = held


class WithSlots(Module):
    __slots__ = ("weight",)

    def __init__(self):
        self.weight = Parameter(np.ones(2))


class NoModule:
    __slots__ = ("weight",)

    def __init__(self):
        self.weight = Parameter(np.ones(2))


def test_deques_and_slots_are_looked_through():
    assert [n for n, _ in Holder(deque([Parameter(np.ones(1))])).named_parameters()] == ["held.0"]
    assert [n for n, _ in WithSlots().named_parameters()] == ["weight"]
    assert [n for n, _ in Holder([WithSlots()]).named_parameters()] == ["held.0.weight"]


@pytest.mark.parametrize("held", [{Parameter(np.ones(1))}, frozenset([WithSlots()]), NoModule()])
def test_parameters_that_have_no_name_are_an_error(held):
    with pytest.raises(TypeError, match=r"held is a \w+ with parameters in it, which would not be"):
        Holder(held).parameters()


def test_names_that_meet_are_an_error_that_names_both():
    one, two = Parameter(np.ones(1)), Parameter(np.zeros(1))
    model = Holder({"b.c": one, "b": {"c": two}})
    places = r"held\['b\.c'\] and held\['b'\]\['c'\]"
    with pytest.raises(ValueError, match=rf"called held\.b\.c: {places}"):
        model.state_dict()
    with pytest.raises(ValueError, match=r"called held\.1"):
        Holder({1: one, "1": two}).named_parameters()
    assert len(Holder({"b.c": one, "b": {"c": one}}).parameters()) == 1
