"""A batch's forward and backward pass, as the training loop takes it; captured on a GPU.

    loss = micro_steps(inputs, targets, divide_by)     gradients are added up, as always

On the processor, and plainly on a GPU, these are the lines

    loss = model.loss(inputs, targets) / divide_by
    loss.backward()

A GPU is done with a small batch sooner than Python with its launches.  There they are captured,
the second time that they are made, and from then on started by one call (tricycle_autograd.graph).
What Python does in a forward pass is done before it: ids and targets are checked and sorted here,
and go to the GPU through pinned memory.  The numbers are the same, bit for bit.

Batches of each shape have a capture of their own; and so have those that overwrite gradients and
those that add to them, and those in which another number of tokens counts.
"""

from typing import Any

import numpy as np

from tricycle_autograd import Tensor
from tricycle_autograd.arrays import is_for_kernels
from tricycle_autograd.devices import device_of
from tricycle_autograd.graph import CapturedStep
from tricycle_gpt.evaluation import IGNORED
from tricycle_gpt.model import GPT
from tricycle_gpt.runs.resuming import dropouts
from tricycle_nn import set_dropout_step
from tricycle_nn.cross_entropy import PlacedTargets, how_many_count, numbered
from tricycle_nn.dropout import dropout_step_on_gpu
from tricycle_nn.embedding import PlacedIds, checked_ids, places_of


class MicroSteps:
    """Forward and backward passes of a model.

    captured  have launches captured, where the model is on a GPU
    """

    def __init__(self, model: GPT, captured: bool):
        self.model = model
        array = model.head_weight.array
        self.captured = captured and device_of(array) == "cuda" and is_for_kernels(array)
        self.steps: dict[tuple[int, ...], CapturedStep] = {}
        self._given: tuple[Any, ...] = ()

    def __call__(self, inputs: np.ndarray, targets: np.ndarray, divide_by: float) -> Tensor:
        """The loss of a batch, divided; its gradient is added to what the parameters have.

        inputs, targets  (B, T) integers each; a target of -100 is left out
        """
        if self.captured:
            return self._captured(inputs, targets, divide_by)
        loss = self.model.loss(inputs, targets) / divide_by
        loss.backward()
        return loss.detach()

    def forget(self) -> None:
        """Give the memory of all captures back."""
        self.steps = {}

    def _captured(self, inputs, targets, divide_by):
        model, shape = self.model, inputs.shape
        table = model.token_embedding.weight
        places = places_of(checked_ids(inputs, table), len(table.array))
        positions = places_of(np.arange(shape[1]), model.config.context_window)
        answers = numbered(np.array(targets), IGNORED)
        layers = dropouts(model)
        count, step = how_many_count(answers), layers[0].step if layers else 0

        if shape not in self.steps:
            self.steps[shape] = CapturedStep(self._on_gpu, leaves=model.parameters())
        adds = any(parameter.grad is not None for parameter in model.parameters())
        self._given = shape, count, divide_by
        arrays = places, positions, answers, np.array([step], np.uint32)
        loss = self.steps[shape](*arrays, variant=(adds, count, divide_by, model.training))
        set_dropout_step(model, step + model.training)
        return Tensor(loss.copy())  # the next call writes there

    def _on_gpu(self, places, positions, answers, step):
        """Launches, and nothing else."""
        shape, count, divide_by = self._given
        ids, times = PlacedIds(shape, places), PlacedIds(shape[1:], positions)
        with dropout_step_on_gpu(step):
            loss = self.model.loss_of_placed(ids, times, PlacedTargets(answers, count)) / divide_by
            loss.backward()
        return loss.array
