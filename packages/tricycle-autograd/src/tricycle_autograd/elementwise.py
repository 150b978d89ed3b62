"""Operations on each number by itself, with numpy's names, broadcasting and dtypes.

Each function is two lines: the value, and its derivative times `dy`, the gradient that arrives
at the result.  That is the chain rule, and this file is a table of derivatives.

Broadcasting.  When shapes differ, numpy repeats the smaller array: (3, 1) + (4,) is (3, 4), and
each number of the (4,) is used three times.  A number used three times receives three gradients,
and they add up.  So the gradient of "repeat" is "sum over the repeats": `unbroadcast`.

dtypes are numpy's, with one exception.  Python's numbers are weak, they take the tensor's dtype:
float32 tensor * 2.0 is float32.  So are numpy's scalars here, for np.sqrt(64) is meant as a number
and should not turn a model into float64.  Arrays are not weak, not even those without axes.  A
gradient has its own input's dtype.

What is kept for the backward pass is what the derivative mentions: x for log, the result for
exp, nothing for addition; and of two inputs only what the gradients that are wanted need.

Functions of numbers that models need less often are in derivatives.py, as a table.

In order: arithmetic, comparisons and logic, functions of one number, choices, helpers.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from tricycle_autograd.additions import added
from tricycle_autograd.arrays import in_float32, is_floating, is_half
from tricycle_autograd.devices import array_module, check_same_device
from tricycle_autograd.shapes import unbroadcast
from tricycle_autograd.tensor import Tensor, as_tensor, record, wrap

# What numpy treats as a number that fits any device.
NUMBER: tuple[Any, ...] = (int, float, np.generic)
# By numpy's letter for a kind of dtype ("V" is bfloat16): the type of Python's numbers of that
# kind, and the order of the kinds; what is of two kinds together is of the higher one.
WEAK: dict[str, Callable] = {"b": bool, "i": int, "u": int, "f": float, "V": float}
RANKS = {"b": 0, "i": 1, "u": 1, "f": 2, "V": 2}

# ---- arithmetic ----


def add(a: Any, b: Any) -> Tensor:
    """a + b."""
    a, b, _, _, out = apply_two("add", added, a, b)
    return record_two(out, a, b, _same, _same)


def subtract(a: Any, b: Any) -> Tensor:
    """a - b."""
    a, b, _, _, out = apply_two("subtract", operator.sub, a, b)
    return record_two(out, a, b, _same, operator.neg)


def multiply(a: Any, b: Any) -> Tensor:
    """a · b, number by number."""
    a, b, x, y, out = apply_two("multiply", operator.mul, a, b)
    return record_two(out, a, b, lambda dy: dy * y, lambda dy: dy * x)


def divide(a: Any, b: Any) -> Tensor:
    """a / b."""
    a, b, _, y, out = apply_two("divide", operator.truediv, a, b)
    return record_two(out, a, b, lambda dy: dy / y, lambda dy: -dy * out / y)


def power(a: Any, b: Any) -> Tensor:
    """a to the power b; NaN for a negative a with a fractional b, as in numpy.

    d(a^b)/da = b·a^(b-1), and d(a^b)/db = a^b·log a.
    """
    a, b, x, y, out = apply_two("power", operator.pow, a, b)
    return record_two(
        out, a, b, lambda dy: dy * _slope_of_base(x, y), lambda dy: dy * _slope_of_exponent(x, out)
    )


def negative(a: Any) -> Tensor:
    """-a."""
    a = as_tensor(a)
    return record(-a.array, (a,), lambda dy: (-dy,))


# ---- comparisons and logic: tensors of booleans, without gradients ----


def equal(a: Any, b: Any) -> Tensor:
    """Whether a == b, number by number."""
    return wrap(apply_two("equal", operator.eq, a, b)[-1])


def not_equal(a: Any, b: Any) -> Tensor:
    """Whether a != b, number by number."""
    return wrap(apply_two("not_equal", operator.ne, a, b)[-1])


def less(a: Any, b: Any) -> Tensor:
    """Whether a < b, number by number."""
    return wrap(apply_two("less", operator.lt, a, b)[-1])


def less_equal(a: Any, b: Any) -> Tensor:
    """Whether a <= b, number by number."""
    return wrap(apply_two("less_equal", operator.le, a, b)[-1])


def greater(a: Any, b: Any) -> Tensor:
    """Whether a > b, number by number."""
    return wrap(apply_two("greater", operator.gt, a, b)[-1])


def greater_equal(a: Any, b: Any) -> Tensor:
    """Whether a >= b, number by number."""
    return wrap(apply_two("greater_equal", operator.ge, a, b)[-1])


def bitwise_and(a: Any, b: Any) -> Tensor:
    """a & b of booleans (both true) or integers (bit by bit)."""
    return wrap(apply_two("bitwise_and", operator.and_, a, b)[-1])


def bitwise_or(a: Any, b: Any) -> Tensor:
    """a | b of booleans (either true) or integers (bit by bit)."""
    return wrap(apply_two("bitwise_or", operator.or_, a, b)[-1])


def invert(a: Any) -> Tensor:
    """~a of booleans (not) or integers (every bit)."""
    return wrap(~as_tensor(a).array)


# ---- functions of one number ----


def exp(a: Any) -> Tensor:
    """e^a."""
    a, xp = tensor_and_module(a)
    out = xp.exp(a.array)
    return record(out, (a,), lambda dy: (dy * out,))


def expm1(a: Any) -> Tensor:
    """e^a - 1, exact for small a too."""
    a, xp = tensor_and_module(a)
    out = xp.expm1(a.array)
    return record(out, (a,), lambda dy: (dy * (out + 1),))


def log(a: Any) -> Tensor:
    """The natural logarithm: -inf at 0, NaN below."""
    a, xp = tensor_and_module(a)
    x = a.array
    return record(xp.log(x), (a,), lambda dy: (dy / x,))


def log1p(a: Any) -> Tensor:
    """log(1 + a), exact for small a too."""
    a, xp = tensor_and_module(a)
    x = a.array
    return record(xp.log1p(x), (a,), lambda dy: (dy / (1 + x),))


def sqrt(a: Any) -> Tensor:
    """The square root; its slope at 0 is infinite."""
    a, xp = tensor_and_module(a)
    out = xp.sqrt(a.array)
    return record(out, (a,), lambda dy: (dy / (2 * out),))


def sin(a: Any) -> Tensor:
    """The sine of an angle in radians."""
    a, xp = tensor_and_module(a)
    x = a.array
    return record(xp.sin(x), (a,), lambda dy: (dy * xp.cos(x),))


def cos(a: Any) -> Tensor:
    """The cosine of an angle in radians."""
    a, xp = tensor_and_module(a)
    x = a.array
    return record(xp.cos(x), (a,), lambda dy: (-dy * xp.sin(x),))


def tanh(a: Any) -> Tensor:
    """(e^a - e^-a) / (e^a + e^-a), between -1 and 1."""
    a, xp = tensor_and_module(a)
    out = xp.tanh(a.array)
    return record(out, (a,), lambda dy: (dy * (1 - out * out),))


def sigmoid(a: Any) -> Tensor:
    """1 / (1 + e^-a), between 0 and 1."""
    a, xp = tensor_and_module(a)
    with np.errstate(over="ignore"):  # of -100, e^100 is inf, and 1 / inf is right
        out = 1 / (1 + xp.exp(-in_floating_point(a.array)))
    return record(out, (a,), lambda dy: (dy * out * (1 - out),))


def erf(a: Any) -> Tensor:
    """The error function, 2/√π times the integral of e^(-t²) from 0 to a.

    It is how much of a normal distribution lies within a·√2 standard deviations of its mean.
    """
    a, xp = tensor_and_module(a)
    x = a.array
    slope = TWO_OVER_ROOT_PI
    return record(
        _erf(xp, x), (a,), lambda dy: (_fit(dy * slope * xp.exp(-x * x), x.shape, x.dtype),)
    )


def abs(a: Any) -> Tensor:
    """The size of a number without its sign; the slope at 0 is taken as 0."""
    a, xp = tensor_and_module(a)
    x = a.array
    return record(xp.abs(x), (a,), lambda dy: (dy * xp.sign(x),))


def sign(a: Any) -> Tensor:
    """-1, 0 or 1; flat almost everywhere, so its gradient is 0."""
    a, xp = tensor_and_module(a)
    return record(xp.sign(a.array), (a,), lambda dy: (xp.zeros_like(dy),))


# ---- choices ----


def clip(
    a: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None
) -> Tensor:
    """a, moved to the nearest bound where it is outside [a_min, a_max]; None sets no bound.

    The bounds are numbers or arrays, and have two names each, as numpy's have.  The gradient passes
    where a is inside, bounds included, and is 0 outside.  Raises TypeError for bounds that want
    gradients, and for one that is given under both its names.
    """
    if (a_min is not None and min is not None) or (a_max is not None and max is not None):
        raise TypeError("clip() takes a bound under one name: a_min or min, a_max or max")
    a_min, a_max = min if a_min is None else a_min, max if a_max is None else a_max
    a, xp = tensor_and_module(a)
    x = a.array
    low, high = _bound(a_min, x), _bound(a_max, x)
    out = xp.clip(x, low, high)
    if x.dtype.kind == "V":  # numpy clips bfloat16 in float32, and leaves it there
        bounds = [bound for bound in (low, high) if bound is not None]
        out = out.astype(np.result_type(x, *bounds))

    def backward(dy):
        inside = True
        if low is not None:
            inside = x >= low
        if high is not None:
            inside = inside & (x <= high)
        return (_fit(select(xp, inside, dy, 0), x.shape, x.dtype),)

    return record(out, (a,), backward)


def maximum(a: Any, b: Any) -> Tensor:
    """The larger of a and b; where they are equal, each gets half the gradient."""
    return _choose("maximum", np.maximum, operator.gt, a, b)


def minimum(a: Any, b: Any) -> Tensor:
    """The smaller of a and b; where they are equal, each gets half the gradient."""
    return _choose("minimum", np.minimum, operator.lt, a, b)


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """a where the condition holds, b elsewhere; the condition has no gradient."""
    a, b = _operands("where", a, b)
    chosen = as_tensor(condition).array
    xp = array_module(chosen)
    if isinstance(condition, Tensor) and not (a.node is b.node is None):
        chosen = chosen.copy()  # a tensor around the caller's own mask, perhaps
    _check_devices("where", wrap(chosen), a, b)
    try:
        out = select(xp, chosen, a.array, b.array)
    except ValueError:
        _check_shapes("where", chosen, a.array, b.array)
        raise
    return record_two(
        out, a, b, lambda dy: select(xp, chosen, dy, 0), lambda dy: select(xp, chosen, 0, dy)
    )


# ---- helpers ----


def select(xp, chosen, x, y):
    """xp.where(chosen, x, y), for floating point numbers without an if for each of them.

    A processor guesses which way an if will go, and where it guesses wrong, it has to start
    again: 3 ns a number if the choice is random.  On the bits the choice is arithmetic, and takes
    a tenth of that: y ^ ((x ^ y) & mask), where the mask has all bits set or none.
    """
    dtype = np.result_type(x, y)
    if not is_floating(dtype) or dtype.itemsize > 8:  # no integer is as long as a longdouble
        return xp.where(chosen, x, y)
    bits = np.dtype(f"i{dtype.itemsize}")
    x, y = (xp.asanyarray(one, dtype).view(bits) for one in (x, y))
    mask = -xp.asanyarray(chosen, bool).view("i1").astype(bits)  # -1 has all bits set
    return (y ^ ((x ^ y) & mask)).view(dtype)


def tensor_and_module(value: Any) -> tuple[Tensor, Any]:
    """An operand as a tensor, and the module that works on its array."""
    tensor = as_tensor(value)
    return tensor, array_module(tensor.array)


def apply_two(name: str, operation: Callable, a: Any, b: Any) -> tuple:
    """Two operands as tensors, their arrays, and operation(array, array)."""
    a, b = _operands(name, a, b)
    x, y = a.array, b.array
    try:
        return a, b, x, y, operation(x, y)
    except ValueError:
        _check_shapes(name, x, y)
        raise


def _operands(name, a, b):
    """Both operands as tensors, at least one of them with an array, and both on one device."""
    if not isinstance(a, Tensor):
        a = _constant(a, b) if isinstance(b, Tensor) else as_tensor(a)
    if not isinstance(b, Tensor):
        b = _constant(b, a)
    if type(a.array) is not type(b.array):
        _check_devices(name, a, b)
    return a, b


def _constant(value, other):
    """An operand that is not a tensor as one without a past; `other` is the other operand.

    Numbers stay numbers in it, so that numpy's own rules decide about the dtype, and so that they
    fit any device.
    """
    if not isinstance(value, NUMBER):
        return as_tensor(value)
    constant = Tensor.__new__(Tensor)
    constant.array = _weak(value, other.array)
    constant.node = None
    return constant


def _weak(number, x):
    """A number as one of Python's, which takes the dtype of the array x where it meets it.

    One of numpy's that would change x in kind anyway (a float beside integers) stays numpy's.
    """
    if isinstance(number, np.generic):
        kind = number.dtype.kind
        if kind not in WEAK:
            raise TypeError(f"a tensor holds numbers, got {number!r} of dtype {number.dtype}")
        if RANKS[kind] > RANKS[x.dtype.kind]:
            return number
        number = WEAK[kind](number)
    # numpy would make float32 of bfloat16 and a Python float.
    if type(number) is float and x.dtype.kind == "V":
        return x.dtype.type(number)
    return number


def _check_devices(name, *operands):
    arrays = [tensor for tensor in operands if not isinstance(tensor.array, NUMBER)]
    if len(arrays) > 1:
        check_same_device(name, *arrays)


def _check_shapes(name, *arrays):
    """Raise ValueError naming the operation where shapes do not broadcast."""
    shapes = [np.shape(array) for array in arrays]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(
            f"{name}: shapes {' and '.join(map(str, shapes))} do not fit together; counted from "
            "the last, lengths must be equal or 1"
        ) from None


def record_two(
    out: Any, a: Tensor, b: Tensor, gradient_of_a: Callable, gradient_of_b: Callable
) -> Tensor:
    """Record an operation on two inputs, undoing what broadcasting did to each.

    Where a gradient is not wanted, its function is dropped, and the arrays it holds with it.
    """
    if a.node is None:
        if b.node is None:
            return wrap(out)
        shape, dtype = b.array.shape, b.array.dtype
        return record(out, (a, b), lambda dy: (None, _fit(gradient_of_b(dy), shape, dtype)))
    shape, dtype = a.array.shape, a.array.dtype
    if b.node is None:
        return record(out, (a, b), lambda dy: (_fit(gradient_of_a(dy), shape, dtype), None))
    shape_b, dtype_b = b.array.shape, b.array.dtype
    return record(
        out,
        (a, b),
        lambda dy: (
            _fit(gradient_of_a(dy), shape, dtype),
            _fit(gradient_of_b(dy), shape_b, dtype_b),
        ),
    )


def _fit(grad, shape, dtype):
    """A gradient in its input's shape and dtype: what numpy made wider is made narrow again."""
    if grad.shape != shape:
        grad = unbroadcast(grad, shape)
    return grad if grad.dtype == dtype else grad.astype(dtype)


