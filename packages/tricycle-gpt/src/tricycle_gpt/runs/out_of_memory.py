"""What to do when a step found no memory: the batch that fits is looked for, by trying."""

from tricycle_gpt.config import TrainingConfig
from tricycle_gpt.model import GPT
from tricycle_gpt.runs.memory_readers import memory_of
from tricycle_gpt.runs.trial_steps import peak_of_batch, run_batch


def out_of_memory(network: GPT, training: TrainingConfig, step: int) -> str:
    """What to say, and to do, when a step found no memory."""
    memory_of(network.head_weight.device).give_back()
    said = f"there was none for step {step + 1}; the weights were left as they were. "
    windows = batch_that_fits(network, training.batch_size)
    if not windows:
        return said + (
            "Not even one window of text fits: choose fewer layers, a smaller width or "
            "vocabulary, or a shorter context window"
        )
    micro_batches = training.micro_batches * training.batch_size // windows
    return said + (
        f"{windows} windows at once fit: --training.batch-size {windows} --training.micro-batches "
        f"{micro_batches} makes steps of the same size, in a run of its own"
    )


def batch_that_fits(network: GPT, most: int) -> int:
    """How many windows at once there is memory for: the largest proper divisor of `most` for which
    a forward and backward pass succeeds; 0 if there is none."""
    try:
        first, second = (peak_of_batch(network, windows) for windows in (1, 2))
    except MemoryError:
        return 0
    free = memory_of(network.head_weight.device).free
    for windows in range(most - 1, 0, -1):
        # A system that promises more memory than it has would end us for taking it.
        if most % windows or first + (windows - 1) * (second - first) > free():
            continue
        try:
            run_batch(network, windows)
            return windows
        except MemoryError:
            pass
    return 0
