"""cuBLASLt itself, as far as it works without a GPU: its numbers, and what it keeps of a Problem.

It needs NVIDIA's library, 444 MB, and runs in an environment of its own: hatch run cuda:test.
"""

import ast
import ctypes
import operator
import re
from pathlib import Path

import pytest

from tricycle_autograd import cublaslt as lt

NAMES = {
    "CUDA_R_32F": lt.TYPES["float32"],
    "CUDA_R_16BF": lt.TYPES["bfloat16"],
    "CUBLAS_COMPUTE_32F": lt.COMPUTE_FLOAT,
    "CUBLASLT_MATMUL_DESC_TRANSA": lt.TRANSPOSE_A[0],
    "CUBLASLT_MATMUL_DESC_TRANSB": lt.TRANSPOSE_B[0],
    "CUBLASLT_MATMUL_DESC_EPILOGUE": lt.EPILOGUE[0],
    "CUBLASLT_MATMUL_DESC_BIAS_POINTER": lt.BIAS_POINTER[0],
    "CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE": lt.BIAS_TYPE[0],
    "CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER": lt.AUX_POINTER[0],
    "CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD": lt.AUX_STEP[0],
    "CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE": lt.AUX_TYPE[0],
    "CUBLASLT_MATRIX_LAYOUT_ROWS": lt.ROWS[0],
    "CUBLASLT_MATRIX_LAYOUT_COLS": lt.COLUMNS[0],
    "CUBLASLT_MATRIX_LAYOUT_LD": lt.STEP[0],
    "CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES": lt.MOST_WORKSPACE[0],
    "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES": lt.ALIGNMENTS[0][0],
    "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES": lt.ALIGNMENTS[1][0],
    "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES": lt.ALIGNMENTS[2][0],
    "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES": lt.ALIGNMENTS[3][0],
    "CUBLASLT_EPILOGUE_DEFAULT": lt.DEFAULT,
    "CUBLASLT_EPILOGUE_BIAS": lt.ADD_BIAS,
    "CUBLASLT_EPILOGUE_GELU_AUX_BIAS": lt.GELU_AUX_BIAS,
    "CUBLASLT_EPILOGUE_DGELU": lt.D_GELU,
}


def headers():
    """The text of cuBLASLt's headers, which lie beside it, and of the one for cudaDataType."""
    folder = Path(lt.library()._name).parents[1] / "include"
    names = ("cublasLt.h", "cublas_api.h", "library_types.h")
    return "".join((folder / name).read_text(errors="ignore") for name in names)


def declarations():
    """The same without comments."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", headers(), flags=re.DOTALL)


OPERATORS = {ast.BitOr: operator.or_, ast.LShift: operator.lshift, ast.Add: operator.add}


def value_of(text, known):
    """A constant of C's as a number: "1 << 7", "A | 32"; None for anything else."""

    def number(node):
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](number(node.left), number(node.right))
        return known[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)

    try:
        return number(ast.parse(text.strip(), mode="eval").body)
    except (KeyError, SyntaxError, ValueError, TypeError):
        return None


def test_every_number_is_the_headers():
    known = {}
    for name, text in re.findall(r"\b(CU\w+)\s*=\s*([^,}]+)", declarations()):
        known[name] = value_of(text, known)
    assert {name: known[name] for name in NAMES} == NAMES


def test_structures_are_as_large_as_the_headers_say():
    assert re.search(r"uint64_t data\[8\];\s*}\s*cublasLtMatmulAlgo_t;", declarations())
    fields = re.search(r"{([^{}]*)}\s*cublasLtMatmulHeuristicResult_t;", declarations()).group(1)
    declared = re.findall(r"(\w+) (\w+)(?:\[(\d)\])?;", fields)
    assert [name for name, *_ in declared] == [
        *("cublasLtMatmulAlgo_t", "size_t", "cublasStatus_t", "float", "int")
    ]
    assert [count for *_, count in declared] == ["", "", "", "", "4"]
    assert ctypes.sizeof(lt.Algorithm) == 64 and ctypes.sizeof(lt.Proposal) == 96


def test_the_header_has_a_condition_on_the_rows_of_gelus_input():
    said = rf"CUBLASLT_EPILOGUE_GELU_AUX_BIAS[^/]*Must be divisible by {lt.AUX_STEP_DIVISOR} "
    assert re.search(said, headers())


IN_ROWS = lt.Operand(3072, False, 256)
IN_COLUMNS = lt.Operand(768, True, 16)
EPILOGUES = {
    lt.DEFAULT: {},
    lt.ADD_BIAS: {"bias": 32},
    lt.GELU_AUX_BIAS: {"bias": 32, "aux": IN_ROWS},
    lt.D_GELU: {"aux": IN_ROWS},
}


def problem(epilogue, types=("bfloat16", "bfloat16")):
    a = lt.Operand(768, False, 64)
    more = EPILOGUES[epilogue]
    return lt.Problem(64, 3072, 768, types, IN_ROWS, a, IN_COLUMNS, epilogue=epilogue, **more)


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_descriptors_read_back(epilogue):
    def read(attribute):
        return lt.get_attribute("MatmulDesc", made, attribute)

    made = problem(epilogue).descriptor()
    assert read(lt.EPILOGUE) == epilogue
    assert (read(lt.TRANSPOSE_A), read(lt.TRANSPOSE_B)) == (1, 0)
    if "bias" in EPILOGUES[epilogue]:
        lt.set_attribute("MatmulDesc", made, lt.BIAS_POINTER, 0x7F0000001000)
        assert read(lt.BIAS_POINTER) == 0x7F0000001000
        assert read(lt.BIAS_TYPE) == lt.TYPES["bfloat16"]
    if "aux" in EPILOGUES[epilogue]:
        lt.set_attribute("MatmulDesc", made, lt.AUX_POINTER, 0x7F0000002000)
        assert read(lt.AUX_POINTER) == 0x7F0000002000
        assert (read(lt.AUX_STEP), read(lt.AUX_TYPE)) == (3072, lt.TYPES["bfloat16"])


def test_layouts_read_back_as_our_b_a_and_out():
    read = [
        [lt.get_attribute("MatrixLayout", layout, what) for what in (lt.ROWS, lt.COLUMNS, lt.STEP)]
        for layout in problem(lt.DEFAULT).layouts()
    ]
    assert read == [[768, 3072, 768], [768, 64, 768], [3072, 64, 3072]]


def test_preferences_read_back():
    made = problem(lt.DEFAULT).preference()
    read = [lt.get_attribute("MatmulPreference", made, attribute) for attribute in lt.ALIGNMENTS]
    assert read == [16, 64, 256, 256]
    assert lt.get_attribute("MatmulPreference", made, lt.MOST_WORKSPACE) == 32 << 20


def test_what_the_library_refuses_is_an_error_with_its_words():
    made = problem(lt.DEFAULT).descriptor()
    too_large = (lt.EPILOGUE[0], ctypes.c_uint64)
    with pytest.raises(lt.ProductError, match="SetAttribute: CUBLAS_STATUS_INVALID_VALUE"):
        lt.set_attribute("MatmulDesc", made, too_large, 1)


def test_the_version_is_one_whose_numbers_were_compared():
    assert lt.library().cublasLtGetVersion() // 10000 == 13
