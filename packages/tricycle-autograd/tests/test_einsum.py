"""Einsum: any subscripts that numpy can read, with gradients."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tricycle_autograd import Tensor, einsum
from tricycle_autograd.einsum import contraction_order, read_subscripts
from tricycle_autograd.testing import check_gradients, draw
from tricycle_autograd.testing_device import EmulatedArray

LETTERS = "abcAB"


# ---- by hand ----


def test_a_matrix_times_a_vector_by_hand():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = Tensor([10.0, 1.0], requires_grad=True)
    z = einsum("ij,j->i", x, y)
    assert z.tolist() == [12, 34]
    z.backward([1.0, 100.0])
    assert x.grad.tolist() == [[10, 1], [1000, 100]]  # "i,j->ij" of dz and y
    assert y.grad.tolist() == [301, 402]  # "ij,i->j" of x and dz


def test_a_trace_by_hand():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    z = einsum("ii->", x)
    assert z.item() == 5
    z.backward()
    assert x.grad.tolist() == [[1, 0], [0, 1]]


def test_a_letter_of_one_operand_alone_is_summed_by_hand():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    z = einsum("i,jk->i", x, y)
    assert z.tolist() == [10, 20]
    z.backward([1.0, 5.0])
    assert x.grad.tolist() == [10, 50]
    assert y.grad.tolist() == [[11, 11], [11, 11]]


# ---- as numpy does, with measured slopes ----


def agrees(subscripts, *arrays):
    """einsum equals numpy's, and its gradients are measured slopes."""
    expected = np.asarray(np.einsum(subscripts, *arrays))
    result = einsum(subscripts, *[Tensor(x) for x in arrays])
    assert result.shape == expected.shape
    np.testing.assert_allclose(result.array, expected, rtol=1e-10, atol=1e-10)
    check_gradients(lambda *tensors: einsum(subscripts, *tensors), *arrays)


@pytest.mark.parametrize(
    "subscripts, shapes",
    [
        ("ij->ji", [(2, 3)]),
        ("ij->", [(2, 3)]),
        ("ij->j", [(2, 3)]),
        ("bA", [(2, 3)]),
        ("i->i", [(3,)]),
        ("", [()]),
        ("->", [()]),
        (",->", [(), ()]),
        ("i,", [(3,), ()]),
        ("ii", [(3, 3)]),
        ("ii->i", [(3, 3)]),
        ("iii->i", [(2, 2, 2)]),
        ("iijj->", [(2, 2, 3, 3)]),
        ("ijij->j", [(2, 3, 2, 3)]),
        ("...ii->...i", [(4, 2, 2)]),
        ("ii,ij->j", [(2, 2), (2, 3)]),
        ("i,j->ij", [(2,), (3,)]),
        ("i,j->ji", [(2,), (3,)]),
        ("i,j->", [(2,), (3,)]),
        ("i,jk->i", [(2,), (3, 4)]),
        ("ij,kl->il", [(2, 3), (3, 2)]),
        ("ij,ij->ij", [(2, 3), (2, 3)]),
        ("ij,ij->", [(2, 3), (2, 3)]),
        ("ij,ji->ij", [(2, 3), (3, 2)]),
        ("bi,b->ib", [(2, 3), (2,)]),
        ("bi,bi->b", [(2, 3), (2, 3)]),
        (" i j , jk -> i k", [(2, 3), (3, 4)]),
        ("bthd,bshd->bhts", [(2, 3, 2, 4), (2, 5, 2, 4)]),
        ("bhts,bshd->bthd", [(2, 2, 3, 5), (2, 5, 2, 4)]),
        ("i...,i->...", [(2, 3), (2,)]),
        ("i...j", [(2, 2, 3)]),
        ("i->...i", [(3,)]),
        ("...,...", [(2, 3), (3,)]),
        ("...i,...ij->...j", [(2, 1, 3), (4, 3, 2)]),
        ("i...,...i->i...", [(1, 1, 4), (3, 1, 3)]),
        ("i,i->i", [(1,), (3,)]),
        ("i,i->", [(1,), (3,)]),
        ("ij,ij->", [(1, 3), (2, 1)]),
        ("ii,i->i", [(1, 1), (3,)]),
        ("ij,jk->ik", [(2, 0), (0, 3)]),
        ("ij,jk->ik", [(0, 2), (2, 3)]),
        ("i,i->", [(0,), (0,)]),
        ("i,i->i", [(0,), (1,)]),
        ("...,...->...", [(0, 1), (0, 4)]),
        ("i,i,i->", [(3,), (3,), (3,)]),
        ("i,i,i->i", [(3,), (3,), (1,)]),
        ("ij,jk,ki->", [(2, 3), (3, 4), (4, 2)]),
        ("ij,jk,kl,l->i", [(2, 3), (3, 4), (4, 2), (2,)]),
        ("i,j,k->kij", [(2,), (3,), (2,)]),
        ("bi,ijk,bk->bj", [(2, 3), (3, 2, 2), (2, 2)]),
        ("a,b,c,d,e,f,g->ga", [*[(2,)] * 7]),
        ("ab,bc,cd,de,ef,fg,gh->ah", [*[(2, 2)] * 7]),
    ],
)
def test_as_numpy_does(subscripts, shapes):
    agrees(subscripts, *[draw(*shape, seed=i) for i, shape in enumerate(shapes)])


