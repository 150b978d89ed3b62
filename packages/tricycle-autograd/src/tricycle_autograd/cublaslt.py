"""Matrix products on the GPU: cuBLASLt, NVIDIA's library for them, called through ctypes.

    product(out, a, b)                          out = a @ b
    product(out, a, b.T, add=True)              out += a @ b.T
    product(out, a, b, bias=bias)               out = a @ b + bias
    product(out, a, b, bias=bias, gelu_of=x)    x = a @ b + bias;  out = gelu(x)
    product(out, a, b, d_gelu_at=x)             out = (a @ b) * gelu'(x)

bfloat16 operands are added up in float32, and rounded once, or not at all where `out` is float32.
float32 operands are multiplied in float32, without TF32's short cut.  GELU is GPT-2's, by tanh.

cuBLASLt counts columns first.  A matrix in rows is, read that way, its own transpose; and since
(a b)ᵀ = bᵀ aᵀ, it is given b as its left operand and a as its right one, and nothing is moved.
What it does for each row of its result, add a bias, is then done for each of our columns.

A `Problem` is a kind of product, a `Plan` all that is decided once for it: descriptors, and which
of the library's algorithms.  That is the first proposal of the library itself.  A stopwatch could
choose a faster one, but two runs could then choose differently, and their last bits with them.  So
another choice is made by a measurement that is written down (product_choices.py), never on the
way.

Plans, and the memory in which the library works, are made at a product's first call.  Neither may
happen while a graph is captured: run what is captured once before, on the same stream.

On the emulated GPU, numpy does what the library promises of a Problem: product_emulated.py.

The numbers are those of cublasLt.h, 12 and 13; a test compares them.  Source: NVIDIA, cuBLAS,
"Using the cuBLASLt API".
"""

import ctypes
from ctypes import byref, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tricycle_autograd.modes import count_flops

TYPES = {"float32": 0, "bfloat16": 14}  # cudaDataType: CUDA_R_32F, CUDA_R_16BF
FLOAT = TYPES["float32"]
COMPUTE_FLOAT = 68  # cublasComputeType_t: CUBLAS_COMPUTE_32F
# cublasLtMatmulDescAttributes_t: the number of each attribute, and its type
TRANSPOSE_A, TRANSPOSE_B = (3, c_int32), (4, c_int32)
EPILOGUE, BIAS_POINTER = (7, c_uint32), (8, c_void_p)
AUX_POINTER, AUX_STEP = (11, c_void_p), (12, c_int64)
AUX_TYPE, BIAS_TYPE = (22, c_int32), (26, c_int32)
# cublasLtMatrixLayoutAttribute_t
ROWS, COLUMNS, STEP = (2, c_uint64), (3, c_uint64), (4, c_int64)
# cublasLtMatmulPreferenceAttributes_t; alignments of its A, B, C and D
MOST_WORKSPACE = (1, c_uint64)
ALIGNMENTS = ((5, c_uint32), (6, c_uint32), (7, c_uint32), (8, c_uint32))
# cublasLtEpilogue_t: what is done to a result on its way out
DEFAULT, ADD_BIAS, GELU_AUX_BIAS, D_GELU = 1, 4, 164, 192
WORKSPACE = 32 << 20  # bytes: what NVIDIA advises for Hopper
MOST_ALIGNED = 256  # bytes: nothing asks for more
AUX_STEP_DIVISOR = 8  # numbers, says the header
PROPOSALS = 8  # that the library is asked for


class ProductError(RuntimeError):
    """What cuBLASLt has against a product."""


class Algorithm(ctypes.Structure):
    """cublasLtMatmulAlgo_t: 64 bytes, which stay valid for one version of the library."""

    _fields_ = (("data", c_uint64 * 8),)


