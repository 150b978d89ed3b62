"""numpy's own functions on tensors: `np.exp(x)` is exp(x), and stays on the tape.

numpy asks an argument other than its own arrays what to do, through two methods of Tensor:
`__array_ufunc__` for functions of numbers, operators of arrays among them (array + tensor), and
`__array_function__` for most others.  They come here, and there are three answers:

    there is a function of that name here     it is called
    its result has no gradient at all         numpy's own runs on the numbers: np.shape, np.allclose
    anything else                             TypeError: it would leave the tape without a word

np.asarray(x) is the way out: an array, and no gradient.

numpy asks no tensor inside a list.  There np.sum([x, y]) would be numbers without a past;
`__array__` sees that a function of numpy's wants them, and refuses.  It cannot tell np.exp([x, y]),
which has no Python of its own, from np.asarray([x, y]).
"""

import inspect
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np

from tricycle_autograd.tensor import Tensor

# numpy's names for functions that have another one here.
OTHER_NAMES = {
    "absolute": "abs",
    "fabs": "abs",
    "amax": "max",
    "amin": "min",
    "rint": "round",
    "around": "round",
}
# Others of numpy.linalg have the names of functions here that do another thing (trace, diagonal).
OF_LINALG = ("norm", "matmul", "tensordot")
# What these tell of numbers does not change when the numbers move a little.
WITHOUT_GRADIENT = """
    shape ndim size allclose isclose array_equal array_equiv array2string array_repr array_str
    nonzero flatnonzero argwhere count_nonzero searchsorted digitize zeros_like ones_like
    empty_like result_type can_cast shares_memory may_share_memory iscomplexobj isrealobj save
    savez savez_compressed savetxt nanargmax nanargmin argpartition lexsort isin logical_and
    logical_or logical_xor logical_not signbit
"""

# Arguments of numpy's that change how it finds a result, and not the result.
CHANGES_NO_NUMBER = {
    "einsum": ("optimize",),
    "sort": ("kind", "stable"),  # ours is stable
    "argsort": ("kind", "stable"),
    "median": ("overwrite_input",),
    "nan_to_num": ("copy",),
}
REFUSED = {
    "reduce": "sum(), prod(), max() and min() are such functions",
    "accumulate": "cumsum() and cumprod() are such functions",
    "outer": "outer() multiplies so; for others give the arrays axes of length 1, x[:, None] + y",
}


def check_caller(frame: Any) -> None:
    """Raise TypeError if it is a function of numpy's that wants a tensor's numbers in passing.

    frame  of the caller of `__array__`
    """
    module = frame.f_globals.get("__name__", "")
    if module.split(".")[0] != "numpy" or module.startswith("numpy.testing"):
        return
    while (below := frame.f_back) and below.f_globals.get("__name__", "").startswith("numpy."):
        frame = below
    raise TypeError(
        f"np.{frame.f_code.co_name} of a list with a tensor in it would leave the tape without a "
        "word: join tensors by stack() or concatenate() first; for the numbers alone give it "
        "tensor.numpy()"
    )


def call_ufunc(
    here: ModuleType, ufunc: np.ufunc, method: str, inputs: tuple, options: dict[str, Any]
) -> Any:
    """What numpy's function of numbers gives for inputs of which one is a tensor.

    here      the package with the functions for tensors
    method    "__call__"; "reduce" and its like are refused

    Raises TypeError for a function that there is not, and for numpy's further options.
    """
    name = ufunc.__name__
    if method != "__call__":
        advice = REFUSED.get(method, "there is no such function here")
        raise TypeError(f"np.{name}.{method} has no gradient here: {advice}")
    if options:
        asked = ", ".join([f"{option}=" for option in options])
        raise TypeError(
            f"np.{name} of tensors goes without {asked}: tensors are values, which nothing writes "
            "into; write x = x + y in place of x += y where x is an array"
        )
    if name in WITHOUT_GRADIENT.split():
        return ufunc(*map(_numbers, inputs))
    return _function(here, name, ufunc)(*inputs)


def call_function(
    here: ModuleType, function: Callable, args: tuple, options: dict[str, Any]
) -> Any:
    """What another function of numpy's gives for arguments among which is a tensor.

    Raises TypeError for a function that there is not, and for arguments that it has not.
    """
    name = function.__name__
    if name in WITHOUT_GRADIENT.split() and function.__module__ == "numpy":
        return function(*_numbers(args), **_numbers(options))
    ours = _function(here, name, function)
    theirs = _parameters(function)
    without = CHANGES_NO_NUMBER.get(name, ())
    options = {key: value for key, value in options.items() if key not in without}
    if not theirs or any(kind is inspect.Parameter.VAR_POSITIONAL for _, kind, _ in theirs):
        return ours(*args, **options)
    return ours(**_by_our_names(name, ours, theirs, args, options))


def _function(here, name, function):
    """Ours for numpy's, or the error that there is none."""
    ours = getattr(here, OTHER_NAMES.get(name, name), None)
    module = getattr(function, "__module__", None) or "numpy"
    known = module == "numpy" or (module == "numpy.linalg" and name in OF_LINALG)
    if known and name != "fused" and _is_operation(here, ours):
        return ours
    raise TypeError(
        f"{module}.{name} has no gradient here, and would leave the tape; for the numbers alone "
        f"give it tensor.numpy()"
    )


def _is_operation(here, ours):
    return callable(ours) and ours.__module__.split(".")[0] == here.__name__


@lru_cache
def _parameters(function):
    """(name, kind, default) of each parameter of a function; none if it does not say."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return ()
    return tuple([(p.name, p.kind, p.default) for p in parameters])


def _by_our_names(name, ours, theirs, args, options):
    """numpy's arguments by our names: an array is called x here and a there, and so on."""
    own = [parameter for parameter, _, _ in _parameters(ours)]
    named = {parameter: i for i, (parameter, _, _) in enumerate(theirs)}
    given = dict(zip(named, args)) | options
    arguments = {}
    for parameter, value in given.items():
        place = named.get(parameter, len(own))
        if parameter in own:
            arguments[parameter] = value
        elif place < len(own) and own[place] not in named:
            arguments[own[place]] = value
        elif parameter not in named or value is not theirs[place][2]:
            raise TypeError(
                f"np.{name} of tensors has no argument {parameter}; it is "
                f"{name}{inspect.signature(ours)}"
            )
    return arguments


def _numbers(value):
    """The same with arrays in place of tensors."""
    if isinstance(value, Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: _numbers(one) for key, one in value.items()}
    return type(value)(map(_numbers, value)) if type(value) in (list, tuple) else value
