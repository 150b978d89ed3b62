"""Where a run works: on the processor, or on a GPU if one is asked for and works.

    device = settle("auto")      "cuda" or "cpu"; says so where it is a GPU
    place(model, device)         in bfloat16 on a GPU

On a GPU parameters and activations are bfloat16 numbers, and the optimiser keeps parameters in
float32 besides (its masters), which are what a checkpoint holds: one that was written on either
device opens on the other.
"""

import numpy as np

from tricycle_autograd.gpu import choose_device, gpu_roof, take_gpu, the_gpu
from tricycle_autograd.profiling import measured_peak_flops
from tricycle_gpt.runs.command_line import say
from tricycle_nn import Module

NOT_SEEN_YET = (
    "its kernels were tested on a GPU made of numpy, and nobody has run them on a real one: "
    "--device cpu is the proven way"
)
MEASURED = 0.7  # seconds for each size of product, on a processor


def settle(asked: str, quietly: bool = False, place: int = 0) -> str:
    """The device to work on, "cpu" or "cuda"; on a GPU say which it is.

    asked    "cpu", "cuda", or "auto" for "cuda" where a GPU works
    quietly  say nothing
    place    this rank's number among those of its machine, which take its GPUs in turn

    Raises NoGPUError, saying what to do, for "cuda" where no GPU works.
    """
    device = choose_device(asked)
    if device == "cuda":
        take_gpu(place)
        if not quietly:
            say(f"working on {the_gpu()}; {NOT_SEEN_YET}")
    return device


def place(model: Module, device: str) -> None:
    """Move a model to a device, before its optimiser is made."""
    if device == "cuda":
        import ml_dtypes

        model.to("cuda", np.dtype(ml_dtypes.bfloat16))


def peak_flops(device: str) -> float:
    """Operations a second in matrix products: float32 on a processor, bfloat16 on a GPU; measured.

    What a run's mfu is a share of.
    """
    return gpu_roof()[0] if device == "cuda" else measured_peak_flops(MEASURED)
