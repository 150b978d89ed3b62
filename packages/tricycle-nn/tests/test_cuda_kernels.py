"""What holds for every .cu file of ours: it fits into registers, it moves no more than it needs."""

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import tricycle_nn
from tricycle_autograd import Tensor, nvrtc
from tricycle_autograd.cuda import watched_launches
from tricycle_autograd.fused import registry
from tricycle_autograd.testing import draw
from tricycle_autograd.testing_device import emulated
from tricycle_nn import add_layer_norm, add_rms_norm, layer_norm, rms_norm

pytestmark = pytest.mark.skipif(not nvrtc.is_there(), reason="NVRTC is not installed")

ROOM = Path(tricycle_nn.__file__).parent
# Those without kernels for the GPU yet.  Whoever writes them takes the name out.
MISSING = ""
# GPUs: H100; and A100, RTX 30, RTX 40, B200, RTX 50 where there is time, for each takes a minute.
ARCHITECTURES = ["sm_90a"]
if os.environ.get("TRICYCLE_TEST_LONG") == "1":
    ARCHITECTURES += ["sm_80", "sm_86", "sm_89", "sm_100a", "sm_120"]
# The constants of each file, at sizes we train: nothing spills there.
TRAINED: dict[str, list[dict[str, int]]] = {
    "adamw.cu": [{}],
    "attention.cu": [
        {"HEAD": 64, "CAUSAL": 1, "ROWS": 64, "TILE": 64},
        {"HEAD": 128, "CAUSAL": 1, "ROWS": 64, "TILE": 32},
    ],
    "attention_one_query.cu": [{"HEAD": 64, "QUERIES": 4, "CHUNK": 128}],
    "clipping.cu": [{"CHUNK": 65536}],
    "cross_entropy.cu": [{"V": 50257, "THREADS": 1024}],
    "dropout.cu": [{}],
    "embedding.cu": [{"C": 768, "FLOAT_TABLE": 1}, {"C": 768, "FLOAT_TABLE": 0}],
    "gelu.cu": [{}],
    "layer_norm.cu": [{"C": 768}, {"C": 1600}],
    "linear.cu": [{"C": 768}, {"C": 3072}],
    "linear_cross_entropy.cu": [{"V": 50257, "THREADS": 1024}],
    "muon.cu": [{}],
    "optimiser.cu": [{}],
    "relu.cu": [{}],
    "rms_norm.cu": [{"C": 768}],
    "rotary.cu": [{"D": 64}],
    "softmax.cu": [{"LANES": 32}, {"LANES": 512}],
    "sgd.cu": [{}],
    "swiglu.cu": [{}],
}
# Those on which nothing may spill.
WITHOUT_SPILLS = ("sm_80", "sm_86", "sm_89", "sm_90a")
# At GPT-2's vocabulary its row does not fit; training runs linear_cross_entropy, whose row does.
MAY_SPILL = {"cross_entropy.cu"}
BF16 = np.dtype(ml_dtypes.bfloat16)


def test_operations_without_gpu_kernels_are_listed():
    ours = [op for name, op in registry.items() if name.startswith("tricycle_nn.")]
    assert {op.__name__ for op in ours if "cuda" not in op.by_device} == set(MISSING.split())


def test_operations_with_gpu_kernels_are_checked():
    texts = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    checks = ("check_on_" + "cuda(", "check_" + "update(")
    checked = [text for text in texts if any(check in text for check in checks)]
    for name, operation in registry.items():
        if name.startswith("tricycle_nn.") and "cuda" in operation.by_device:
            assert any(operation.__name__ in text for text in checked), f"{name} has no check"


def test_every_file_stands_in_the_table_of_sizes():
    assert sorted(TRAINED) == sorted(path.name for path in ROOM.glob("*.cu"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", TRAINED)
def test_kernels_compile_for_every_gpu_and_stay_in_registers(file, architecture):
    for constants in TRAINED[file]:
        kernels = nvrtc.assembled(ROOM / file, architecture, {**constants, "number": "bf16"})
        assert kernels
        for name, found in kernels.items():
            assert 0 < found.registers <= 255, name
            assert found.shared <= 48 << 10, f"{name} takes more than every GPU has"
            if architecture in WITHOUT_SPILLS and file not in MAY_SPILL:
                assert found.spilled == 0, f"{name} of {file} with {constants}: {found}"


# ---- What is moved ----


def launches_of(operation, *arrays, **options):
    """The launches of a training step of an operation in bfloat16, forward and backward."""
    tensors = [Tensor(emulated(array.astype(BF16)), requires_grad=True) for array in arrays]
    with watched_launches() as launches:
        results = operation(*tensors, **options)
        out = results[-1] if isinstance(results, tuple) else results
        out.backward(emulated(draw(*out.shape).astype(BF16)))
    return {launch.name: launch for launch in launches}


def shares_asked_for(launch):
    """Of the bytes that a launch moves to and from memory, how many it wants: by verb."""
    report = launch.report
    return {verb: asked / report.moved[verb] for verb, asked in report.asked.items()}


def conflicts(launch):
    """Turns at shared memory for each access: 1, where no two lanes want the same bank."""
    report = launch.report
    return {verb: report.turns[verb] / times for verb, times in report.accesses.items()}


W, B = draw(768), draw(768, seed=1)
NORMS = [
    (layer_norm, (draw(8, 768), W, B)),
    (add_layer_norm, (draw(8, 768), draw(8, 768, seed=1), W, B)),
    (rms_norm, (draw(8, 768), W)),
    (add_rms_norm, (draw(8, 768), draw(8, 768, seed=1), W)),
]


@pytest.mark.parametrize(("norm", "arrays"), NORMS, ids=lambda x: getattr(x, "__name__", ""))
def test_norms_read_each_row_once_and_move_little_else(norm, arrays):
    launches = launches_of(norm, *arrays)
    assert set(launches) == {"forward", "backward", "add_up"}
    for launch in launches.values():
        assert min(shares_asked_for(launch).values()) > 0.95, launch
        assert max(conflicts(launch).values(), default=1) == 1, launch
    forward, rows = launches["forward"].report, 8 * 768 * 2
    weights = len(arrays[-1]) * 2 * sum(array.ndim == 1 for array in arrays)
    summands = sum(array.ndim == 2 for array in arrays)
    assert forward.asked["reads"] == summands * rows + 8 * weights
    assert rows * summands <= forward.asked["writes"] <= rows * summands + 8 * 2 * 4