@st.composite
def subscripts_and_arrays(draw_one, max_operands=5, max_side=3):
    """Any subscripts that fit some arrays: repeats, private letters, stretching, ellipsis."""
    sides = st.integers(1, max_side) if draw_one(st.integers(0, 9)) else st.integers(0, max_side)
    sizes = {letter: draw_one(sides) for letter in LETTERS}
    dots = draw_one(st.lists(sides, max_size=2))

    terms, arrays = [], []
    for i in range(draw_one(st.integers(1, max_operands))):
        letters = draw_one(st.text(LETTERS, max_size=3))
        stretch = {letter: draw_one(st.integers(0, 7)) == 0 for letter in letters}
        shape = [1 if stretch[letter] else sizes[letter] for letter in letters]
        if draw_one(st.booleans()):
            at = draw_one(st.integers(0, len(letters)))
            some = dots[draw_one(st.integers(0, len(dots))) :]
            some = [1 if draw_one(st.integers(0, 7)) == 0 else n for n in some]
            letters = letters[:at] + "..." + letters[at:]
            shape = [*shape[:at], *some, *shape[at:]]
        terms.append(letters)
        arrays.append(draw(*shape, seed=i))

    subscripts = ",".join(terms)
    if draw_one(st.booleans()):
        used = sorted(set(subscripts) - set(",."))
        kept = draw_one(st.permutations(used))[: draw_one(st.integers(0, len(used)))]
        at = draw_one(st.integers(0, len(kept)))
        ellipsis = ["..."] if "..." in subscripts else []
        subscripts += "->" + "".join([*kept[:at], *ellipsis, *kept[at:]])
    return subscripts, arrays


@settings(max_examples=4 * settings().max_examples)
@given(subscripts_and_arrays(), st.sampled_from("CF"))
def test_any_subscripts_give_what_numpy_gives(case, layout):
    subscripts, arrays = case
    arrays = [np.asarray(x, order=layout) for x in arrays]
    expected = np.asarray(np.einsum(subscripts, *arrays))
    result = einsum(subscripts, *[Tensor(x) for x in arrays])
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(result.array, expected, rtol=1e-10, atol=1e-10)


@given(subscripts_and_arrays(max_operands=4, max_side=2))
def test_any_subscripts_have_the_gradients_that_slopes_show(case):
    subscripts, arrays = case
    check_gradients(lambda *tensors: einsum(subscripts, *tensors), *arrays)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int64, np.uint8, bool])
