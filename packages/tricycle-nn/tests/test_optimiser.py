"""What every optimiser shares; each test runs with both."""

import copy
from multiprocessing.reduction import ForkingPickler  # how "spawn" sends things

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricycle_autograd import Tensor, definitions_only
from tricycle_autograd.testing import on_a_gpu
from tricycle_autograd.testing_device import emulated
from tricycle_nn import (
    SGD,
    AdamW,
    Combined,
    Linear,
    Muon,
    Parameter,
    clip_scale,
    cross_entropy,
    default_groups,
    gradient_norm,
)
from tricycle_nn.optimiser import Optimiser, flattened

BOTH = pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda p, **more: SGD(p, 0.1, momentum=0.9, **more), id="SGD"),
        pytest.param(lambda p, **more: AdamW(p, 0.1, **more), id="AdamW"),
    ],
)


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def parameter(*shape, seed=0):
    return Parameter(draw(*shape, seed=seed))


def give_gradients(parameters, seed):
    for i, p in enumerate(parameters):
        p.grad = draw(*p.shape, seed=1000 * seed + i)


# ---- By hand ----


def test_one_step_of_plain_descent_by_hand():
    weight = Parameter(np.array([1.0, 2.0], np.float32))
    (weight * weight).sum().backward()  # gradient 2w
    SGD([weight], learning_rate=0.25).step()
    assert weight.tolist() == [0.5, 1.0]


def test_a_loop_of_backward_step_zero_grad_finds_the_bottom_of_a_bowl():
    weight = Parameter(np.array([5.0, -3.0], np.float32))
    optimiser = SGD([weight], learning_rate=0.25)
    for _ in range(40):
        ((weight - 1.0) ** 2).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    np.testing.assert_allclose(weight.array, [1.0, 1.0], atol=1e-6)


# ---- Who moves ----


@BOTH
def test_a_parameter_without_a_gradient_stays(make):
    moves, stays, moves_too = parameter(3), parameter(20, seed=1), parameter(2, 2)
    before = stays.numpy().copy()
    optimiser = make([moves, stays, moves_too], weight_decay=0.5)
    for seed in range(3):
        give_gradients([moves, moves_too], seed)
        optimiser.step()
    assert stays.numpy().tobytes() == before.tobytes()
    assert (moves.numpy() != draw(3)).all() and (moves_too.numpy() != draw(2, 2)).all()


@BOTH
def test_a_gradient_of_zeros_is_a_gradient(make):
    # Unlike None: weight decay applies.
    weight = Parameter(np.ones(3, np.float32))
    optimiser = make([weight], weight_decay=0.5)
    weight.grad = np.zeros(3, np.float32)
    optimiser.step()
    np.testing.assert_allclose(weight.array, 0.95, rtol=1e-6)


@BOTH
def test_a_step_without_gradients_after_zero_grad_moves_nothing(make):
    weight = parameter(4)
    optimiser = make([weight], weight_decay=0.5)
    give_gradients([weight], 0)
    optimiser.step()
    optimiser.zero_grad()
    before = weight.numpy().copy()
    optimiser.step()
    assert weight.grad is None
    assert weight.numpy().tobytes() == before.tobytes()


@BOTH
def test_grad_scale_multiplies_every_gradient(make):
    scaled, plain = parameter(5, 3), parameter(5, 3)
    by_scale, by_hand = make([scaled]), make([plain])
    for seed in range(4):
        give_gradients([scaled], seed)
        plain.grad = scaled.grad * np.float32(0.25)  # a power of two: no rounding
        by_scale.step(grad_scale=0.25)
        by_hand.step()
    assert scaled.numpy().tobytes() == plain.numpy().tobytes()


@BOTH
def test_a_learning_rate_of_zero_moves_nothing(make):
    weight = parameter(4)
    optimiser = make([weight])
    optimiser.learning_rate = 0.0
    give_gradients([weight], 0)
    optimiser.step()
    assert weight.tolist() == draw(4).tolist()