class Proposal(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", Algorithm),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


@lru_cache
def library() -> ctypes.CDLL:
    """libcublasLt, wherever pip, conda or the system has put it.

    Raises ImportError where the package that looks for it is missing.
    """
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib
    except ImportError as error:
        raise ImportError(
            "products on the GPU need cuBLASLt and cuda-pathfinder, which finds it; install the "
            "extra that fits your driver: tricycle-autograd[cuda12] or tricycle-autograd[cuda13]"
        ) from error
    lib = ctypes.CDLL(load_nvidia_dynamic_lib("cublasLt").abs_path)
    lib.cublasLtGetStatusName.restype = ctypes.c_char_p
    lib.cublasLtGetVersion.restype = c_size_t
    for name, arguments in SIGNATURES.items():
        getattr(lib, f"cublasLt{name}").argtypes = arguments
    return lib


ATTRIBUTE = [c_void_p, c_int, c_void_p, c_size_t]  # of what, which, value, its size
SIGNATURES = {
    "Create": [c_void_p],
    "MatmulDescCreate": [c_void_p, c_int, c_int],
    "MatmulDescSetAttribute": ATTRIBUTE,
    "MatmulDescGetAttribute": [*ATTRIBUTE, c_void_p],
    "MatrixLayoutCreate": [c_void_p, c_int, c_uint64, c_uint64, c_int64],
    "MatrixLayoutGetAttribute": [*ATTRIBUTE, c_void_p],
    "MatmulPreferenceCreate": [c_void_p],
    "MatmulPreferenceSetAttribute": ATTRIBUTE,
    "MatmulPreferenceGetAttribute": [*ATTRIBUTE, c_void_p],
    "MatmulAlgoGetHeuristic": [c_void_p] * 7 + [c_int, c_void_p, c_void_p],
    "MatmulAlgoCheck": [c_void_p] * 8,
    # handle, descriptor, alpha, A and layout, B and layout, beta, C and layout, D and layout,
    # algorithm, workspace and its size, stream
    "Matmul": [c_void_p] * 13 + [c_size_t, c_void_p],
}


def call(name: str, *arguments: Any) -> None:
    """Call a function of the library; ProductError unless it succeeds."""
    status = getattr(library(), f"cublasLt{name}")(*arguments)
    if status:
        raise ProductError(f"cublasLt{name}: {library().cublasLtGetStatusName(status).decode()}")


def made(name: str, *arguments: Any) -> c_void_p:
    """What a function of the library that makes something has made."""
    place = c_void_p()
    call(name, byref(place), *arguments)
    return place


def set_attribute(kind: str, thing: Any, attribute: tuple, value: Any) -> None:
    """Set one of the attributes of a MatmulDesc or a MatmulPreference."""
    number, c_type = attribute
    value = c_type(value)
    call(f"{kind}SetAttribute", thing, number, byref(value), ctypes.sizeof(c_type))


def get_attribute(kind: str, thing: Any, attribute: tuple) -> Any:
    """Read one back."""
    number, c_type = attribute
    value, written = c_type(), c_size_t()
    size = ctypes.sizeof(c_type)
    call(f"{kind}GetAttribute", thing, number, byref(value), size, byref(written))
    return value.value


@lru_cache
def handle(device: int) -> c_void_p:
    """The library's state for a GPU, by its number; it is the current one."""
    return made("Create")


@dataclass(frozen=True)
class Operand:
    """How a matrix lies in memory.

    step        numbers from one row to the next, or from one column where it is transposed
    transposed  whether it lies in columns
    aligned     bytes: the largest power of two, to 256, that its address is a multiple of
    """

    step: int
    transposed: bool
    aligned: int


@dataclass(frozen=True)
class Problem:
    """A kind of product: out (M, N) = a (M, K) @ b (K, N).

    types       names of the dtypes of out, and of a and b
    epilogue    what is done to the result on its way out
    bias        the alignment of a bias in bytes, 0 for none
    aux         how GELU's input lies, or None
    """

    M: int
    N: int
    K: int
    types: tuple[str, str]
    out: Operand
    a: Operand
    b: Operand
    epilogue: int = DEFAULT
    bias: int = 0
    aux: Operand | None = None

    def matrices(self) -> list[tuple[int, int, int, int]]:
        """The library's A, B and D: type, rows, columns, step from one column to the next.

        They are our b, a and out, whose rows it takes for columns.
        """
        out_type, type_ = (TYPES[name] for name in self.types)
        b = (self.K, self.N) if self.b.transposed else (self.N, self.K)
        a = (self.M, self.K) if self.a.transposed else (self.K, self.M)
        return [
            (type_, *b, self.b.step),
            (type_, *a, self.a.step),
            (out_type, self.N, self.M, self.out.step),
        ]

    def layouts(self) -> list[c_void_p]:
        """The same, as the library wants them."""
        return [made("MatrixLayoutCreate", *matrix) for matrix in self.matrices()]

    def descriptor(self) -> c_void_p:
        """What is to be done, but for the addresses of bias and aux."""
        new = made("MatmulDescCreate", COMPUTE_FLOAT, FLOAT)
        settings = {
            TRANSPOSE_A: int(self.b.transposed),
            TRANSPOSE_B: int(self.a.transposed),
            EPILOGUE: self.epilogue,
        }
        if self.bias:
            settings[BIAS_TYPE] = TYPES[self.types[0]]
        if self.aux is not None:
            settings |= {AUX_STEP: self.aux.step, AUX_TYPE: TYPES[self.types[1]]}
        for attribute, value in settings.items():
            set_attribute("MatmulDesc", new, attribute, value)
        return new

    def preference(self) -> c_void_p:
        """What its algorithms may take for granted: memory to work in, and alignments."""
        new = made("MatmulPreferenceCreate")
        set_attribute("MatmulPreference", new, MOST_WORKSPACE, WORKSPACE)
        aligned = (self.b.aligned, self.a.aligned, self.out.aligned, self.out.aligned)
        for attribute, value in zip(ALIGNMENTS, aligned, strict=True):
            set_attribute("MatmulPreference", new, attribute, value)
        return new


class Plan:
    """How a kind of product is done on a GPU.

    bias, aux  addresses of such arrays, whose alignment the library looks at
    device     the number of the GPU, which is the current one
    """

    def __init__(self, problem: Problem, bias: int, aux: int, device: int):
        self.problem = problem
        self.handle = handle(device)
        self.descriptor = problem.descriptor()
        self.layouts = problem.layouts()
        self.point_to(bias, aux)
        self.algorithm = self._chosen() or self.proposals()[0].algorithm

    def proposals(self) -> list[Proposal]:
        """The library's proposals, the one that it expects most of first; at least one."""
        found, n = (Proposal * PROPOSALS)(), c_int()
        A, B, D = self.layouts
        preference = self.problem.preference()
        kind = (self.handle, self.descriptor, A, B, D, D, preference)
        call("MatmulAlgoGetHeuristic", *kind, PROPOSALS, found, byref(n))
        good = [proposal for proposal in found[: n.value] if proposal.state == 0]
        if not good:
            raise ProductError(f"cuBLASLt knows no algorithm for {self.problem}")
        return good

    def _chosen(self):
        """The algorithm that was written down for this GPU, version and problem, or None."""
        from tricycle_autograd import product_choices

        data = product_choices.read(library().cublasLtGetVersion(), self.problem)
        if data is None:
            return None
        algorithm = Algorithm.from_buffer_copy(data)
        A, B, D = self.layouts
        kind = (self.handle, self.descriptor, A, B, D, D, byref(algorithm))
        call("MatmulAlgoCheck", *kind, byref(Proposal()))
        return algorithm

    def point_to(self, bias: int, aux: int) -> None:
        """Where bias and aux are this time."""
        if self.problem.bias:
            set_attribute("MatmulDesc", self.descriptor, BIAS_POINTER, bias)
        if self.problem.aux is not None:
            set_attribute("MatmulDesc", self.descriptor, AUX_POINTER, aux)

    def run(self, out: int, a: int, b: int, add: bool, workspace: int, stream: int) -> None:
        """Start the product on a stream; all but `add` are addresses."""
        A, B, D = self.layouts
        alpha, beta = c_float(1), c_float(1 if add else 0)
        inputs = (byref(alpha), b, A, a, B, byref(beta), out, D, out, D)
        how = (byref(self.algorithm), workspace, WORKSPACE, stream)
        call("Matmul", self.handle, self.descriptor, *inputs, *how)


plans: dict[tuple[int, Problem], Plan] = {}
workspaces: dict[
    tuple[int, int], Any
] = {}  # by GPU and stream, on which products follow each other


def product(
    out: Any,
    a: Any,
    b: Any,
    add: bool = False,
    *,
    bias: Any = None,
    gelu_of: Any = None,
    d_gelu_at: Any = None,
) -> None:
    """Write a @ b, or add it, to `out`: matrices on "cuda".

    out        (M, N), in rows: bfloat16, or float32 whatever a and b are
    a, b       (M, K) and (K, N), both bfloat16 or both float32, in rows or in columns (w.T);
               rows and columns may be apart, as those of a slice are
    add        add to what out holds
    bias       (N,), added to each row; of out's dtype
    gelu_of    (M, N) of a's dtype: gets a @ b + bias, and out its GELU
    d_gelu_at  (M, N) of a's dtype: out becomes the product times GELU's slope there

    Raises ValueError for shapes and layouts, and TypeError for dtypes, that do not fit;
    ProductError for what the library refuses.
    """
    aux = d_gelu_at if gelu_of is None else gelu_of
    _check(out, a, b, bias, aux)
    count_flops(2 * out.size * a.shape[1])
    if out.size == 0:
        return
    if a.shape[1] == 0:  # a sum of nothing
        if not add:
            out[...] = 0 if bias is None else bias
        return
    problem = problem_of(out, a, b, bias, gelu_of, d_gelu_at)
    if isinstance(out, np.ndarray):  # emulated
        from tricycle_autograd.product_emulated import run
        from tricycle_autograd.testing_device import row

        row.do(lambda: run(problem, out, a, b, add, bias, aux))
    else:
        _run_on_gpu(problem, out, a, b, add, bias, aux)


def _run_on_gpu(problem, out, a, b, add, bias, aux):
    import cupy

    device, stream = cupy.cuda.Device().id, cupy.cuda.get_current_stream().ptr
    bias, aux = (0 if array is None else array.data.ptr for array in (bias, aux))
    plan = plans.get((device, problem))
    if plan is None:
        plan = plans[device, problem] = Plan(problem, bias, aux, device)
    plan.point_to(bias, aux)
    if (device, stream) not in workspaces:
        workspaces[device, stream] = cupy.empty(WORKSPACE, "uint8")
    workspace = workspaces[device, stream].data.ptr
    plan.run(out.data.ptr, a.data.ptr, b.data.ptr, add, workspace, stream)


def problem_of(
    out: Any, a: Any, b: Any, bias: Any = None, gelu_of: Any = None, d_gelu_at: Any = None
) -> Problem:
    """The Problem that a product's arguments, of shapes that fit, are an instance of."""
    if (gelu_of is not None and bias is None) or (d_gelu_at is not None and bias is not None):
        raise ValueError("product has gelu_of with a bias, and d_gelu_at without one")
    aux = d_gelu_at if gelu_of is None else gelu_of
    epilogue = DEFAULT if bias is None else ADD_BIAS
    if aux is not None:
        epilogue = D_GELU if gelu_of is None else GELU_AUX_BIAS
    (M, K), N = a.shape, b.shape[1]
    problem = Problem(
        *(M, N, K, (out.dtype.name, a.dtype.name)),
        *(_operand("out", out), _operand("a", a), _operand("b", b)),
        epilogue=epilogue,
        bias=0 if bias is None else _alignment(bias),
        aux=None if aux is None else _operand("GELU's input", aux),
    )
    _check_layout(problem, out.shape)
    return problem


def _check(out, a, b, bias, aux):
    if not out.ndim == a.ndim == b.ndim == 2 or (
        out.shape != (a.shape[0], b.shape[1]) or a.shape[1] != b.shape[0]
    ):
        shapes = ", ".join(str(array.shape) for array in (out, a, b))
        raise ValueError(f"product wants shapes (M, N), (M, K), (K, N), got {shapes}")
    types = [array.dtype.name for array in (out, a, b)]
    if types[1] not in TYPES or types[1] != types[2] or types[0] not in ("float32", types[1]):
        raise TypeError(
            "product wants a and b in bfloat16, and out in bfloat16 or float32; or all three in "
            f"float32; got out {types[0]}, a {types[1]}, b {types[2]}"
        )
    if bias is not None and (bias.shape != out.shape[1:] or bias.dtype != out.dtype):
        raise ValueError(
            f"product wants a bias of shape {out.shape[1:]} and out's dtype {types[0]}, got "
            f"{bias.shape} and {bias.dtype}"
        )
    if aux is not None and (aux.shape != out.shape or aux.dtype != a.dtype):
        raise ValueError(
            f"product wants GELU's input in out's shape and a's dtype, {out.shape} and {types[1]}, "
            f"got {aux.shape} and {aux.dtype}"
        )


def _check_layout(problem, shape):
    """What lies along its rows in any case; cuBLASLt has a condition of its own on aux."""
    if problem.out.transposed:
        raise ValueError("product writes rows, and the numbers of out's are not neighbours")
    if problem.aux is not None and (problem.aux.transposed or problem.aux.step % AUX_STEP_DIVISOR):
        raise ValueError(
            f"cuBLASLt wants the rows of GELU's input a multiple of {AUX_STEP_DIVISOR} numbers "
            f"apart, got an array of shape {shape}, {problem.aux.step} apart"
        )


def _operand(name, array):
    """How a matrix lies; the step along an axis of length 1 says nothing."""
    rows, columns = array.shape
    row, column = (stride // array.itemsize for stride in array.strides)
    in_rows = column == 1 or columns <= 1
    step = (row if rows > 1 else columns) if in_rows else (column if columns > 1 else rows)
    if not (in_rows or row == 1 or rows <= 1) or step < (columns if in_rows else rows):
        raise ValueError(
            f"product wants {name} with neighbours in memory along its rows or its columns, got "
            f"shape {array.shape} with strides {array.strides}: pass a copy"
        )
    return Operand(max(step, 1), not in_rows, _alignment(array))


def _alignment(array):
    """The largest power of two, up to 256, that divides an array's address."""
    address = array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
    return min(address & -address, MOST_ALIGNED)