@pytest.mark.parametrize("subscripts", ["ij->i", "ij,jk->ik", "ij,jk->", "i...->...", "ij,ij->ij"])
def test_dtypes_are_numpys(dtype, subscripts):
    x = (draw(3, 3) > 0).astype(dtype)
    operands = [x] * (subscripts.count(",") + 1)
    expected = np.asarray(np.einsum(subscripts, *operands))
    result = einsum(subscripts, *[Tensor(x) for x in operands])
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result.array, expected)


def test_one_tensor_given_twice_receives_both_gradients():
    x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    einsum("i,i->", x, x).backward()
    assert x.grad.tolist() == [2, 4, 6]


def test_an_operand_may_be_an_array():
    x = Tensor(draw(2, 3), requires_grad=True)
    y = draw(3, 4)
    np.testing.assert_allclose(einsum("ij,jk", x, y).array, x.array @ y)


def test_attention_is_two_einsums():
    q, k, v = (draw(2, 5, 3, 4, seed=i) for i in range(3))  # (B, T, H, D)

    def attend(q, k, v):
        return einsum("bhts,bshd->bthd", einsum("bthd,bshd->bhts", q, k), v)

    heads = [x.transpose(0, 2, 1, 3) for x in (q, k, v)]
    expected = (heads[0] @ heads[1].swapaxes(-1, -2)) @ heads[2]
    result = attend(*[Tensor(x) for x in (q, k, v)])
    np.testing.assert_allclose(result.array, expected.transpose(0, 2, 1, 3), rtol=1e-10)
    check_gradients(attend, q, k, v)


# ---- the order of contraction ----


def test_a_chain_that_ends_in_a_vector_starts_at_the_vector():
    sizes = dict.fromkeys("ijkl", 100)
    order = contraction_order([set("ij"), set("jk"), set("kl"), set("l")], {"i"}, sizes)
    assert order == [
        (frozenset({2}), frozenset({3})),
        (frozenset({1}), frozenset({2, 3})),
        (frozenset({0}), frozenset({1, 2, 3})),
    ]


def test_the_order_depends_on_the_lengths():
    terms, output = [set("ij"), set("jk"), set("kl")], set("il")
    wide_left = {"i": 100, "j": 2, "k": 100, "l": 2}  # 2·100·2 + 100·2·2, or 100·2·100 + 100·100·2
    assert contraction_order(terms, output, wide_left)[0] == (frozenset({1}), frozenset({2}))
    wide_right = {"i": 2, "j": 100, "k": 2, "l": 100}
    assert contraction_order(terms, output, wide_right)[0] == (frozenset({0}), frozenset({1}))


def test_long_chains_are_contracted_step_by_step():
    n = 20
    letters = "abcdefghijklmnopqrstu"
    terms = [letters[i : i + 2] for i in range(n)]
    matrices = [draw(4, 4, seed=i) for i in range(n)]
    # Every letter at once would take 4^21 steps: this line would not come to an end.
    result = einsum(",".join(terms) + "->au", *[Tensor(x) for x in matrices])
    np.testing.assert_allclose(result.array, np.linalg.multi_dot(matrices), rtol=1e-9)


def test_the_table_of_all_letters_is_never_made():
    x, y, z = (Tensor(draw(60, 60, seed=i), requires_grad=True) for i in range(3))
    tracemalloc.start()
    einsum("ij,jk,kl->il", x, y, z).sum().backward()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60**3 * 8 / 2  # half of i·j·k, let alone i·j·k·l


# ---- errors ----