def _same(dy):
    return dy


def in_floating_point(x: Any) -> Any:
    """x, or integers as float64: unsigned ones have no negative, and small ones overflow."""
    return x if is_floating(x.dtype) else x.astype(np.float64)


def _slope_of_base(x, y):
    """b·a^(b-1), which is 0 for b = 0 whatever a is (0·0^-1 and 0·inf would be NaN)."""
    if isinstance(y, NUMBER):
        return array_module(x).zeros_like(x) if y == 0 else y * x ** (y - 1)
    xp = array_module(y)
    return xp.where(y == 0, 0, y * x ** (xp.where(y == 0, 1, y) - 1))


def _slope_of_exponent(x, out):
    """a^b·log a, and 0 where a = 0, or a^b = 0, and stays 0 when b moves a little."""
    xp = array_module(out)
    flat = (x == 0) | (out == 0)
    return xp.where(flat, 0, out) * xp.log(xp.where(flat, 1, x))


def _choose(name, choice, wins, a, b):
    """maximum or minimum: the gradient goes to the winner, half of it to each where tied."""
    a, b, x, y, out = apply_two(name, choice, a, b)
    xp = array_module(out)

    def share(dy, won):
        return select(xp, won, dy, select(xp, x == y, 0.5 * dy, 0))

    return record_two(out, a, b, lambda dy: share(dy, wins(x, y)), lambda dy: share(dy, wins(y, x)))


