"""First weights, in GPT-2's way.

Every matrix is drawn from a normal distribution with standard deviation 0.02; biases start at
zero and norms at one.  A block adds to the residual stream twice, so after L blocks 2L random
vectors have been summed and their length has grown by √(2L).  The matrices that write to the
stream are made that much smaller to make up for it.

Source: Radford et al., Language Models are Unsupervised Multitask Learners (2019), 2.3.
"""

import numpy as np

from tricycle_nn import Module

STANDARD_DEVIATION = 0.02
# The last matrix of each branch: what it gives is added to the residual stream.
WRITES_TO_STREAM = ("attention.projection.weight", "mlp.down.weight")


def initialise_like_gpt2(model: Module, n_layers: int, rng: np.random.Generator) -> None:
    """Draw all weights anew, on the CPU, in the order of their names in the model."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            scale = STANDARD_DEVIATION
            if name.endswith(WRITES_TO_STREAM):
                scale /= np.sqrt(2 * n_layers)
            drawn = rng.standard_normal(parameter.shape, np.float32)
            drawn *= np.float32(scale)
            parameter.array[...] = drawn
        else:
            parameter.array[...] = 0 if name.endswith("bias") else 1
