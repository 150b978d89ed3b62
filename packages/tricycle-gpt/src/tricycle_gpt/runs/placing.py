"""Where a run works: on the processor, or on a GPU if one is asked for and works.

    device = settle("auto")      "cuda" or "cpu"; says so where it is a GPU, or could have been
    place(model, device)         in bfloat16 on a GPU

On a GPU parameters and activations are bfloat16 numbers, and the optimiser keeps parameters in
float32 besides (its masters), which are what a checkpoint holds: one that was written on either
device opens on the other.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from tricycle_autograd.gpu import (
    NoGPUError,
    choose_device,
    gpu_roof,
    n_gpus,
    nccl_library,
    the_gpu,
    why_no_gpu,
    why_not_imported,
)
from tricycle_autograd.profiling import measured_peak_flops
from tricycle_gpt.runs.command_line import say
from tricycle_gpt.runs.distributed import Alone, Communicator
from tricycle_gpt.runs.resuming import device_of_run
from tricycle_nn import Module

NOT_SEEN_YET = (
    "its kernels were tested on a GPU made of numpy, and nobody has run them on a real one: "
    "--device cpu is the proven way"
)
MEASURED = 0.7  # seconds for each size of product, on a processor


def settle(
    asked: str, communicator: Communicator | None = None, resumed: Path | None = None
) -> Literal["cpu", "cuda"]:
    """The device to work on, "cpu" or "cuda"; rank 0 says which GPU it is, or why none works.

    asked         "cpu", "cuda", or "auto" for "cuda" where a GPU works
    communicator  the ranks that work together: all on processors, or each on a GPU of its own,
                  which becomes its current one
    resumed       the folder of a run that is to go on

    Where cupy is not installed nobody expects a GPU, and "auto" says nothing.  Raises NoGPUError,
    saying what to do, for "cuda" where no GPU works, and for "auto" where a run of a GPU's would go
    on without one.
    """
    ranks = communicator or Alone()
    device = choose_device(asked, ranks.place)  # which says what is wrong with the word
    if asked == "cpu":
        return device
    reason = why_not_together(ranks) if device == "cuda" else why_no_gpu(ranks.place)
    if ranks.any(reason is not None):
        reason = reason or "another rank has none"
        if asked == "cuda":
            raise NoGPUError(f"{reason} (--device cpu works without GPUs)")
        if resumed is not None and device_of_run(resumed) == "cuda":
            raise NoGPUError(
                f"the run in {resumed} was on a GPU, and none works here: {reason}. --device cpu "
                "goes on on the processor, slower and in float32"
            )
        if ranks.rank == 0 and why_not_imported("cupy") is None:
            say(f"working on the processor: {reason}")
        return "cpu"
    if ranks.rank == 0:
        say(f"working on {the_gpu()}; {NOT_SEEN_YET}")
    return device


def why_not_together(ranks: Communicator) -> str | None:
    """What keeps these ranks from working on GPUs, each on its own; None where nothing does."""
    if ranks.size == 1:
        return None
    if ranks.neighbours > n_gpus():
        return (
            f"mpiexec started {ranks.neighbours} ranks on a machine with {n_gpus()} GPU(s), and "
            f"each rank needs one of its own: start {n_gpus()} there"
        )
    try:
        nccl_library()
    except ImportError as error:
        return str(error)
    return None


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