def _bound(value, x):
    """A bound of clip as an array, a number or None."""
    if value is None:
        return None
    if isinstance(value, NUMBER):
        return _weak(value, x)
    value = as_tensor(value)
    if value.requires_grad:
        raise TypeError(
            "clip has no gradient for its bounds; use maximum(a, low) and minimum(a, high)"
        )
    return value.array


# W. J. Cody, "Rational Chebyshev approximations for the error function", Mathematics of
# Computation 23 (1969): quotients of polynomials, highest power first.
TWO_OVER_ROOT_PI = 1.1283791670955126
# erf(x) / x in x², for |x| <= 0.46875
INNER_TOP = (
    1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2,
    3.77485237685302021e2, 3.20937758913846947e3,
)  # fmt: skip
INNER_BOTTOM = (
    1.0, 2.36012909523441209e1, 2.44024637934444173e2,
    1.28261652607737228e3, 2.84423683343917062e3,
)  # fmt: skip
# (1 - erf(x)) · e^(x²) in x, for 0.46875 <= x; above 6, erf is 1 to the last bit
OUTER_TOP = (
    2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0,
    6.61191906371416295e1, 2.98635138197400131e2, 8.81952221241769090e2,
    1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3,
)  # fmt: skip
OUTER_BOTTOM = (
    1.0, 1.57449261107098347e1, 1.17693950891312499e2,
    5.37181101862009858e2, 1.62138957456669019e3, 3.29079923573345963e3,
    4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3,
)  # fmt: skip


def _erf(xp, x):
    dtype = x.dtype
    x = in_float32(in_floating_point(x))
    near = xp.clip(x, -0.46875, 0.46875)
    inner = near * _polynomial(INNER_TOP, near * near) / _polynomial(INNER_BOTTOM, near * near)
    far = xp.minimum(xp.abs(x), 6)
    tail = xp.exp(-far * far) * _polynomial(OUTER_TOP, far) / _polynomial(OUTER_BOTTOM, far)
    out = xp.where(xp.abs(x) <= 0.46875, inner, xp.sign(x) * (1 - tail))
    return out.astype(dtype) if is_half(dtype) else out


def _polynomial(coefficients, x):
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value
