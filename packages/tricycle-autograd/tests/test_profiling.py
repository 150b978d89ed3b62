"""profile(): every operation is counted, in both directions, and nothing when it is over."""

import numpy as np
import pytest

from tricycle_autograd import Tensor, exp, profile, profiling, recompute, tanh
from tricycle_autograd.gemm import product
from tricycle_autograd.modes import current
from tricycle_autograd.profiling import BETWEEN, profiled, roof


def leaf(*shape):
    return Tensor(np.ones(shape, np.float32), requires_grad=True)


def test_operations_are_counted_by_their_public_names(capsys):
    x = leaf(3, 4)
    with profile() as measured:
        ((x + x) * 2.0).sum().backward()
    calls = {key: row.calls for key, row in measured.rows.items() if key[0] != BETWEEN}
    names = ("add", "multiply", "sum")
    assert calls == {(name, way): 1 for name in names for way in ("forward", "backward")}
    assert "add" in capsys.readouterr().out


def test_bytes_are_those_of_what_goes_in_and_comes_out(capsys):
    x = leaf(100)
    with profile() as measured:
        exp(x).sum().backward()
    assert measured.rows["exp", "forward"].bytes == 800
    assert measured.rows["exp", "backward"].bytes == 1200


def test_a_product_has_two_operations_for_each_of_its_steps(capsys):
    a, b, out = (np.ones(shape, np.float32) for shape in ((5, 7), (7, 3), (5, 3)))
    with profile() as measured:
        product(out, a, b)
    assert measured.rows[BETWEEN, ""].flops == 2 * 5 * 7 * 3


def test_an_operation_inside_another_counts_there_and_not_in_the_outer_one(capsys):
    x = leaf(300, 300)
    with profile() as measured:
        recompute(lambda x: tanh(x @ x), x).sum().backward()
    calls = {key: row.calls for key, row in measured.rows.items()}
    assert calls["matmul", "forward"] == calls["tanh", "forward"] == 2
    assert calls["matmul", "backward"] == calls["recompute", "backward"] == 1
    assert measured.rows["recompute", "backward"].flops == 0


def test_the_times_add_up_to_the_whole(capsys):
    x = leaf(50, 50)
    with profile() as measured:
        for _ in range(20):
            tanh(x @ x).sum().backward()
    assert sum(row.seconds for row in measured.rows.values()) == pytest.approx(measured.seconds)


def test_code_that_is_no_operation_can_have_a_line_too(capsys):
    with profile() as measured, profiled("reading"):
        pass
    assert measured.rows["reading", ""].calls == 1
    with profiled("reading"):
        pass
    assert measured.rows["reading", ""].calls == 1


def test_nothing_listens_afterwards_even_after_an_error(capsys):
    with pytest.raises(ZeroDivisionError), profile():
        1 / 0  # noqa: B018
    assert current().observer is None
    assert capsys.readouterr().out == ""


def test_one_profile_at_a_time(capsys):
    with pytest.raises(RuntimeError, match="a profile is running already"), profile(), profile():
        pass
    assert current().observer is None


def test_the_table_names_the_roof(capsys):
    with profile():
        exp(leaf(10)).sum().backward()
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["operation", "calls", "ms", "share", "GFLOP/s", "GB/s", "of", "roof"]
    fastest, widest = roof()
    assert lines[-1].endswith(f"{fastest / 1e9:.0f} GFLOP/s, {widest / 1e9:.0f} GB/s")


def test_the_peak_is_the_best_of_all_products_and_what_is_slow_does_not_lower_it(monkeypatch):
    seconds = {1024: 0.5, 512: 1e-3, 384: 1.0}  # as on a busy machine: few are left alone
    shortest = iter(seconds[side] for side in profiling.SIDES)
    monkeypatch.setattr(profiling, "_shortest", lambda function, long_enough: next(shortest))
    assert profiling.measured_peak_flops() == 2 * 512**3 / 1e-3


def test_a_gradient_is_the_same_with_and_without(capsys):
    x = leaf(4, 4)
    tanh(x @ x).sum().backward()
    alone, x.grad = x.grad, None
    with profile():
        tanh(x @ x).sum().backward()
    assert x.grad.tobytes() == alone.tobytes()


def test_a_view_moves_no_bytes():
    x = Tensor(np.zeros((64, 64)), requires_grad=True)
    with profile() as measured:
        x.reshape((32, 128)).T.sum().backward()
    for name in ("reshape", "T"):
        assert measured.rows[name, "forward"].bytes == 0
        assert measured.rows[name, "backward"].bytes == 0
    assert measured.rows["sum", "forward"].bytes > 0
    assert repr(measured).startswith("<Profile of ")
