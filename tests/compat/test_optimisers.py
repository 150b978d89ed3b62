"""SGD and AdamW beside torch's: fifty steps with the same gradients."""

import numpy as np
import pytest
import torch

from tricycle_nn import SGD, AdamW, Parameter, clip_scale

SHAPES = [(7, 5), (5,), (), (2, 3, 4)]


@pytest.mark.parametrize("max_norm", [None, 1.0])
@pytest.mark.parametrize(
    "ours, theirs, settings",
    [
        (SGD, torch.optim.SGD, {}),
        (SGD, torch.optim.SGD, {"momentum": 0.9}),
        (SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        (AdamW, torch.optim.AdamW, {"weight_decay": 0.0}),
        (AdamW, torch.optim.AdamW, {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    ],
)
def test_fifty_steps(ours, theirs, settings, max_norm):
    rng = np.random.default_rng(0)
    starts = [np.asarray(rng.standard_normal(shape), np.float32) for shape in SHAPES]
    our_parameters = [Parameter(start.copy()) for start in starts]
    their_parameters = [torch.nn.Parameter(torch.from_numpy(start.copy())) for start in starts]
    our_optimiser = ours(our_parameters, learning_rate=0.01, **settings)
    their_optimiser = theirs(their_parameters, lr=0.01, **settings)
    for step in range(50):
        our_optimiser.learning_rate = their_optimiser.param_groups[0]["lr"] = 0.01 / (1 + step / 9)
        for a, b in zip(our_parameters, their_parameters, strict=True):
            a.grad = np.asarray(rng.standard_normal(a.shape), np.float32)
            b.grad = torch.from_numpy(a.grad.copy())
        if max_norm is None:
            our_optimiser.step()
        else:
            our_optimiser.step(grad_scale=clip_scale(our_parameters, max_norm))
            torch.nn.utils.clip_grad_norm_(their_parameters, max_norm)
        their_optimiser.step()
        our_optimiser.zero_grad()
        for a, b in zip(our_parameters, their_parameters, strict=True):
            # torch divides by the norm + 1e-6 where it clips.
            hair = 1e-6 if max_norm is None else 2e-6
            np.testing.assert_allclose(a.array, b.detach().numpy(), rtol=hair, atol=hair)
