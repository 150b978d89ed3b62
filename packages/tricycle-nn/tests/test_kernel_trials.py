"""Every kernel of this package is tried when it is first used (tricycle_autograd.first_use)."""

import importlib
import inspect
import pkgutil

import pytest

import tricycle_nn
from tricycle_autograd.first_use import try_once
from tricycle_autograd.machine_code import Compiled
from tricycle_nn.kernel_trials import TRIALS


def kernels() -> dict[str, Compiled]:
    """Those that are called from Python, by module and name."""
    found = {}
    for module in pkgutil.iter_modules(tricycle_nn.__path__):
        values = vars(importlib.import_module(f"tricycle_nn.{module.name}"))
        for holder in (
            values,
            *(vars(value) for value in values.values() if inspect.isclass(value)),
        ):
            for value in holder.values():
                value = getattr(value, "__func__", value)  # noqa: PLW2901  of a static method
                if isinstance(value, Compiled) and value.options.get("parallel"):
                    _, _, place = value.__module__.partition(".")
                    found[f"{place}.{value.function.__qualname__}"] = value
    return found


def test_no_kernel_is_forgotten():
    assert sorted(TRIALS) == sorted(kernels())


@pytest.mark.parametrize("name", sorted(TRIALS))
def test_a_kernel_is_right_here(name, tmp_path):
    kernel = kernels()[name]
    try_once(kernel, kernel.dispatcher, None, tmp_path / "mark")
    assert (tmp_path / "mark").exists()