# ---- Groups ----


@BOTH
def test_groups_have_their_own_decay(make):
    decays, keeps = Parameter(np.ones(3, np.float32)), Parameter(np.ones(3, np.float32))
    groups = [
        {"parameters": [decays], "weight_decay": 0.5},
        {"parameters": [keeps], "weight_decay": 0.0},
    ]
    optimiser = make(groups)
    decays.grad = keeps.grad = np.zeros(3, np.float32)
    optimiser.step()
    np.testing.assert_allclose(decays.array, 0.95, rtol=1e-6)
    assert keeps.tolist() == [1.0, 1.0, 1.0]


@BOTH
def test_a_group_without_settings_takes_the_optimisers(make):
    weight = Parameter(np.ones(3, np.float32))
    optimiser = make([{"parameters": [weight]}], weight_decay=0.5)
    assert optimiser.groups[0].settings == {"weight_decay": 0.5}


@BOTH
def test_the_callers_groups_are_left_as_they_were(make):
    groups = [{"parameters": [parameter(3)], "weight_decay": 0.5}]
    make(groups)
    assert list(groups[0]) == ["parameters", "weight_decay"]


@BOTH
def test_cutting_parameters_into_groups_changes_no_bit(make):
    together = [parameter(5, seed=i) for i in range(3)]
    apart = [parameter(5, seed=i) for i in range(3)]
    one, three = make(together), make([{"parameters": [p]} for p in apart])
    for seed in range(3):
        give_gradients(together, seed)
        give_gradients(apart, seed)
        one.step()
        three.step()
    for a, b in zip(together, apart, strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()


def test_default_groups_decay_matrices_only():
    layer = Linear(3, 2, rng=np.random.default_rng(0))
    matrices, vectors = default_groups(layer, weight_decay=0.1)
    assert matrices == {"parameters": [("weight", layer.weight)], "weight_decay": 0.1}
    assert vectors == {"parameters": [("bias", layer.bias)], "weight_decay": 0.0}


def test_default_groups_leave_out_a_group_of_nothing():
    layer = Linear(3, 2, bias=False, rng=np.random.default_rng(0))
    assert [group["weight_decay"] for group in default_groups(layer, 0.1)] == [0.1]


# ---- Where parameters live ----


@BOTH
def test_a_model_that_lost_its_arrays_is_brought_home_with_its_numbers(make):
    layer = Linear(3, 2, rng=np.random.default_rng(0))
    optimiser = make(layer.parameters())
    layer.to("cpu", np.float64).to("cpu", np.float32)  # new arrays, the old ones stay behind
    replaced = draw(3, 2, seed=9)
    layer.weight.array = replaced.copy()
    give_gradients(layer.parameters(), 0)
    optimiser.step()
    assert layer.weight.array is optimiser.groups[0].arena.value_windows[0]
    assert 0 < np.abs(layer.weight.array - replaced).max() < 0.5


@BOTH
def test_load_state_dict_of_the_model_is_seen_by_the_optimiser(make):
    layer = Linear(3, 2, rng=np.random.default_rng(0))
    optimiser = make(layer.parameters())
    layer.load_state_dict({"weight": np.zeros((3, 2)), "bias": np.zeros(2)})
    assert not optimiser.groups[0].arena.values.any()


@BOTH
def test_two_optimisers_on_one_parameter_take_turns(make):
    shared = parameter(6)
    first, second = make([shared]), make([shared])
    alone = parameter(6)
    a, b = make([alone]), make([alone])
    for seed in range(4):
        give_gradients([shared], seed)
        first.step()
        second.step()  # the same gradient, from the weights that the first left
        # The same by hand, each optimiser given its gradient anew.
        give_gradients([alone], seed)
        a.step()
        give_gradients([alone], seed)
        b.step()
    assert shared.numpy().tobytes() == alone.numpy().tobytes()


@BOTH
def test_parameters_of_every_rank_and_none_at_all_are_moved(make):
    parameters = [parameter(), parameter(0, 3), parameter(1), parameter(2, 3, 4, 5)]
    optimiser = make(parameters)
    give_gradients(parameters, 0)
    optimiser.step()
    for p in parameters:
        assert (p.numpy() != draw(*p.shape)).all()


# ---- Going on ----


@BOTH
@given(before=st.integers(0, 5), after=st.integers(1, 5))
def test_a_loaded_state_goes_on_bit_for_bit(make, before, after):
    shapes = [(3, 5), (7,), ()]
    straight = [parameter(*shape) for shape in shapes]
    optimiser = make(straight, weight_decay=0.1)
    for seed in range(before):
        give_gradients(straight, seed)
        optimiser.learning_rate = 0.1 / (seed + 1)
        optimiser.step()
    state = optimiser.state_dict()
    resumed = [Parameter(p.numpy().copy()) for p in straight]
    another = make(resumed, weight_decay=0.1)
    another.load_state_dict(state)
    assert another.learning_rate == optimiser.learning_rate
    assert another.steps_taken == before
    for seed in range(before, before + after):
        for parameters, each in ((straight, optimiser), (resumed, another)):
            give_gradients(parameters, seed)
            each.step()
    for a, b in zip(straight, resumed, strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()


def test_a_state_has_a_name_for_every_moment():
    state = AdamW([{"parameters": [parameter(2, 3)]}, {"parameters": [parameter(4)]}]).state_dict()
    assert {name: array.shape for name, array in state.items()} == {
        "steps_taken": (),
        "learning_rate": (),
        "0.0.first_moment": (2, 3),
        "0.0.second_moment": (2, 3),
        "1.0.first_moment": (4,),
        "1.0.second_moment": (4,),
    }


def test_moments_are_named_after_their_parameter():
    layer = Linear(2, 3, rng=np.random.default_rng(0))
    state = AdamW(default_groups(layer, 0.1)).state_dict()
    assert {name: array.shape for name, array in state.items()} == {
        "steps_taken": (),
        "learning_rate": (),
        "weight.first_moment": (2, 3),
        "weight.second_moment": (2, 3),
        "bias.first_moment": (3,),
        "bias.second_moment": (3,),
    }
    by_pairs = SGD(layer.named_parameters()).state_dict()
    assert list(by_pairs)[2:] == ["weight.velocity", "bias.velocity"]


def test_a_state_by_positions_goes_on_bit_for_bit_where_parameters_have_names():
    def make(named):
        layer = Linear(5, 3, rng=np.random.default_rng(0))
        groups = default_groups(layer, 0.1)
        if not named:
            groups = [{**g, "parameters": [p for _, p in g["parameters"]]} for g in groups]
        return layer, AdamW(groups, 0.1)

    def steps(layer, optimiser, seeds):
        for seed in seeds:
            give_gradients(layer.parameters(), seed)
            optimiser.step()

    older, optimiser = make(named=False)
    steps(older, optimiser, [1, 2])
    layer, another = make(named=True)
    layer.load_state_dict(older.state_dict())
    another.load_state_dict(optimiser.state_dict())
    steps(older, optimiser, [3])
    steps(layer, another, [3])
    assert layer.weight.array.tobytes() == older.weight.array.tobytes()
    assert layer.bias.array.tobytes() == older.bias.array.tobytes()


def test_a_state_by_positions_that_does_not_fit_is_refused():
    state = AdamW([parameter(2, 3), parameter(4)]).state_dict()
    layer = Linear(2, 3, rng=np.random.default_rng(0))
    message = "missing bias.first_moment; missing bias.second_moment; unknown 0.1.first_moment"
    with pytest.raises(ValueError, match=message):
        AdamW(default_groups(layer, 0.1)).load_state_dict(state)
    one = AdamW([("weight", parameter(2, 4))])
    message = r"weight.first_moment is \(2, 3\), not \(2, 4\)"
    with pytest.raises(ValueError, match=message):
        one.load_state_dict(AdamW([parameter(2, 3)]).state_dict())


@BOTH
def test_a_state_is_a_copy_that_later_steps_do_not_change(make):
    weight = parameter(3)
    optimiser = make([weight])
    state = optimiser.state_dict()
    give_gradients([weight], 0)
    optimiser.step()
    assert all(not array.any() for name, array in state.items() if name != "learning_rate")


# ---- Errors ----


@BOTH
def test_no_parameters_are_refused(make):
    with pytest.raises(ValueError, match="needs at least one parameter, got none"):
        make([])
    with pytest.raises(ValueError, match="needs at least one parameter, got none"):
        make([{"parameters": []}])


@BOTH
def test_a_model_in_place_of_its_parameters_is_refused(make):
    layer = Linear(3, 2, rng=np.random.default_rng(0))
    with pytest.raises(TypeError, match=r"got one Linear; pass model\.parameters\(\)"):
        make(layer)
    with pytest.raises(TypeError, match="got one Parameter; .*put it in a list"):
        make(layer.weight)
    with pytest.raises(TypeError, match="got one dict; .*put it in a list"):
        make({"parameters": [layer.weight]})
    with pytest.raises(TypeError, match=r"all of them \(name, tensor\) pairs; pass model\."):
        make([layer.weight, ("bias", layer.bias)])


@BOTH
def test_a_parameter_given_twice_is_refused(make):
    weight = parameter(3)
    with pytest.raises(ValueError, match="a parameter is listed twice"):
        make([weight, weight])
    with pytest.raises(ValueError, match="a parameter is in two groups; put each one in one"):
        make([{"parameters": [weight]}, {"parameters": [weight]}])


@BOTH
def test_a_name_given_twice_is_refused(make):
    with pytest.raises(ValueError, match="two parameters are called w; a state could not tell"):
        make([{"parameters": [("w", parameter(3))]}, {"parameters": [("w", parameter(3))]}])


@BOTH
def test_a_name_that_is_the_place_of_another_parameter_is_refused(make):
    with pytest.raises(ValueError, match="two parameters are called 1.0; a state could not tell"):
        make([{"parameters": [("1.0", parameter(3))]}, {"parameters": [parameter(3)]}])


@BOTH
def test_a_group_that_is_none_is_refused(make):
    with pytest.raises(TypeError, match='groups are dicts such as {"parameters"'):
        make([{"weights": [parameter(3)]}])
    with pytest.raises(TypeError, match='groups are dicts such as {"parameters"'):
        make([parameter(3), {"parameters": [parameter(3)]}])


@BOTH
def test_settings_that_an_optimiser_does_not_know_are_refused(make):
    with pytest.raises(TypeError, match=r"unknown settings .*\['decay'\]; known: .*weight_decay"):
        make([{"parameters": [parameter(3)], "decay": 0.1}])


@BOTH
def test_a_negative_decay_is_refused_in_a_group_too(make):
    with pytest.raises(ValueError, match="weight_decay must be at least 0, got -0.1"):
        make([parameter(3)], weight_decay=-0.1)
    with pytest.raises(ValueError, match="weight_decay must be at least 0, got -0.1"):
        make([{"parameters": [parameter(3)], "weight_decay": -0.1}])


@pytest.mark.parametrize("kind", [SGD, AdamW])
@pytest.mark.parametrize("rate", [-0.1, float("nan")])
def test_a_learning_rate_that_is_negative_or_no_number_is_refused(kind, rate):
    with pytest.raises(ValueError, match=f"learning_rate must be at least 0, got {rate}"):
        kind([parameter(3)], learning_rate=rate)


@BOTH
def test_other_tensors_are_refused(make):
    with pytest.raises(TypeError, match="an optimiser looks after leaves"):
        make([Tensor([1.0])])
    with pytest.raises(TypeError, match="float32, float64, bfloat16, got float16 on cpu; bring"):
        make([Parameter(np.ones(3, np.float16))])
    with pytest.raises(TypeError, match="got float32 on cpu and float64 on cpu; bring .* or make"):
        make([parameter(3), Parameter(np.ones(3))])


@BOTH
def test_a_state_that_does_not_fit_is_refused_with_every_name(make):
    optimiser = make([parameter(3), parameter(4)])
    state = optimiser.state_dict()
    moment = optimiser.moment_names[0]
    del state[f"0.0.{moment}"]
    state[f"0.1.{moment}"] = np.zeros(5, np.float32)
    state["0.2.speed"] = np.zeros(3, np.float32)
    message = rf"missing 0.0.{moment}; unknown 0.2.speed; 0.1.{moment} is \(5,\), not \(4,\)"
    with pytest.raises(ValueError, match=message):
        optimiser.load_state_dict(state)
    assert optimiser.steps_taken == 0


def test_an_optimiser_that_does_not_say_how_to_move_is_told():
    class Stands(Optimiser):
        pass

    weight = parameter(3)
    weight.grad = np.ones(3, np.float32)
    with pytest.raises(NotImplementedError, match=r"Stands has no update\(\)"):
        Stands([weight], learning_rate=0.1).step()


# ---- A part of it ----


@pytest.mark.parametrize("kind", [AdamW, SGD, Muon])
def test_parts_kept_by_two_optimisers_move_as_the_whole_does(kind):
    shapes = [(5, 7), (16, 16), (3, 4)]

    def make():
        rng = np.random.default_rng(0)
        parameters = [Parameter(rng.standard_normal(shape, np.float32)) for shape in shapes]
        return parameters, kind(parameters, 0.1)

    whole, optimiser = make()
    one, first = make()
    two, second = make()
    # Windows start at multiples of 16 numbers: 35 take 48, and 256 end at 304.
    first.groups[0].keep([(0, 48), (304, 320)])
    second.groups[0].keep([(48, 304)])
    assert [m.size for m in first.groups[0].moments.values()] in ([], [64], [64, 64])
    for seed in range(3):
        for parameters in (whole, one, two):
            rng = np.random.default_rng(seed)
            for parameter in parameters:
                parameter.grad = rng.standard_normal(parameter.shape, np.float32)
        for each in (optimiser, first, second):
            each.step()
    for i, kept in enumerate((one, two, one)):
        np.testing.assert_array_equal(kept[i].array, whole[i].array)
    np.testing.assert_array_equal(two[0].array, make()[0][0].array)  # not its to move


def test_a_parameter_that_moves_as_a_whole_is_not_cut():
    matrix = Parameter(np.ones((16, 16), np.float32))
    with pytest.raises(ValueError, match=r"\[128\] cut through parameters that move as a whole"):
        Muon([matrix]).groups[0].keep([(0, 128)])
    AdamW([matrix]).groups[0].keep([(0, 128)])  # its numbers move one by one


@pytest.mark.parametrize("kind", [SGD, AdamW, Muon])
def test_an_optimiser_knows_how_many_bytes_it_keeps_for_each_number(kind):
    (group,) = kind([parameter(16, 8)]).groups
    held = sum(moment.nbytes for moment in group.moments.values())
    assert held == kind.bytes_per_parameter * 16 * 8


@pytest.mark.parametrize("kind", [AdamW, SGD, Muon])
def test_neighbours_that_are_kept_are_one_run(kind):
    weights = [parameter(4, 4, seed=i) for i in range(3)]
    (group,) = kind(weights, 0.1).groups
    give_gradients(weights, 0)
    group.keep([(0, 16), (16, 32)])
    assert list(group.runs()) == [(0, 32, 0)]


# ---- Other dtypes, other devices ----


@pytest.mark.parametrize("kind", [AdamW, SGD, Muon])
def test_float64_parameters_move_in_float64(kind):
    single, precise = parameter(6, 4), Parameter(draw(6, 4).astype(np.float64))
    optimisers = kind([single], 0.1), kind([precise], 0.1)
    for seed in range(3):
        for weight, optimiser in zip((single, precise), optimisers, strict=True):
            give_gradients([weight], seed)
            optimiser.step(grad_scale=0.5)
    assert precise.array.dtype == np.float64
    assert {m.dtype.name for m in optimisers[1].groups[0].moments.values()} == {"float64"}
    np.testing.assert_allclose(single.array, precise.array, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(gradient_norm([single]), gradient_norm([precise]), rtol=1e-6)


def half(*shape, seed=0):
    return Parameter(draw(*shape, seed=seed).astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("kind", [AdamW, SGD, Muon])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_bfloat16_parameters_are_their_rounded_masters(kind, device):
    """Steps that are smaller than bfloat16's last bit add up."""
    rough = half(8, 4)
    if device == "cuda":
        rough = Parameter(emulated(rough.array))
    exact = Parameter(rough.numpy().astype(np.float32))
    one, other = kind([("w", rough)], 1e-4), kind([("w", exact)], 1e-4)
    gradient = np.sign(draw(8, 4, seed=3)).astype(ml_dtypes.bfloat16)
    with definitions_only():
        for _ in range(100):
            rough.grad = gradient if device == "cpu" else emulated(gradient)
            exact.grad = gradient.astype(np.float32)
            one.step()
            other.step()
    assert rough.device == device
    masters = one.masters()["w"]
    assert masters.dtype == np.float32
    np.testing.assert_array_equal(masters, exact.array)
    np.testing.assert_array_equal(rough.numpy(), exact.array.astype(ml_dtypes.bfloat16))
    assert (masters != rough.numpy().astype(np.float32)).any()


def test_kernels_move_the_masters_of_bfloat16_parameters_on_the_cpu():
    rough = half(40)
    exact = Parameter(rough.array.astype(np.float32))
    one, other = AdamW([("w", rough)], 0.01), AdamW([("w", exact)], 0.01)
    for seed in range(5):
        rough.grad = draw(40, seed=seed).astype(ml_dtypes.bfloat16)
        exact.grad = rough.grad.astype(np.float32)
        scale = clip_scale([rough], 1.0)
        assert scale == clip_scale([exact], 1.0)
        one.step(scale)
        other.step(scale)
    assert one.masters()["w"].tobytes() == exact.array.tobytes()


@pytest.mark.parametrize("kind", [AdamW, SGD, Muon])
def test_kernels_move_the_masters_of_bfloat16_parameters_on_a_gpu(kind):
    """As the CPU's move float32 parameters; what is rounded from them is what the model has."""
    start = draw(8, 5).astype(ml_dtypes.bfloat16)
    rough, exact = Parameter(on_a_gpu(start)), Parameter(start.astype(np.float32))
    one, other = kind([("w", rough)], 1e-3), kind([("w", exact)], 1e-3)
    for seed in range(3):
        gradient = draw(8, 5, seed=seed).astype(ml_dtypes.bfloat16)
        rough.grad, exact.grad = on_a_gpu(gradient), gradient.astype(np.float32)
        assert rough.grad.dtype == np.float32
        np.testing.assert_allclose(clip_scale([rough], 1.0), clip_scale([exact], 1.0), rtol=1e-6)
        one.step(0.5)
        other.step(0.5)
    masters = one.masters()["w"]
    np.testing.assert_allclose(masters, exact.array, rtol=0, atol=1e-6)
    assert (masters != start.astype(np.float32)).all()
    np.testing.assert_array_equal(rough.numpy(), masters.astype(ml_dtypes.bfloat16))


def test_masters_on_a_gpu_follow_weights_that_are_loaded_later():
    weight = Parameter(on_a_gpu(half(20).array))
    optimiser = SGD([("w", weight)], 0.5)
    before = optimiser.masters()["w"]
    weight.array[3:5] = on_a_gpu(np.full(2, 3.0, ml_dtypes.bfloat16))
    after = optimiser.masters()["w"]
    assert after[3:5].tolist() == [3.0, 3.0]
    np.testing.assert_array_equal(np.delete(after, [3, 4]), np.delete(before, [3, 4]))


def test_masters_are_saved_and_loaded_with_the_other_moments():
    def steps(weight, optimiser, seeds):
        for seed in seeds:
            weight.grad = draw(40, seed=seed).astype(weight.dtype)
            optimiser.step()

    straight = half(40)
    optimiser = AdamW([("w", straight)], 1e-3)
    steps(straight, optimiser, range(3))
    state = optimiser.state_dict()
    assert state["w.master"].dtype == np.float32
    resumed, single = half(40, seed=1), parameter(40, seed=1)
    again, in_float32 = AdamW([("w", resumed)], 1e-3), AdamW([("w", single)], 1e-3)
    resumed.array[...] = straight.array
    again.load_state_dict(state)
    steps(straight, optimiser, range(3, 6))
    steps(resumed, again, range(3, 6))
    assert resumed.array.tobytes() == straight.array.tobytes()
    assert again.masters()["w"].tobytes() == optimiser.masters()["w"].tobytes()

    in_float32.load_state_dict(state)  # goes on without masters, from what they were
    assert single.array.tobytes() == state["w.master"].tobytes()
    del state["w.master"]
    with pytest.raises(ValueError, match=r"missing w\.master"):
        again.load_state_dict(state)


def test_weights_that_are_loaded_later_are_taken_over_by_the_masters():
    weight = half(20)
    optimiser = SGD([("w", weight)], 0.5)
    weight.array[...] = 3.0
    assert (optimiser.masters()["w"] == 3.0).all()
    weight.grad = np.ones(20, ml_dtypes.bfloat16)
    optimiser.step()
    assert (weight.array == 2.5).all()


def test_masters_are_dealt_out_like_the_other_moments():
    weights = [half(32, seed=1), half(32, seed=2)]
    optimiser = AdamW(weights, 0.1)
    (group,) = optimiser.groups
    group.keep([(32, 64)])
    assert {name: m.size for name, m in group.moments.items()} == {
        "first_moment": 32,
        "second_moment": 32,
        "master": 32,
    }
    before = [weight.array.copy() for weight in weights]
    for weight in weights:
        weight.grad = np.ones(32, ml_dtypes.bfloat16)
    optimiser.step()
    assert (weights[0].array == before[0]).all()
    assert (weights[1].array != before[1]).all()


def test_parameters_without_masters_are_their_own():
    weight = parameter(3)
    masters = Combined([SGD([("w", weight)]), AdamW([parameter(2, seed=1)])]).masters()
    assert list(masters) == ["w", "1/0.0"]
    assert masters["w"].tolist() == weight.tolist()
    assert masters["w"] is not weight.array


@pytest.mark.parametrize("kind", [AdamW, SGD, Muon])
def test_on_another_device_a_step_is_the_same_by_the_definitions(kind):
    here, there = parameter(6, 4), Parameter(emulated(draw(6, 4)))
    one, other = kind([("w", here)], 0.1), kind([("w", there)], 0.1)
    with definitions_only():
        for seed in range(3):
            here.grad = draw(6, 4, seed=seed)
            there.grad = emulated(draw(6, 4, seed=seed))
            assert clip_scale([here], 1.0) == clip_scale([there], 1.0)
            one.step(0.5)
            other.step(0.5)
    assert there.device == "cuda"
    assert here.array.tobytes() == there.numpy().tobytes()
    state = other.state_dict()
    assert {type(array) for array in state.values()} == {np.ndarray}
    other.load_state_dict(state)


def test_a_model_trains_with_definitions_for_everything():
    """Layers, loss, norm and step: nothing that was compiled runs, and little differs."""

    def losses():
        layer = Linear(6, 4, rng=np.random.default_rng(0))
        groups = [("weight", layer.weight)], [("bias", layer.bias)]
        optimiser = Combined([Muon(groups[0], 0.05), AdamW(groups[1], 0.05)])
        x, targets = draw(16, 6), np.arange(16) % 4
        found = []
        for _ in range(8):
            optimiser.zero_grad()
            loss = cross_entropy(layer(Tensor(x)), Tensor(targets))
            loss.backward()
            optimiser.step(clip_scale(layer.parameters(), 0.5))
            found.append(loss.item())
        return found

    by_kernels = losses()
    with definitions_only(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("tricycle_autograd.machine_code.Compiled.__call__", refuse)
        by_definitions = losses()
    np.testing.assert_allclose(by_definitions, by_kernels, rtol=1e-3)
    assert by_definitions[-1] < by_definitions[0]


def refuse(kernel, *_args):
    pytest.fail(f"{kernel.function.__name__} ran, and definitions were asked for")


def test_arrays_that_cannot_be_changed_in_place_are_refused():
    with pytest.raises(ValueError, match=r"step wants arrays of one shape, got \(2,\), \(3,\)"):
        flattened("step", np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match=r"in order in memory; got .* array\.copy\(\)"):
        flattened("step", np.zeros((2, 3)).T)


# ---- What a person sees ----


def test_an_optimiser_tells_its_settings():
    model = Linear(2, 3, rng=np.random.default_rng(0))
    optimiser = AdamW(default_groups(model, 0.1), 0.5, betas=(0.9, 0.95))
    assert repr(optimiser) == (
        "AdamW(2 parameters, learning_rate=0.5, betas=(0.9, 0.95), eps=1e-08, "
        "weight_decay=[0.1, 0.0], steps_taken=0)"
    )


def test_a_step_between_two_backward_passes_of_one_forward_pass_is_an_error():
    weight = parameter(3)
    optimiser = SGD([weight], 0.1)
    squared = weight * weight
    first, second = squared.sum(), (squared * weight).sum()
    first.backward()
    optimiser.step()
    with pytest.raises(RuntimeError, match=r"moved .*an optimiser's step.*before step\(\)"):
        second.backward()
    (weight * weight).sum().backward()
    optimiser.step()


@BOTH
@pytest.mark.parametrize(
    "travel",
    [copy.deepcopy, lambda pair: ForkingPickler.loads(ForkingPickler.dumps(pair))],
    ids=["deepcopy", "pickle"],
)
def test_a_model_and_its_optimiser_travel_together(make, travel):
    def step(model, optimiser):
        cross_entropy(model(Tensor(np.eye(3, dtype=np.float32))), np.array([0, 1, 1])).backward()
        optimiser.step()
        optimiser.zero_grad()

    model = Linear(3, 2, rng=np.random.default_rng(0))
    optimiser = make(model.named_parameters())
    step(model, optimiser)
    cross_entropy(model(Tensor(np.ones((1, 3), np.float32))), np.array([1])).backward()
    before = model.weight.numpy().copy()
    there = travel((model, optimiser))
    step(*there)
    np.testing.assert_array_equal(model.weight.numpy(), before)
    step(model, optimiser)
    np.testing.assert_array_equal(there[0].weight.numpy(), model.weight.numpy())
    assert np.abs(there[0].weight.numpy() - before).max() > 0.01


def test_old_moments_by_position_beside_names_are_refused_with_what_to_do():
    old = AdamW([parameter(2)], 0.1)
    some = AdamW([{"parameters": [("a", parameter(2))]}, {"parameters": [parameter(3)]}], 0.1)
    with pytest.raises(
        ValueError, match=r"the parameters and groups it was saved with, all by name"
    ):
        some.load_state_dict(old.state_dict())
