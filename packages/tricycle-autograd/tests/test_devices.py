import sys
import types

import numpy as np
import pytest

import tricycle_autograd as tri
from tricycle_autograd import Tensor
from tricycle_autograd.devices import (
    array_module,
    check_same_device,
    device_of,
    homes,
    move,
    register,
)
from tricycle_autograd.testing_device import EmulatedArray, emulated_cupy


def emulated(*values):
    return np.array(values, np.float32).view(EmulatedArray)


# ---- By hand ----


def test_the_type_of_an_array_says_where_it_is():
    assert device_of(np.ones(2)) == "cpu"
    assert device_of(np.float32(1)) == "cpu"
    assert device_of(emulated(1.0)) == "cuda"
    assert array_module(np.ones(2)) is np
    assert array_module(np.float32(1)) is np
    assert array_module(emulated(1.0)) is emulated_cupy
    with pytest.raises(TypeError, match="expected a numpy or cupy array, got list"):
        device_of([1.0])
    with pytest.raises(TypeError, match="expected a numpy or cupy array, got list"):
        array_module([1.0])


def test_a_type_of_array_can_be_registered(monkeypatch):
    class Array(np.ndarray):
        pass

    monkeypatch.setattr("tricycle_autograd.devices.homes", dict(homes))
    register(Array, "cuda", sys)
    array = np.ones(2).view(Array)
    assert (device_of(array), array_module(array)) == ("cuda", sys)
    with pytest.raises(ValueError, match="unknown device 'tpu'; there are cpu and cuda"):
        register(Array, "tpu", sys)


def test_an_array_of_cupys_is_known_when_it_is_met(monkeypatch):
    cupy = types.SimpleNamespace(
        cuda=types.SimpleNamespace(is_available=lambda: True), asnumpy=lambda array: "downloaded"
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr("tricycle_autograd.devices.homes", dict(homes))
    array = type("ndarray", (), {"__module__": "cupy._core.core"})()
    assert device_of(array) == "cuda"
    assert array_module(array) is cupy
    assert move(array, "cpu") == "downloaded"


def test_moving_to_where_it_is_costs_nothing():
    array = np.ones(2)
    assert move(array, "cpu") is array
    x = Tensor(array)
    assert x.to("cpu") is x


# ---- The emulated GPU ----


def test_results_stay_on_the_device_of_their_inputs():
    x = Tensor(emulated(1.0, 2.0, 3.0), requires_grad=True)
    results = [
        x * 2,
        x.sum(),
        x.sum() * x,
        tri.where(x > 1, x, 0),
        tri.sigmoid(x),
        tri.erf(x),
        tri.maximum(x, 2),
        tri.concatenate([x, x]),
        x[1:],
        x.reshape(3, 1) @ x.reshape(1, 3),
        tri.logsumexp(x),
    ]
    assert [result.device for result in results] == ["cuda"] * len(results)
    for result in results:
        x.grad = None
        result.sum().backward()
        assert device_of(x.grad) == "cuda"


def test_gradients_flow_back_across_devices():
    x = Tensor(emulated(1.0, 2.0), requires_grad=True)
    y = x.to("cpu")
    assert y.device == "cpu"
    assert type(y.array) is type(x.numpy()) is np.ndarray
    moved_back = []

    def upload(array, device):
        moved_back.append(device)
        return array.view(EmulatedArray)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tricycle_autograd.tensor.move", upload)
        (y * 3).sum().backward()
    assert moved_back == ["cuda"]
    assert x.grad.tolist() == [3, 3]


# ---- Errors ----


def test_there_are_two_devices():
    with pytest.raises(ValueError, match="unknown device 'tpu'; there are cpu and cuda"):
        Tensor([1.0]).to("tpu")


def test_the_gpu_needs_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match="tricycle-autograd\\[cuda12\\]"):
        Tensor([1.0]).to("cuda")


def test_the_gpu_needs_a_gpu(monkeypatch):
    cupy = types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(RuntimeError, match="finds no usable GPU"):
        Tensor([1.0]).to("cuda")


def test_mixed_inputs_are_named():
    here, there = Tensor([1.0]), Tensor(emulated(1.0))
    check_same_device("add", here, here)
    check_same_device("add", there, there)
    with pytest.raises(ValueError, match=r"add: .*different devices \(cuda, cpu\); move them"):
        check_same_device("add", there, here)
