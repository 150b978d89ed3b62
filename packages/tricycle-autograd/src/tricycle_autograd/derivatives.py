"""A table of derivatives: numpy's other functions of one number or of two.

    square = of_one("a².", lambda xp, x: xp.square(x), lambda xp, x, y: 2 * x)

A row has a sentence, the value, and the slope: for functions of one number from x and the result
y, for functions of two from a, b and the result.  The gradient is the slope times `dy`, and what
the slope of a row mentions is what is kept.  Names, values and dtypes are numpy's, and broadcasting
is undone as in elementwise.py.

Functions that are flat almost everywhere (floor, round) have gradient 0.

In order: the makers of functions; functions of one number; of two; questions without a gradient.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tricycle_autograd.devices import array_module
from tricycle_autograd.elementwise import apply_two, record_two, sigmoid, tensor_and_module
from tricycle_autograd.tensor import Tensor, record, wrap

LN_2, LN_10 = float(np.log(2)), float(np.log(10))


def of_one(explained: str, value: Callable, slope: Callable) -> Callable[[Any], Tensor]:
    """A differentiable function of one number.

    value   from the array module xp and x
    slope   from xp, x and the result y
    """

    def function(a: Any) -> Tensor:
        a, xp = tensor_and_module(a)
        x = a.array
        y = value(xp, x)

        def backward(dy):
            return ((dy * slope(xp, x, y)).astype(x.dtype, copy=False),)

        return record(y, (a,), backward)

    return _explained(function, explained)


def of_two(
    explained: str, value: Callable, slope_of_a: Callable, slope_of_b: Callable
) -> Callable[[Any, Any], Tensor]:
    """A differentiable function of two numbers, which broadcast.

    value   from the two arrays
    slopes  from xp, the arrays x and y, and the result
    """

    def function(a: Any, b: Any) -> Tensor:
        a, b, x, y, out = apply_two(function.__name__, value, a, b)
        xp = array_module(np.asarray(out) if isinstance(out, np.generic) else out)
        return record_two(
            out,
            a,
            b,
            lambda dy: dy * slope_of_a(xp, x, y, out),
            lambda dy: dy * slope_of_b(xp, x, y, out),
        )

    return _explained(function, explained)


def question(explained: str, value: Callable) -> Callable[[Any], Tensor]:
    """A function of one number whose answer is true or false, and has no gradient."""

    def function(a: Any) -> Tensor:
        a, xp = tensor_and_module(a)
        return wrap(value(xp, a.array))

    return _explained(function, explained)


def _explained(function, explained):
    function.__doc__ = explained
    return function


# ---- of one number ----

square = of_one("a².", lambda xp, x: xp.square(x), lambda xp, x, y: 2 * x)
reciprocal = of_one("1 / a.", lambda xp, x: xp.reciprocal(x), lambda xp, x, y: -y * y)
cbrt = of_one("The cube root.", lambda xp, x: xp.cbrt(x), lambda xp, x, y: 1 / (3 * y * y))
exp2 = of_one("2 to the power a.", lambda xp, x: xp.exp2(x), lambda xp, x, y: y * LN_2)
log2 = of_one("The logarithm to base 2.", lambda xp, x: xp.log2(x), lambda xp, x, y: 1 / (x * LN_2))
log10 = of_one(
    "The logarithm to base 10.", lambda xp, x: xp.log10(x), lambda xp, x, y: 1 / (x * LN_10)
)
tan = of_one("The tangent.", lambda xp, x: xp.tan(x), lambda xp, x, y: 1 + y * y)
arcsin = of_one(
    "The angle whose sine is a, from -π/2 to π/2.",
    lambda xp, x: xp.arcsin(x),
    lambda xp, x, y: 1 / xp.sqrt((1 - x) * (1 + x)),
)
arccos = of_one(
    "The angle whose cosine is a, from 0 to π.",
    lambda xp, x: xp.arccos(x),
    lambda xp, x, y: -1 / xp.sqrt((1 - x) * (1 + x)),
)
arctan = of_one(
    "The angle whose tangent is a, from -π/2 to π/2.",
    lambda xp, x: xp.arctan(x),
    lambda xp, x, y: (1 / xp.hypot(1, x)) ** 2,  # 1 / (1 + x²), also where x² is too large
)
sinh = of_one("(e^a - e^-a) / 2.", lambda xp, x: xp.sinh(x), lambda xp, x, y: xp.cosh(x))
cosh = of_one("(e^a + e^-a) / 2.", lambda xp, x: xp.cosh(x), lambda xp, x, y: xp.sinh(x))
arcsinh = of_one(
    "The number whose sinh is a.",
    lambda xp, x: xp.arcsinh(x),
    lambda xp, x, y: 1 / xp.hypot(1, x),
)
arccosh = of_one(
    "The number from 0 up whose cosh is a.",
    lambda xp, x: xp.arccosh(x),
    lambda xp, x, y: 1 / (xp.sqrt(x - 1) * xp.sqrt(x + 1)),
)
arctanh = of_one(
    "The number whose tanh is a.",
    lambda xp, x: xp.arctanh(x),
    lambda xp, x, y: 1 / ((1 - x) * (1 + x)),
)
softplus = of_one(
    "log(1 + e^a): a smooth max(a, 0).",
    lambda xp, x: xp.logaddexp(x, xp.zeros((), x.dtype)),
    lambda xp, x, y: sigmoid(wrap(x)).array,
)
floor = of_one("The largest whole number up to a.", lambda xp, x: xp.floor(x), lambda xp, x, y: 0)
ceil = of_one("The smallest whole number from a on.", lambda xp, x: xp.ceil(x), lambda xp, x, y: 0)
trunc = of_one("a without its fraction.", lambda xp, x: xp.trunc(x), lambda xp, x, y: 0)


def round(a: Any, decimals: int = 0) -> Tensor:
    """The nearest number of so many decimals; of two equally near ones the even one.

    Its gradient is 0.
    """
    a, xp = tensor_and_module(a)
    return record(xp.round(a.array, decimals), (a,), lambda dy: (xp.zeros_like(dy),))


def nan_to_num(
    a: Any, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """a with other numbers in place of NaN and infinities, which get no gradient.

    posinf, neginf   the largest and the smallest number of the dtype, if None
    """
    a, xp = tensor_and_module(a)
    x = a.array

    def backward(dy):
        return (xp.where(xp.isfinite(x), dy, 0).astype(dy.dtype, copy=False),)

    return record(xp.nan_to_num(x, nan=nan, posinf=posinf, neginf=neginf), (a,), backward)


# ---- of two numbers ----


def _share_of_sum(xp, x, out):
    """e^x / e^out, where both may be infinite; 0 for the logarithm of nothing, -inf."""
    with np.errstate(invalid="ignore"):
        share = xp.exp(xp.where(x == out, 0, x - out))
    return xp.where(out == -np.inf, 0, share)


def _or_one(xp, y):
    return xp.where(y == 0, 1, y)


arctan2 = of_two(
    "The angle of the point (b, a) seen from (0, 0), from -π to π.",
    np.arctan2,
    lambda xp, x, y, out: y / _or_one(xp, xp.hypot(x, y)) / _or_one(xp, xp.hypot(x, y)),
    lambda xp, x, y, out: -x / _or_one(xp, xp.hypot(x, y)) / _or_one(xp, xp.hypot(x, y)),
)
hypot = of_two(
    "√(a² + b²): how far the point (a, b) is from (0, 0), where the gradient is taken as 0.",
    np.hypot,
    lambda xp, x, y, out: x / _or_one(xp, out),
    lambda xp, x, y, out: y / _or_one(xp, out),
)
logaddexp = of_two(
    "log(e^a + e^b), finite for numbers of any size.",
    np.logaddexp,
    lambda xp, x, y, out: _share_of_sum(xp, x, out),
    lambda xp, x, y, out: _share_of_sum(xp, y, out),
)
remainder = of_two(
    "What is left of a when whole b's are taken from it; it has the sign of b.",
    np.remainder,
    lambda xp, x, y, out: 1,
    lambda xp, x, y, out: -xp.floor_divide(x, y),  # x / y may be rounded up to a whole number
)
fmod = of_two(
    "What is left of a when whole b's are taken from it; it has the sign of a.",
    np.fmod,
    lambda xp, x, y, out: 1,
    lambda xp, x, y, out: -xp.rint((x - out) / y),
)
floor_divide = of_two(
    "How many whole b's there are in a, rounded down; its gradient is 0.",
    np.floor_divide,
    lambda xp, x, y, out: 0,
    lambda xp, x, y, out: 0,
)
mod = remainder

# ---- questions ----

isnan = question("Whether a is NaN.", lambda xp, x: xp.isnan(x))
isinf = question("Whether a is infinite.", lambda xp, x: xp.isinf(x))
isfinite = question("Whether a is neither infinite nor NaN.", lambda xp, x: xp.isfinite(x))

# A function's name is that of its row, for messages, profiles and tracebacks.
for _name, _function in list(globals().items()):
    if getattr(_function, "__name__", "") == "function":
        _function.__name__ = _function.__qualname__ = _name
        _function.__code__ = _function.__code__.replace(co_name=_name)