@pytest.mark.parametrize(
    "subscripts, shapes, message",
    [
        ("ij,jk->ik", [(2, 3)], "'ij,jk->ik' has terms for 2 tensors, got 1"),
        ("ij", [(2, 3), (3, 4)], "'ij' has terms for 1 tensors, got 2"),
        ("ij", [], "'ij' needs at least one tensor, got none"),
        ("ij->iz", [(2, 3)], "output letter 'z' of 'ij->iz' is in no term"),
        ("ij->ii", [(2, 3)], "output letter 'i' of 'ij->ii' occurs twice"),
        ("ij,jk", [(2, 3), (4, 5)], "'j' in 'ij,jk' has length 3 in tensor 0 and length 4 in ten"),
        ("i,i,i", [(1,), (2,), (3,)], "'i' in 'i,i,i' has length 2 in tensor 1 and length 3 in"),
        ("ii", [(2, 3)], r"'i' in 'ii' has length 2 and length 3 in tensor 0, of shape \(2, 3\)"),
        ("ii", [(1, 3)], r"'i' in 'ii' has length 1 and length 3 in tensor 0, of shape \(1, 3\)"),
        ("...,...", [(2,), (3,)], "axis -1 of '...' in '...,...' has length 2 in tensor 0 and"),
        ("ijk", [(2, 3)], r"term 'ijk' of 'ijk' names 3 axes, but tensor 0 has shape \(2, 3\)"),
        ("i", [(2, 3)], r"term 'i' of 'i' names 1 axes, but tensor 0 has shape \(2, 3\)"),
        ("...ijk", [(2, 3)], "term '...ijk' of '...ijk' names 3 axes, but tensor 0"),
        ("...i->i", [(2, 3)], "have axes behind '...', so the output must say where they go"),
        ("i1", [(2, 3)], "cannot read 'i1' in 'i1'"),
        ("é", [(2,)], "cannot read 'é' in 'é'"),
        ("i.j", [(2, 3)], "cannot read 'i.j'"),
        ("...i...", [(2, 3)], "cannot read '...i...'"),
        ("i->j->k", [(2,)], "cannot read 'j->k' in 'i->j->k'"),
        ("i-", [(2,)], "cannot read 'i-'"),
        ("i->i,", [(2,)], "cannot read 'i,'"),
    ],
)
def test_errors_say_what_is_wrong(subscripts, shapes, message):
    with pytest.raises(ValueError, match="^einsum: .*" + message):
        einsum(subscripts, *[Tensor(np.zeros(shape)) for shape in shapes])


def test_subscripts_that_are_no_string_are_refused():
    with pytest.raises(TypeError, match="the first argument is the subscripts, .* got Tensor"):
        einsum(Tensor([1.0]), "i->i")


def test_tensors_on_different_devices_are_refused():
    with pytest.raises(ValueError, match="einsum: its inputs are on different devices"):
        einsum("i,i", Tensor(np.zeros(2)), Tensor(np.zeros(2).view(EmulatedArray)))


def test_subscripts_are_read_as_labels():
    assert read_subscripts("...i,i", ((2, 5, 3), (3,))) == (
        ((-2, -1, "i"), ("i",)),
        (-2, -1),
        {-2: 2, -1: 5, "i": 3},
    )


def test_labels_in_place_of_letters():
    x, y = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    for operands in (
        (x, [0, 1], y, [1, 2], [0, 2]),
        (x, [0, 1], y, [1, 2]),
        (x, [27, 1], [1, 27]),
        (x, [27, 1]),
        (x, [..., 0], x, [..., 0], [...]),
        (x, [3, 4], []),
    ):
        tensors = [Tensor(one) if isinstance(one, np.ndarray) else one for one in operands]
        np.testing.assert_array_equal(einsum(*tensors).array, np.einsum(*operands))
    check_gradients(lambda x, y: einsum(x, [0, 1], y, [1, 2], [2, 0]), x, y)


def test_labels_that_are_none():
    with pytest.raises(ValueError, match="labels are lists of whole numbers from 0 to 51"):
        einsum(Tensor(np.ones(2)), [52])
    with pytest.raises(ValueError, match="labels are lists of whole numbers"):
        einsum(Tensor(np.ones(2)), [0], Tensor(np.ones(2)), "a")
