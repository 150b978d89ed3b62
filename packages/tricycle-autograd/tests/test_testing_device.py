"""The emulated GPU: as strict as cupy, and what is on it stays there."""

import numpy as np
import pytest

from tricycle_autograd import Tensor
from tricycle_autograd.devices import array_module, device_of, move
from tricycle_autograd.testing_device import IN_CUPY, emulated, emulated_cupy
from tricycle_autograd.testing_streams import emulated_gpu

X = emulated(np.arange(6, dtype=np.float32).reshape(2, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x + 1,
        lambda x: np.float32(2) * x,
        lambda x: x.sum(),
        lambda x: x.mean(),
        lambda x: x.max(axis=0),
        lambda x: x[0, 0],
        lambda x: x[0],
        lambda x: x[x > 1],
        lambda x: x.astype(np.float64),
        lambda x: x.T.reshape(-1),
        lambda x: x.copy(),
        lambda x: x @ x.T,
        lambda x: -x,
        lambda x: np.where(x > 1, x, 0),
        lambda x: np.exp(x[0, 0]),
        lambda x: emulated_cupy.ascontiguousarray(x.T),
        lambda x: emulated_cupy.concatenate([x, x]),
        lambda x: emulated_cupy.split(x, 3, 1)[2],
        lambda x: emulated_cupy.add.reduceat(x[0], emulated([0, 1])),
        lambda x: emulated_cupy.zeros(3),
        lambda x: emulated_cupy.argmax(x, axis=None),
        lambda x: emulated_cupy.maximum(x[0, 0], 2),
        lambda x: x.argmax(),
        lambda x: x.argmin(),
        lambda x: x[0].dot(x[1]),
        lambda x: Tensor(x.sum()).array,
    ],
)
def test_results_are_on_the_device_also_those_without_axes(make):
    made = make(X)
    assert device_of(made) == "cuda"
    assert np.isfinite(move(made, "cpu")).all()


def test_what_is_done_in_a_capture_is_done_when_it_is_replayed():
    with emulated_gpu() as cupy:
        x, total, stream = (
            move(np.arange(3.0), "cuda"),
            move(np.zeros(3), "cuda"),
            cupy.cuda.Stream(),
        )
        stream.begin_capture()
        y = (2 * x).reshape(3, 1)[1:]
        total += x
        total[:1] = 7
        z = cupy.concatenate([y, x.astype(np.float32).copy()[:, None]]).sum()
        graph = stream.end_capture()
        assert total.tolist() == [0, 0, 0]  # nothing has run
        for start in (0.0, 10.0):
            x[...] = move(np.arange(3.0) + start, "cuda")
            graph.launch(stream)
            stream.synchronize()
            assert y.tolist() == [[2 * start + 2], [2 * start + 4]]
            assert z.item() == 4 * start + 6 + 3 * start + 3
        assert total.tolist() == [7, 12, 14]  # 0 + 1 + 11, 0 + 2 + 12


def test_what_cuda_refuses_in_a_capture_is_refused():
    with emulated_gpu() as cupy:
        x, stream = move(np.ones(2), "cuda"), cupy.cuda.Stream()
        stream.begin_capture()
        for look in (x.tolist, x.sum().item, lambda: move(x, "cpu"), lambda: bool(x.sum())):
            with pytest.raises(RuntimeError, match="a look at an array in a capture"):
                look()
        with pytest.raises(RuntimeError, match="a copy to the GPU in a capture"):
            move(np.ones(2), "cuda")
        stream.end_capture()
        assert x.tolist() == [1, 1]


def test_operations_come_after_what_waits_on_their_stream():
    with emulated_gpu() as cupy:
        x = move(np.zeros(2), "cuda")
        cupy.cuda.stream.do(lambda: x.__setitem__(0, 5.0))
        assert (x + 1).tolist() == [6, 1]


def test_it_calculates_as_numpy_does():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert (X * 2 + 1).tolist() == (x * 2 + 1).tolist()
    assert emulated_cupy.cumsum(X, axis=1).tolist() == np.cumsum(x, axis=1).tolist()
    y = emulated(x.copy())
    y += 1
    y[0] = 0
    emulated_cupy.add.at(y, (emulated([0, 0]), emulated([1, 1])), 2)
    assert y.tolist() == [[0, 4, 0], [4, 5, 6]]
    out = emulated_cupy.empty_like(y)
    assert emulated_cupy.exp(emulated_cupy.zeros_like(y), out=out) is out
    assert out.tolist() == [[1, 1, 1]] * 2


def test_moving_to_the_cpu_copies():
    here = move(X, "cpu")
    assert type(here) is np.ndarray
    here[0, 0] = 100
    assert X[0, 0].item() == 0


@pytest.mark.parametrize(
    "mix",
    [
        lambda x, y: x.dot(y.T),
        lambda x, y: x + y,
        lambda x, y: y * x,
        lambda x, y: x.__iadd__(y),
        lambda x, y: emulated_cupy.concatenate([x, y]),
        lambda x, y: emulated_cupy.where(x > 0, y, 0),
        lambda x, y: emulated_cupy.exp(y),
        lambda x, y: emulated_cupy.exp(x, out=y),
        lambda x, y: x.__setitem__(0, y[0]),
    ],
)
def test_an_array_of_numpys_beside_one_of_the_device_is_an_error(mix):
    with pytest.raises(TypeError, match=r"got an array of numpy's beside one on the GPU, shape"):
        mix(X.copy(), np.ones((2, 3), np.float32))


def test_numbers_and_uploads_are_no_error():
    assert (X + np.float32(1)).tolist() == (X + 1).tolist()
    assert device_of(emulated_cupy.asarray(np.ones(2))) == "cuda"


def test_a_function_that_cupy_may_lack_is_refused_by_name():
    with pytest.raises(AttributeError, match="cupy may have no nanmedian.*cupy's reference, and"):
        array_module(X).nanmedian(X)
    with pytest.raises(AttributeError, match="cupy may have no lexsort"):
        np.lexsort(X)


def test_every_function_named_is_one_of_numpys():
    names = IN_CUPY.split()
    assert [name for name in names if not hasattr(np, name)] == []
    assert names == sorted(set(names))
